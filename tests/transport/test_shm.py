from __future__ import annotations

import os

import pytest

from pympipool._core import ring
from pympipool._core.channel import MasterChannel
from pympipool.transport.shm import ShmLink, open_channel

LIMIT_S = 60.0


@pytest.fixture
def doorbells():
    return ring.doorbell_segment()


def copies(descriptors):
    """Return duplicates, like those that arrive in the worker."""
    return [os.dup(descriptor) for descriptor in descriptors]


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


def test_descriptor_is_closed_once():
    segment = ring.doorbell_segment()
    descriptor = segment.fileno()
    segment.close_descriptor()
    assert segment.fileno() == -1
    other = os.dup(0)
    assert other == descriptor  # the number is free
    segment.close_descriptor()
    os.close(other)


def test_messages_travel_both_ways(doorbells):
    link = ShmLink(doorbells)
    worker = open_channel(copies(link.descriptors()))
    master = MasterChannel(link.segment, doorbells)
    master.send(ring.CALL, 1, 2, [b"call"])
    assert worker.receive(LIMIT_S) == (ring.CALL, 1, 2, [b"call"])
    worker.send(ring.RESULT, 1, 3, [b"result"])
    assert master.receive(LIMIT_S) == (ring.RESULT, 1, 3, [b"result"])


def test_link_works_after_its_descriptors_are_closed(doorbells):
    before = open_descriptors()
    link = ShmLink(doorbells)
    worker = open_channel(copies(link.descriptors()))
    link.handed_over()
    assert open_descriptors() == before
    master = MasterChannel(link.segment, doorbells)
    master.send(ring.END, 0, 0, [b""])
    assert worker.receive(LIMIT_S)[0] == ring.END


@pytest.mark.parametrize("count", [0, 1, 3])
def test_wrong_number_of_descriptors_is_refused(count):
    with pytest.raises(ValueError, match=f"{count} descriptors"):
        open_channel([0] * count)


def test_segment_of_another_kind_is_refused(doorbells):
    with pytest.raises(OSError, match="no link"):
        open_channel(copies([doorbells.fileno(), doorbells.fileno()]))


def test_ordinary_file_is_refused(doorbells, tmp_path):
    with open(tmp_path / "file", "w+b") as file:
        file.write(b"x")
        file.flush()
        with pytest.raises(OSError, match="no segment"):
            open_channel(copies([file.fileno(), doorbells.fileno()]))
