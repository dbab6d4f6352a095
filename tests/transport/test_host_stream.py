"""Frames between master and relay: whole, in order, and each with its descriptors."""

from __future__ import annotations

import os
import random
import resource
import socket

import pytest

from pympipool.transport.host_stream import CONTROL, DATA, STDOUT, HostStream


@pytest.fixture
def sides():
    sides = [HostStream(end) for end in socket.socketpair()]
    yield sides
    for side in sides:
        side.close()


def file_with(content):
    descriptor = os.memfd_create("test")
    os.write(descriptor, content)
    return descriptor


def content_of(descriptor):
    try:
        return os.pread(descriptor, 100, 0)
    finally:
        os.close(descriptor)


def exchange(sender, receiver, count):
    """Return so many frames; what does not fit into the socket is sent as soon as the other side has read."""
    frames = []
    while len(frames) < count:
        sender.flush()
        frames += receiver.receive()
    return frames


def test_frames_of_any_size_arrive_in_order(sides):
    numbers = random.Random(3)
    sent = [(DATA, STDOUT, i, numbers.randbytes(numbers.choice([0, 1, 100, 70_000, 500_000]))) for i in range(60)]
    for frame in sent:
        sides[0].put(*frame)
    assert [frame[:4] for frame in exchange(*sides, len(sent))] == sent
    assert sides[0].waiting_bytes == 0


def test_each_frame_has_its_own_descriptors(sides):
    for i in range(40):
        files = [file_with(b"%d of %d" % (k, i)) for k in range(i % 4)]
        sides[0].put(DATA, CONTROL, i, bytes(i * 1000), files)
        for file in files:  # the stream has its own
            os.close(file)
    for i, frame in enumerate(exchange(*sides, 40)):
        assert [content_of(one) for one in frame.descriptors] == [b"%d of %d" % (k, i) for k in range(i % 4)]


@pytest.fixture
def limit_descriptors():
    """Leave room for so many more descriptors, until it is called with None."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(count):
        if count is None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            return
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + count, hard))

    yield limit
    limit(None)


def test_lost_descriptors_are_missing_in_their_frame_alone(sides, limit_descriptors):
    for i in range(3):
        file = file_with(b"%d" % i)
        sides[0].put(DATA, CONTROL, i, b"", [file])
        os.close(file)
    sides[0].put(DATA, CONTROL, 3, b"none is lost")
    sides[0].flush()
    limit_descriptors(1)
    frames = exchange(*sides, 4)
    limit_descriptors(None)
    assert [len(frame.descriptors) for frame in frames] == [1, 0, 0, 0]
    assert content_of(frames[0].descriptors[0]) == b"0"


def test_frame_after_lost_descriptors_has_its_own(sides, limit_descriptors):
    """The end of the one frame and the begin of the next are read at once."""
    files = [file_with(b"0"), file_with(b"1")]
    sides[0].put(DATA, CONTROL, 0, bytes(1_000_000), files[:1])
    sides[0].flush()
    limit_descriptors(0)
    assert sides[1].receive() == []  # a part of the frame, without its descriptor
    limit_descriptors(None)
    sides[0].put(DATA, CONTROL, 1, b"", files[1:])
    for file in files:
        os.close(file)
    first, second = exchange(*sides, 2)
    assert first.descriptors == []
    assert [content_of(one) for one in second.descriptors] == [b"1"]


def test_frames_need_few_descriptors_at_a_time(sides, limit_descriptors):
    """More workers connect before the next flush than there are descriptors for."""
    file = file_with(b"x")
    limit_descriptors(4)
    for number in range(20):
        sides[0].put(DATA, CONTROL, number, b"", [file])
    limit_descriptors(None)
    frames = exchange(*sides, 20)
    assert [content_of(one) for frame in frames for one in frame.descriptors] == [b"x"] * 20
    os.close(file)


def test_end_is_told_after_the_last_frame(sides):
    sides[0].put(DATA, STDOUT, 1, b"last")
    sides[0].flush()
    sides[0].close()
    assert [frame.data for frame in sides[1].receive()] == [b"last"]
    with pytest.raises(EOFError):
        sides[1].receive()


def test_closed_stream_leaves_no_descriptor(sides):
    reader, writer = os.pipe()
    for _ in range(3):
        sides[0].put(DATA, CONTROL, 1, b"", [writer])
    os.close(writer)
    assert os.get_blocking(reader)
    sides[0].close()
    assert os.read(reader, 1) == b""  # nobody has the other end any more
    os.close(reader)


def test_nothing_waits_after_the_end(sides):
    sides[0].put(DATA, CONTROL, 1, b"not sent")
    sides[0].close()
    assert sides[0].waiting_bytes == 0
