"""The start of the relay, where the addresses of this host cannot be found out."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading

import pytest

from pympipool.backends import relay_process
from pympipool.backends.relay_process import Relay
from pympipool.backends.spawner import LaunchRequest
from pympipool.errors import WorkerStartError
from pympipool.transport.fork_requests import pass_descriptors
from pympipool.transport.tcp import sockets
from support.unseen_listener import UnseenListener
from support.waiting import wait_until


@pytest.fixture
def request_of_worker():
    listener = UnseenListener()
    yield LaunchRequest(1, environment=listener.environment(1, 1))
    listener.close()


@pytest.fixture
def relay():
    with contextlib.closing(Relay(local_only=False)) as relay:
        yield relay


@pytest.fixture
def silent_name_server(monkeypatch):
    is_over = threading.Event()
    monkeypatch.setattr(relay_process, "own_addresses", is_over.wait)
    yield
    is_over.set()


@pytest.mark.usefixtures("silent_name_server")
def test_silent_name_server_is_told(relay, request_of_worker, monkeypatch):
    with monkeypatch.context() as patches:
        wait_until(lambda: relay.prepare(request_of_worker) or relay._is_ready)
        patches.setattr(relay_process, "START_TIMEOUT_S", 0.0)
        wait_until(lambda: relay.prepare(request_of_worker))
    with pytest.raises(WorkerStartError, match=rf"{socket.gethostname()}\) are not known.*name server.*/etc/hosts"):
        relay.environment(request_of_worker)


def test_failed_search_for_addresses_tells_why(relay, request_of_worker, monkeypatch):
    def fail():
        raise ValueError("no such thing")

    with monkeypatch.context() as patches:
        patches.setattr(relay_process, "own_addresses", fail)
        wait_until(lambda: relay.prepare(request_of_worker))
        with pytest.raises(WorkerStartError, match=r"cannot be found.*ValueError: no such thing"):
            relay.environment(request_of_worker)
    wait_until(lambda: relay.prepare(request_of_worker))
    assert relay.environment(request_of_worker)["PYMPIPOOL_TCP"]


def test_relay_that_ends_at_once_is_told(relay, request_of_worker, monkeypatch):
    def pass_late(*arguments):
        relay._process.wait()
        pass_descriptors(*arguments)

    monkeypatch.setattr(relay_process, "program_command", lambda *_: [sys.executable, "-c", ""])
    monkeypatch.setattr(relay_process, "pass_descriptors", pass_late)
    wait_until(lambda: relay.prepare(request_of_worker))
    with pytest.raises(WorkerStartError, match="does not start: it ended at once"):
        relay.environment(request_of_worker)


def test_odd_host_name_hides_no_addresses(monkeypatch):
    addresses = sockets._interface_addresses()
    monkeypatch.setattr(socket, "gethostname", lambda: "no..name")
    assert sockets.own_addresses() == [one for one in addresses if not one.startswith("127.")]
