"""Random bytes into what strangers can reach: nothing but refusal may come of it, and nothing may be unpickled."""

from __future__ import annotations

import os
import pickle
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pympipool.transport import frames
from pympipool.transport.control_server import Connection, HandshakeError
from pympipool.transport.frames import HELLO_BYTES, MAGIC, ProtocolError, encode_frame, encode_hello

KEY = bytes(range(32))

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))
"""Random inputs of each test; see fuzz.py."""

pieces = st.lists(st.binary(max_size=80), max_size=8)
hellos = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(MAGIC.__add__),
    st.builds(lambda at, bit: flipped(encode_hello(KEY, 1, 0), at, bit), st.integers(0, 39), st.integers(0, 7)),
)


def flipped(data, at, bit):
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


class Peer:
    """A connection, and the stranger at its other end."""

    def __enter__(self):
        self.stranger, ours = socket.socketpair()
        ours.setblocking(False)
        self.connection = Connection(ours, KEY)
        return self.stranger, self.connection

    def __exit__(self, *_):
        self.stranger.close()
        self.connection.close()


@pytest.fixture(scope="module", autouse=True)
def no_unpickling():
    """Makes every unpickling in this module fail."""

    def loads(data):
        raise AssertionError(f"{bytes(data)!r} of a stranger was unpickled")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames.pickle, "loads", loads)
        yield


@settings(max_examples=EXAMPLES, deadline=None)
@given(hellos, st.booleans())
def test_whatever_a_stranger_sends_he_is_not_greeted(hello, hangs_up):
    with Peer() as (stranger, connection):
        stranger.sendall(hello)
        if hangs_up:
            stranger.close()
        try:
            while (greeting := connection.handshake()) is None:
                if not hangs_up:
                    assert len(hello) < HELLO_BYTES
                    break
        except HandshakeError:
            greeting = None
        assert greeting is None
        with pytest.raises(HandshakeError):
            connection.receive_available()


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
def test_whatever_cuts_a_stream_of_frames_has_they_arrive_in_order(data):
    sent = data.draw(st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=300)), max_size=6))
    stream = b"".join(map(encode_frame, sent))
    received = []
    with Peer() as (stranger, connection), pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames.pickle, "loads", pickle._loads)
        connection.worker = connection.rank = 0  # as if greeted
        while stream:
            cut = data.draw(st.integers(1, len(stream)))
            stranger.sendall(stream[:cut])
            stream = stream[cut:]
            received += connection.receive_available()
    assert received == sent


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_of_a_worker_gone_mad_is_refused_or_waited_for(garbage):
    with Peer() as (stranger, connection), pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames.pickle, "loads", refuse)
        connection.worker = connection.rank = 0
        stranger.sendall(garbage)
        try:
            assert connection.receive_available() == []
        except ProtocolError:
            pass


def refuse(data):
    raise pickle.UnpicklingError("no pickle")
