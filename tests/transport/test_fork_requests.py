"""Requests for forked workers: a template is sent once for all that have it in common."""

from __future__ import annotations

import os
import socket

import pytest

from pympipool._util.platform import HAS_SIGNALS
from pympipool.transport.fork_requests import RequestSender, read_template, receive_request

pytestmark = pytest.mark.skipif(not HAS_SIGNALS, reason="descriptors travel over Unix sockets: run on Unix")


@pytest.fixture
def connection():
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def test_equal_templates_are_sent_once(connection):
    ours, theirs = connection
    sender = RequestSender(ours)
    for template, number in ((b"one", 1), (b"one", 2), (b"x" * 1_000_000, 3), (b"one", 4)):
        sender.send(template, number, [ours.fileno()])
    ours.shutdown(socket.SHUT_WR)
    received = []
    while (request := receive_request(theirs)) is not None:
        is_template, number, descriptors = request
        if is_template:
            received.append(read_template(descriptors)[:3])
        else:
            received.append(number)
            os.close(*descriptors)
    assert received == [b"one", 1, 2, b"xxx", 3, b"one", 4]
