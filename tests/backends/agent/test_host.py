"""The master's end of the connection to an agent: without memory it ends, or nothing is sent."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from pympipool.backends.agent.host import AgentHost
from pympipool.backends.agent.process import AgentProcess
from pympipool.transport.frames import decode_body, encode_body
from pympipool.transport.host_stream import DATA, REPORT, REQUEST, STATUS, HostStream

OF_AGENT = {"pid": 1, "cores": 2, "gpus": 0, "is_joining": False, "addresses": ("10.0.0.2", "10.0.0.1")}


def fail(*_):
    raise MemoryError


@pytest.fixture
def sides():
    """Return the master's end, the loop that it uses, those that have ended, and the relay's end."""
    ours, theirs = socket.socketpair()
    relay = HostStream(theirs)
    relay.put(REPORT, 0, 0, encode_body(("report", {**OF_AGENT, "host": "a"})))
    relay.flush()
    timers, ended = [], []
    loop = SimpleNamespace(
        watch=lambda *_: None, unwatch=lambda *_: None, call_later=lambda _, function: timers.append(function)
    )
    host = AgentHost(ours, SimpleNamespace(loop=loop), ended.append)
    yield host, loop, ended, relay
    host.close()
    relay.close()


def test_cores_are_known_by_the_short_name():
    ours, theirs = socket.socketpair()
    relay = HostStream(theirs)
    report = {**OF_AGENT, "host": "a.cluster.org"}
    relay.put(REPORT, 0, 0, encode_body(("report", report)))
    relay.flush()
    loop = SimpleNamespace(watch=lambda *_: None, unwatch=lambda *_: None)
    host = AgentHost(ours, SimpleNamespace(loop=loop), print, {"a": 7})
    assert host.cores == 7
    host.close()
    relay.close()


def test_agent_is_given_up_whose_frames_are_lost(sides):
    host, _, ended, relay = sides
    host.start(SimpleNamespace(number=1, receive=fail, lose_agent=lambda: None), b"request")
    relay.put(DATA, STATUS, 1, b"record")
    relay.flush()
    with pytest.raises(MemoryError):
        host.serve()
    assert ended == [host]


def test_frame_that_cannot_be_scheduled_is_not_sent(sides, monkeypatch):
    host, loop, _, relay = sides
    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_later", fail)
        with pytest.raises(MemoryError):
            host.put(REQUEST, 0, 1, b"first")
    host.put(REQUEST, 0, 2, b"second")
    host.flush()
    assert [frame.data for frame in relay.receive()] == [b"second"]


def test_wait_sends_signal_without_loop(sides):
    host, *_, relay = sides
    process = AgentProcess(SimpleNamespace(check_host=lambda _: None), b"request", 1, 1, 0)
    process.send_to_agent(host)
    process.pid = 7
    process.kill()
    process.wait(0.1)
    *_, last = relay.receive()
    assert decode_body(last.data)[0] == "signal"


def test_what_workers_have_in_common_is_sent_once(sides):
    host, *_, relay = sides
    for number, template in enumerate([b"one", b"one", b"two", b"two", b"one"], 1):
        host.start(SimpleNamespace(number=number, lose_agent=lambda: None), template)
    host.flush()
    sent = [(frame.worker, frame.data) for frame in relay.receive()]
    fork = encode_body(("fork",))
    assert sent == [(0, b"one"), (1, fork), (2, fork), (0, b"two"), (3, fork), (4, fork), (0, b"one"), (5, fork)]
