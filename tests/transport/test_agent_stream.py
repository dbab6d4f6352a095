"""The frames between an agent and the relay: they arrive once and in order, also over several connections."""

from __future__ import annotations

import random
import socket

import pytest

from pympipool.transport.host_stream import DATA, MESSAGES, STDOUT
from pympipool.transport.tcp.agent_stream import (
    ACKNOWLEDGE_BYTES,
    SLICE_BYTES,
    WAITING_MAX_BYTES,
    AgentStream,
    Frame,
)
from pympipool.transport.tcp.stream import MessageParser, Stream, encode_head
from transport.connections import connected_streams


def connected_pair():
    """Return two ends of an encrypted connection."""
    return [stream.detach()[0] for stream in connected_streams()]


@pytest.fixture
def pair():
    """Return two sides that can be connected again; `connect` cuts what connected them before."""

    class Pair:
        def __init__(self):
            self.sides = AgentStream(), AgentStream()

        def connect(self):
            counts = [side.received_bytes for side in self.sides]
            for side, connection, count in zip(self.sides, connected_pair(), reversed(counts), strict=True):
                side.detach()
                side.attach(connection, b"", count)

    made = Pair()
    made.connect()
    yield made
    for side in made.sides:
        side.detach()


def receive_all(sender, receiver, count):
    """Return the next frames of a side."""
    frames = []
    while len(frames) < count:
        sender.flush()
        frames += receiver.receive()
    return frames


def test_frames_arrive_as_they_were_put(pair):
    one, other = pair.sides
    sent = [
        Frame(DATA, MESSAGES, number, bytes([number]) * size) for number, size in enumerate([0, 1, 500, SLICE_BYTES])
    ]
    for frame in sent:
        one.put(*frame)
    assert receive_all(one, other, len(sent)) == sent


def test_full_stream_empties_when_the_other_side_reads(pair):
    one, other = pair.sides
    count = 0
    while not one.is_full:
        one.put(DATA, STDOUT, count, bytes(SLICE_BYTES))
        one.flush()
        count += 1
    assert count > WAITING_MAX_BYTES // SLICE_BYTES
    assert [frame.worker for frame in receive_all(one, other, count)] == list(range(count))
    assert not one.is_full
    assert not one.is_waiting


@pytest.mark.parametrize("seed", range(8))
def test_each_frame_arrives_once_over_cut_connections(pair, seed):
    chance = random.Random(seed)
    sides = pair.sides
    sent, arrived = ([], []), ([], [])
    for number in range(400):
        which = chance.randrange(2)
        frame = Frame(DATA, MESSAGES, number, chance.randbytes(chance.choice([0, 3, 200, SLICE_BYTES])))
        sides[which].put(*frame)
        sent[which].append(frame)
        if chance.random() < 0.7:
            sides[which].flush()
        if chance.random() < 0.5:
            arrived[1 - which].extend(sides[1 - which].receive())
        if chance.random() < 0.05:
            pair.connect()  # what was on its way is lost
    pair.connect()
    for which in (0, 1):
        missing = len(sent[which]) - len(arrived[1 - which])
        arrived[1 - which].extend(receive_all(sides[which], sides[1 - which], missing))
        assert arrived[1 - which] == sent[which]


def test_acknowledged_frames_are_kept_no_longer(pair):
    one, other = pair.sides
    for number in range(200):
        one.put(DATA, MESSAGES, number, bytes(SLICE_BYTES))
        receive_all(one, other, 1)
        other.flush()
        list(one.receive())
    assert sum(map(len, one._segments)) < 2 * ACKNOWLEDGE_BYTES


@pytest.mark.parametrize("count", [-1, 1 << 40])
def test_wrong_count_of_the_other_side_is_refused(pair, count):
    ends = connected_pair()
    with pytest.raises(ValueError, match="cannot be"):
        pair.sides[0].attach(ends[0], b"", count)
    for end in ends:
        end.close()


@pytest.mark.parametrize("size", [1, 7, 1000, SLICE_BYTES])
def test_messages_are_the_same_in_any_slices(size):
    messages = [
        (1, 7, 3, [b"", b"x" * 100]),
        (2, 8, 0, [bytes(range(256)) * 300, b"y", b"z" * (1 << 14)]),
        (3, 9, 1, [b"w" * ((1 << 14) + 1), b"v" * 70_000]),
        (4, 10, 2, []),
        (5, 11, 0, [b"a" * 20_000, b"b" * 5, b"c" * (1 << 14)]),
        (6, 12, 0, [b"d" * 30_000, b"e"]),
    ]
    data = b"".join(
        encode_head(kind, id_, tag, [len(part) for part in parts]) + b"".join(parts)
        for kind, id_, tag, parts in messages
    )
    parser = MessageParser()
    found = [message for begin in range(0, len(data), size) for message in parser.feed(data[begin : begin + size])]
    assert [(*head, [bytes(part) for part in parts]) for *head, parts in found] == messages


def test_stream_needs_no_encryption_on_one_host():
    ends = [Stream(end) for end in socket.socketpair()]
    ends[0].send(1, 2, 3, [b"part"])
    assert ends[1].wait(60.0)
    assert ends[1].receive() == (1, 2, 3, [bytearray(b"part")])
    for end in ends:
        end.close()
