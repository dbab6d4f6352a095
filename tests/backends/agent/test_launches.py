"""The launches of agents: what becomes of hosts whose agent does not come."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from pympipool.backends.agent import launch
from pympipool.backends.agent.launches import Launches


class Launcher:
    """Starts agents on three hosts with one process, which goes on."""

    cores_variable = name_variable = ""
    hosts = None
    host_count = 3

    def start(self, request, environment, hosts):
        nothing = dict.fromkeys(["poll", "on_connected", "kill", "close"], lambda: None)
        streams = {"stdout": io.BytesIO(), "stderr": io.BytesIO(b"cores are bound\n")}
        self.process = SimpleNamespace(**nothing, has_started=lambda: True, wait=lambda _: None, **streams)
        return self.process

    def environment(self, environment):
        return environment


@pytest.fixture
def launches(monkeypatch):
    monkeypatch.setattr("pympipool.backends.agent.launches.worker_environment", lambda _: {})
    monkeypatch.setattr("pympipool.backends.agent.launches.replace", lambda request, **_: request)
    made = Launches(Launcher(), SimpleNamespace(pid=1, environment=lambda _: {}))
    assert made.start_missing(None, []) == []
    return made


def test_hosts_without_an_agent_are_told_once(launches, monkeypatch):
    launches.agent_connected("a")
    launches.agent_connected("b")
    assert launches.incomplete() == "", "the third may come"
    monkeypatch.setattr(launch, "LAUNCH_TIMEOUT_S", -1.0)
    assert launches.incomplete() == "2 of 3 hosts have an agent (a, b)"
    assert launches.incomplete() == ""


def test_nothing_is_told_if_all_hosts_have_one(launches, monkeypatch):
    monkeypatch.setattr(launch, "LAUNCH_TIMEOUT_S", -1.0)
    assert launches.incomplete() == "", "none has come: that is a failure of the launch"
    for host in "abc":
        launches.agent_connected(host)
    assert launches.incomplete() == ""


def test_end_of_a_launcher_is_told(launches):
    launches.agent_connected("a")
    assert launches.last_words() == "says: cores are bound"
    launches._launcher.process.poll = lambda: -9
    assert launches.last_words() == "died of SIGKILL; says: cores are bound"
    assert launches.check() == []
    assert launches.last_words() == "died of SIGKILL; says: cores are bound"


def test_launch_of_an_earlier_relay_fails_nothing(launches):
    launches._launcher.process.poll = lambda: 1
    launches._relay.pid = 2
    assert launches.check() == []
    assert launches.start_missing(None, []) == []
    assert [one.relay_pid for one in launches._launches] == [2], "and nothing delays the next launch"
