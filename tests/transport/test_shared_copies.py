"""Shared data on other hosts, between the relay and ranks for which the test is the master."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from pympipool import serialization
from pympipool._core.shared_memory import Mapping, Owner
from pympipool.errors import SerializationError
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.tcp.client import TcpControl
from pympipool.transport.tcp.handshake import DATA_MAGIC, TOKEN_BYTES
from pympipool.transport.tcp.shared_source import PIECE_BYTES
from pympipool.transport.tcp.stream import WANTED
from support.loopback_tcp import UNREACHABLE_ADDRESS
from support.waiting import LIMIT_S, wait_until
from transport.connections import accept_from, wait_readable

KEY = b"k" * 16
LARGE = bytes(64 << 20)
"""More than fits into the buffers of a connection."""


class Rank:
    """A rank of another host, and the master's end of its control connection."""

    def __init__(self, address, key, listener, number):
        config = WorkerConfig(UNREACHABLE_ADDRESS, key, 1, 1, "", tcp_addresses=[":".join(map(str, address))])
        self.control = TcpControl.connect(config)
        self.control.send_hello(config, number)
        self.master = accept_from(listener)
        wait_until(self.master.handshake)
        self.master.send(("setup", {"direct_output": False}))
        self.control.receive_setup()
        self.copies = self.control._copies
        self._thread = ThreadPoolExecutor(1)

    def request(self, key=KEY):
        return self._thread.submit(self.control.request_shared, key)

    def answer(self, mapping=None):
        """Answer the relay's question as the master does."""
        assert wait_readable(self.master)
        assert self.master.receive_available() == [("shared", KEY)]
        self.master.send(("shared", mapping is not None), () if mapping is None else (mapping.fileno(),))

    def get(self, mapping):
        """Return the memory that the rank gets."""
        requested = self.request()
        self.answer(mapping)
        return Mapping.attach(requested.result(LIMIT_S))

    def close(self):
        self.control._stream.close()
        self.control._keepalive.close()
        self.master.close()
        self.copies._hang_up()
        self._thread.shutdown()


@pytest.fixture
def ranks(relay, listener):
    """Two ranks of the same host."""
    ranks = [Rank(*relay, listener, number) for number in (1, 2)]
    yield ranks
    for rank in ranks:
        rank.close()
    serialization.ended_keys.clear()


def inode_of(descriptor):
    return os.fstat(descriptor).st_ino


def receive_all(stream):
    while stream.received_bytes < len(LARGE):
        stream.receive()


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 64, PIECE_BYTES, 3 * PIECE_BYTES + 5])
def test_data_arrive_whole(ranks, size):
    data = os.urandom(size)
    with_parts = Mapping.store([data, b"second part"])
    assert [bytes(part) for part in ranks[0].get(with_parts).parts()] == [data, b"second part"]


def test_second_rank_maps_memory_of_first(ranks):
    first, second = ranks
    mapping = Mapping.store([b"data"])
    first.get(mapping)
    descriptor = second.request().result(LIMIT_S)  # the master is not asked again
    assert inode_of(descriptor) == inode_of(first.copies._held[KEY]) != inode_of(mapping.fileno())
    assert bytes(Mapping.attach(descriptor).parts()[0]) == b"data"


def test_memory_that_cannot_be_opened_comes_again(ranks, tmp_path):
    first, second = ranks
    first.get(Mapping.store([b"data"]))
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # to open it for reading would block
    os.dup2(pipe, first.copies._held[KEY])
    os.close(pipe)
    assert bytes(Mapping.attach(second.request().result(LIMIT_S)).parts()[0]) == b"data"


def test_data_are_found_where_a_rank_lives(ranks, relay, listener):
    first, second = ranks
    first.get(Mapping.store([b"data"]))
    os.close(second.request().result(LIMIT_S))
    inode = inode_of(second.copies._held[KEY])
    first.copies._hang_up()
    third = Rank(*relay, listener, 3)
    descriptor = third.request().result(LIMIT_S)
    assert inode_of(descriptor) == inode
    os.close(descriptor)
    third.close()


@pytest.mark.parametrize("ends", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_rank_that_stops_getting_stops_no_other(ranks, ends):
    first, second = ranks
    stream = first.copies._connect()
    stream.send(WANTED, 0, 0, [KEY, b"host", b""])
    first.answer(Mapping.store([LARGE]))
    assert stream.wait(LIMIT_S)
    second.copies._host = b"host"
    requested = second.request()
    if ends:
        wait_until(lambda: second.copies._stream is not None)
        stream.close()
    assert len(Mapping.attach(requested.result(LIMIT_S)).parts()[0]) == len(LARGE)
    stream.close()


def test_released_data_are_not_given(ranks):
    requested = ranks[0].request()
    ranks[0].answer()
    assert requested.result(LIMIT_S) is None


def test_reason_of_relay_arrives(ranks):
    requested = ranks[0].request()
    with open("/dev/zero") as other:
        ranks[0].answer(other)
    with pytest.raises(
        SerializationError, match=r"the relay beside the script cannot map shared data: .*Invalid argument"
    ):
        requested.result(LIMIT_S)


def test_ranks_are_told_of_end(ranks):
    first, second = ranks
    mapping = Mapping.store([b"data"])
    owner = Owner(mapping)
    first.get(mapping)
    os.close(second.request().result(LIMIT_S))
    kept = [rank.copies._held[KEY] for rank in ranks]
    del owner
    for rank in ranks:
        wait_until(lambda rank=rank: rank.control.drop_released() or not rank.copies._held)
    for descriptor in kept:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    requested = first.request()
    first.answer()  # the relay has forgotten them: it asks again
    assert requested.result(LIMIT_S) is None


def test_data_released_on_the_way_arrive_and_end(ranks):
    rank = ranks[0]
    mapping = Mapping.store([LARGE])
    owner = Owner(mapping)
    stream = rank.copies._stream = rank.copies._connect()
    requested = rank.request()
    rank.answer(mapping)
    assert stream.wait(LIMIT_S)
    del owner
    assert len(Mapping.attach(requested.result(LIMIT_S)).parts()[0]) == len(LARGE)
    wait_until(lambda: rank.control.drop_released() or not rank.copies._held)


def test_lost_connection_is_opened_again(ranks):
    rank = ranks[0]
    rank.get(Mapping.store([b"data"]))
    rank.copies._stream.hang_up()
    assert bytes(rank.get(Mapping.store([b"more"])).parts()[0]) in (b"data", b"more")
    assert list(rank.copies._held) == [KEY]
    rank.copies._stream.hang_up()
    rank.control.drop_released()
    assert rank.copies._held == {}


def test_data_come_again_if_connection_is_cut(ranks, monkeypatch):
    rank = ranks[0]
    receive = rank.copies._receive

    def cut_once(stream):
        monkeypatch.undo()
        stream.hang_up()
        return receive(stream)

    monkeypatch.setattr(rank.copies, "_receive", cut_once)
    requested = rank.request()
    rank.answer(Mapping.store([LARGE]))
    rank.answer(Mapping.store([LARGE]))
    assert len(Mapping.attach(requested.result(LIMIT_S)).parts()[0]) == len(LARGE)


def test_relay_that_is_gone_is_named(ranks):
    rank = ranks[0]
    rank.copies._connect = refuse
    with pytest.raises(SerializationError, match="cannot get shared data from the host of the script: refused"):
        rank.request().result(LIMIT_S)


def refuse():
    raise ConnectionRefusedError("refused")


def test_unknown_token_gets_nothing(relay):
    address, _ = relay
    with socket.create_connection(address, LIMIT_S) as peer:
        peer.sendall(DATA_MAGIC + bytes(TOKEN_BYTES))
        assert peer.recv(1) == b""


def test_relay_sends_no_more_to_lost_rank(ranks):
    rank = ranks[0]
    stream = rank.copies._connect()
    stream.send(WANTED, 0, 0, [KEY, b"host", b""])
    rank.answer(Mapping.store([LARGE]))
    assert stream.wait(LIMIT_S)
    rank.master.close()
    assert rank.control._stream.wait(LIMIT_S)  # its end
    with pytest.raises((EOFError, OSError)):
        receive_all(stream)
    stream.close()


def test_relay_hangs_up_with_rank(ranks):
    rank = ranks[0]
    rank.get(Mapping.store([b"data"]))
    rank.master.close()
    assert rank.copies._stream.wait(LIMIT_S)
    rank.copies._read_notices()
    assert rank.copies._stream is None
