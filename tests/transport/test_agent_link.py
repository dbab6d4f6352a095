"""The relay's half of an agent: it sends all that there is."""

from __future__ import annotations

import os
import select
import socket
import threading
from types import SimpleNamespace

import pytest

from pympipool._core import ring
from pympipool.transport.host_stream import CONTROL, DATA, MESSAGES
from pympipool.transport.tcp import agent_stream
from pympipool.transport.tcp.agent_link import AgentLink
from pympipool.transport.tcp.agent_loop import AgentLoop
from pympipool.transport.tcp.agent_rank import AgentRank
from pympipool.transport.tcp.agent_stream import SLICE_BYTES, AgentStream
from pympipool.transport.tcp.polled_prefetch import PolledPrefetchQueue
from pympipool.transport.tcp.stream import MessageParser
from transport.connections import LIMIT_S, connected_streams, reset, tcp_pair, wait_readable


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


@pytest.fixture
def unserved():
    """Return a link that no thread serves, and the master's end of its connection."""
    loop, ends = AgentLoop(), []
    relay = SimpleNamespace(
        calls=SimpleNamespace(remove=lambda queue: None),
        offer_agent=lambda end: ends.append(end.dup()),
        remove_agent=lambda link: None,
    )
    link = AgentLink(b"name", b"", relay, loop)
    link.offer()
    yield link, *ends
    link.give_up()
    ends[0].close()
    loop.close()


def test_calls_for_closed_link_are_ignored(unserved):
    link, master = unserved
    link._master.frames.put(DATA, CONTROL, 1, b"cannot be sent any more")
    master.close()
    link.give_up()
    link.forward_calls([])
    assert link.loop._links == {}


def test_ended_worker_is_not_served_again(unserved):
    link, _ = unserved
    segment, doorbells = ring.link_segment(1 << 16), ring.doorbell_segment()
    queue = PolledPrefetchQueue(ring.Segment.attach(os.dup(segment.fileno())), doorbells)
    queue.rank = rank = AgentRank(1, link, b"")
    rank._queue, rank._has_paused, link._ranks[1] = queue, True, rank  # its answers wait for the master
    with link._lock:
        link._end(rank)
        link._after_forwarding([queue], [(queue, EOFError())])
    link.forward_calls([queue])
    assert link._queues == {}
    assert link._recalls == set()


def test_fault_of_a_worker_ends_that_worker_only(unserved, capsys):
    def fail(_):
        raise OverflowError("a run time that cannot be")

    link, _ = unserved
    ranks = [AgentRank(number, link, b"") for number in range(2)]
    link._ranks.update(enumerate(ranks))
    with link._lock:
        link._serve_rank(ranks[0], fail)
    assert link._ranks == {1: ranks[1]}
    assert "OverflowError: a run time that cannot be" in capsys.readouterr().err


def test_fault_of_a_link_ends_that_link_only(unserved, monkeypatch, capsys):
    def fail(_):
        raise OverflowError("a number that cannot be")

    link, _ = unserved
    monkeypatch.setattr(link, "_serve", fail)
    link.loop.wake(link)
    link.loop.serve_round()
    assert link.is_closed
    assert "OverflowError: a number that cannot be" in capsys.readouterr().err


def test_fault_while_forwarding_ends_that_link_only(unserved, capsys):
    def fail():
        raise MemoryError("no room for calls")

    link, _ = unserved
    link.frames.segment = fail
    link.forward_calls([])
    assert link.is_closed
    assert "MemoryError: no room for calls" in capsys.readouterr().err


def test_wait_of_centuries_is_possible(unserved):
    link, _ = unserved
    link.loop._due_s[link] = 1e10
    link.loop.wake(link)
    link.loop.serve_round()
    assert not link.is_closed


def test_failed_attachment_wakes_the_thread(unserved):
    link, _ = unserved
    link.loop._woken.clear()
    ours, theirs = connected_streams()
    ours.close()
    with pytest.raises(OSError, match=r"closed|descriptor|socket"):
        link.attach(ours, theirs, 0)
    assert link.loop._woken == [link]
    theirs.close()


# ---- lost connections ----


@pytest.fixture
def attached(unserved):
    """Return a link that no thread serves, and the agent's ends of its connection for frames and its keepalive connection."""
    link, _ = unserved
    ours, theirs = connected_streams(tcp_pair())
    keepalive, agent_keepalive = tcp_pair()
    link.attach(ours, keepalive, 0)
    theirs.receive()
    connection, _ = theirs.detach()
    link.loop.serve_round()  # it was woken
    yield link, connection, agent_keepalive
    connection.close()
    agent_keepalive.close()


def waits_for_its_agent(link):
    """Return True if a link has its agent connect again, within a limited time."""
    return not link.is_closed and link.frames.fileno() == -1 and link in link.loop._due_s


@pytest.mark.parametrize("lose", [reset, socket.socket.close])
def test_lost_frames_end_no_agent(attached, lose):
    link, connection, keepalive = attached
    lose(connection)
    link.loop.serve_round()
    assert waits_for_its_agent(link)
    keepalive.close()
    link.loop.serve_round()
    assert link.is_closed


def test_reset_of_keepalive_connection_ends_no_agent(attached):
    link, _, keepalive = attached
    reset(keepalive)
    link.loop.serve_round()
    assert waits_for_its_agent(link)


@pytest.mark.parametrize("is_served", [True, False])
def test_reset_that_sending_meets_loses_nothing(attached, is_served):
    link, connection, _ = attached
    reset(connection)
    poll = select.poll()
    poll.register(link.frames, 0)
    assert poll.poll(1000 * LIMIT_S)  # the reset has arrived
    link.frames.put(DATA, MESSAGES, 1, b"sent again")
    if is_served:
        link.serve(set())  # only to send
    else:
        link.forward_calls([])
    link.loop.wake(link)
    link.loop.serve_round()
    assert waits_for_its_agent(link)
    ours, theirs = connected_streams()
    keepalives = socket.socketpair()
    link.attach(ours, keepalives[0], 0)
    theirs.receive()
    agent = AgentStream()
    agent.attach(*theirs.detach(), 0)
    link.loop.serve_round()
    assert wait_readable(agent)
    assert [frame.data for frame in agent.receive()] == [b"sent again"]
    agent.detach()
    keepalives[1].close()
