"""The threads that serve agents: none is chosen that does not run, and nothing is left of an agent that cannot be served."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.tcp.agent_loop import AgentLoop, AgentLoops
from pympipool.transport.tcp.call_forwarder import CallForwarder
from pympipool.transport.tcp.relay import Relay
from transport.connections import connected_streams


def test_loop_without_thread_gets_no_agents(monkeypatch):
    def fail(loop):
        raise RuntimeError("can't start new thread")

    running = []

    def start(loop):
        running.append(loop)

    loops = AgentLoops()
    monkeypatch.setattr(AgentLoop, "start", fail)
    with pytest.raises(RuntimeError):
        loops.choose()
    monkeypatch.setattr(AgentLoop, "start", start)
    first = loops.choose()
    assert running == [first]
    monkeypatch.setattr(AgentLoop, "start", fail)
    assert loops.choose() is first
    first.close()


class Full(AgentLoop):
    """A loop that can watch no further descriptor."""

    def watch(self, descriptor, link):
        raise OSError("no room")


@pytest.mark.parametrize("kind", [AgentLoop, Full])
def test_nothing_is_left_of_unattached_agent(kind, monkeypatch):
    ends, keepalives, (ours, theirs) = socket.socketpair(), socket.socketpair(), connected_streams()
    ours.close()
    relay = Relay(WorkerConfig("@nowhere", bytes(32), 1, 1, ""), socket.create_server(("127.0.0.1", 0)), ends[0])
    loop = kind()
    loop.link_count = 1
    monkeypatch.setattr(relay._loops, "choose", lambda: loop)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=r"no room|descriptor|closed|socket"):
        relay._attach_agent(ours, keepalives[0], (0, 0, 0, (b"report", b"")))
    assert (loop.link_count, loop._links, relay._agents) == (0, {}, {})
    assert len(os.listdir("/proc/self/fd")) <= before
    for end in (*ends, *keepalives, theirs, loop, relay._listener, relay._wake_receiver, relay._wake_sender):
        end.close()


@pytest.mark.parametrize(("kind", "work"), [(AgentLoop, "serve_round"), (CallForwarder, "_forward")])
def test_relay_that_ends_by_a_fault_tells_it(kind, work, monkeypatch, capsys):
    def fail(*_):
        raise OverflowError("timeout is too large")

    codes: list[int] = []
    monkeypatch.setattr(kind, work, fail)
    monkeypatch.setattr(os, "_exit", codes.append)
    thread = kind()
    thread._run(*[None] * (kind is CallForwarder))
    assert codes == [1]
    assert "OverflowError: timeout is too large" in capsys.readouterr().err
    monkeypatch.setattr(sys, "excepthook", fail)
    with pytest.raises(OverflowError):
        thread._run(*[None] * (kind is CallForwarder))
    assert codes == [1, 1]
    if kind is AgentLoop:
        thread.close()
