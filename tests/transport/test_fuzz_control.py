"""Random bytes sent to the control connection: they are refused, and nothing is unpickled before the handshake."""

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

hellos = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(MAGIC.__add__),
    st.builds(lambda at, bit: flipped(encode_hello(KEY, 1, 0), at, bit), st.integers(0, 39), st.integers(0, 7)),
)


def flipped(data, at, bit):
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


class ConnectedPair:
    """A peer, and the master's end of its connection."""

    def __enter__(self):
        self.peer, ours = socket.socketpair()
        ours.setblocking(False)
        self.connection = Connection(ours, KEY)
        return self.peer, self.connection

    def __exit__(self, *_):
        self.peer.close()
        self.connection.close()


@pytest.fixture(scope="module", autouse=True)
def no_unpickling():
    """Make every unpickling in this module fail."""

    def loads(data):
        raise AssertionError(f"{bytes(data)!r} of an unauthenticated peer was unpickled")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames.pickle, "loads", loads)
        yield


@settings(max_examples=EXAMPLES, deadline=None)
@given(hellos, st.booleans())
def test_random_hello_never_passes_the_handshake(hello, hangs_up):
    with ConnectedPair() as (peer, connection):
        peer.sendall(hello)
        if hangs_up:
            peer.close()
        try:
            while (answer := connection.handshake()) is None:
                if not hangs_up:
                    assert len(hello) < HELLO_BYTES
                    break
        except HandshakeError:
            answer = None
        assert answer is None
        with pytest.raises(HandshakeError):
            connection.receive_available()


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
@pytest.mark.slow
def test_frames_cut_anywhere_arrive_in_order(data):
    sent = data.draw(st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=300)), max_size=6))
    stream = b"".join(map(encode_frame, sent))
    received = []
    with ConnectedPair() as (peer, connection), pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames.pickle, "loads", pickle._loads)
        connection.worker = connection.rank = 0  # as after the handshake
        while stream:
            cut = data.draw(st.integers(1, len(stream)))
            peer.sendall(stream[:cut])
            stream = stream[cut:]
            received += connection.receive_available()
    assert received == sent


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_from_an_authenticated_peer_is_refused(garbage):
    with ConnectedPair() as (peer, connection), pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames.pickle, "loads", refuse)
        connection.worker = connection.rank = 0
        peer.sendall(garbage)
        try:
            assert connection.receive_available() == []
        except ProtocolError:
            pass


def refuse(data):
    raise pickle.UnpicklingError("no pickle")
