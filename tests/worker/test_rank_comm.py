from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pympipool._core import ring
from pympipool.worker import rank_comm
from pympipool.worker.rank_comm import PACKET_BYTES, Message, awake_until, fragments, pack, unpack

numbers = st.integers(0, (1 << 64) - 1)
parts = st.lists(st.binary(max_size=40), min_size=1, max_size=30)


def receive(packet):
    """Return a packet as it lies in the buffer of its receiver: older bytes follow it."""
    return bytearray(packet) + bytearray(b"\xff" * (PACKET_BYTES - len(packet)))


@given(st.integers(1, 5), numbers, numbers, parts, numbers, numbers)
def test_small_message_fits_into_its_packet(kind, call, tag, parts, start, until):
    packet, following = pack(Message(kind, call, tag, parts, start), until)
    assert following == ()
    message, missing = unpack(receive(packet))
    assert message == (kind, call, tag, parts, start)
    assert missing == ()
    assert awake_until(receive(packet)) == until


@pytest.mark.parametrize("size", [PACKET_BYTES - 49, PACKET_BYTES - 48, PACKET_BYTES - 47, PACKET_BYTES, 1 << 20])
def test_large_parts_follow_the_packet(size):
    part = bytes(size)
    packet, following = pack(Message(1, 2, 3, [part]))
    assert len(packet) <= PACKET_BYTES
    message, missing = unpack(receive(packet))
    assert [len(part) for part in message.parts] == [size]
    if following:
        assert following == [part]
        assert missing is message.parts
    else:
        assert message.parts == [part]


def test_maximum_number_of_parts_fits_in_every_size():
    for size in (0, 1, 1000):
        parts = [b"x" * size] * ring.PARTS_MAX
        packet, _ = pack(Message(1, 2, 3, parts))
        assert len(packet) <= PACKET_BYTES
        message, _ = unpack(receive(packet))
        assert [len(part) for part in message.parts] == [size] * ring.PARTS_MAX


def test_received_parts_are_private_and_writable():
    packet, _ = pack(Message(1, 2, 3, [b"pickle", b"buffer"]))
    arrived = receive(packet)
    message, _ = unpack(arrived)
    arrived[:] = bytes(len(arrived))
    message.parts[1][0] = ord("B")
    assert message.parts == [b"pickle", b"Buffer"]


def test_fragments_respect_the_mpi_size_limit(monkeypatch):
    monkeypatch.setattr(rank_comm, "FRAGMENT_BYTES", 4)
    assert [bytes(fragment) for fragment in fragments(b"123456789")] == [b"1234", b"5678", b"9"]
    assert list(fragments(b"")) == []
