"""The relay's half of an agent: it sends all that there is."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace

import pytest

from pympipool.transport.tcp import agent_stream
from pympipool.transport.tcp.agent_link import AgentLink
from pympipool.transport.tcp.agent_loop import AgentLoop
from pympipool.transport.tcp.agent_rank import AgentRank
from pympipool.transport.tcp.agent_stream import SLICE_BYTES, AgentStream
from pympipool.transport.tcp.stream import MessageParser
from transport.connections import LIMIT_S, connected_streams, wait_readable


@pytest.fixture
def served():
    """Return a link that a thread serves, a worker behind it, and the agent's side of its connection."""
    master = []
    calls = SimpleNamespace(remove=lambda rank: None)
    loop, closed = AgentLoop(), threading.Event()
    relay = SimpleNamespace(
        calls=calls, offer_agent=lambda end: master.append(end.dup()), remove_agent=lambda link: closed.set()
    )
    link = AgentLink(b"name", b"", relay, loop)
    ours, theirs = connected_streams()
    keepalives = socket.socketpair()
    link.attach(ours, keepalives[0], 0)
    theirs.receive()
    agent = AgentStream()
    agent.attach(*theirs.detach(), 0)
    link.offer()
    thread = threading.Thread(target=lambda: serve_until(loop, closed))
    thread.start()
    yield link, AgentRank(1, link, b""), agent
    agent.detach()
    keepalives[1].close()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    loop.close()
    assert link.is_closed
    for end in master:
        end.close()


def serve_until(loop, closed):
    while not closed.is_set():
        loop.serve_round()


def test_slices_go_on_when_connection_takes_all(served, monkeypatch):
    monkeypatch.setattr(agent_stream, "WAITING_MAX_BYTES", 0)  # so each slice is sent before the next one is taken
    link, rank, agent = served
    part = bytes(range(256)) * (20 * SLICE_BYTES // 256)
    with link._lock:
        rank.put(1, 2, 3, [part])
    link.loop.wake(link)
    parser, messages = MessageParser(), []
    while not messages:
        assert wait_readable(agent)
        for frame in agent.receive():  # acknowledged, but that is not sent
            messages += parser.feed(frame.data)
    assert [bytes(arrived) for arrived in messages[0][3]] == [part]
