"""A worker behind an agent: descriptors that come with invalid settings are closed."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from pympipool.transport.frames import encode_body
from pympipool.transport.tcp.agent_rank import AgentRank
from pympipool.transport.tcp.call_forwarder import CallForwarder


@pytest.mark.parametrize(
    ("word", "count"), [("setup", 0), ("setup", 1), ("setup", 2), ("setup", 3), ("other", 2), (None, 2)]
)
def test_descriptors_of_invalid_settings_are_closed(word, count):
    rank = AgentRank(1, SimpleNamespace(calls=CallForwarder()), b"")
    descriptors = [os.memfd_create("no link") for _ in range(count)]
    inodes = [os.fstat(descriptor).st_ino for descriptor in descriptors]
    numbers = list(descriptors)
    with pytest.raises((OSError, EOFError, ValueError)):
        rank.take_frame(b"" if word is None else encode_body((word,)), descriptors)
    for number, inode in zip(numbers, inodes, strict=True):
        try:
            assert os.fstat(number).st_ino != inode
        except OSError:
            pass  # it is closed
