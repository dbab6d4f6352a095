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
    job_hosts = ()

    def __init__(self):
        self.launched = []

    def start(self, request, environment, hosts):
        self.launched.append(hosts)
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
    assert launches.incomplete() == "2 of 3 hosts have an agent (a, b): workers run on these only"
    assert launches.incomplete() == ""


def test_nothing_is_told_if_all_hosts_have_one(launches, monkeypatch):
    monkeypatch.setattr(launch, "LAUNCH_TIMEOUT_S", -1.0)
    assert launches.incomplete() == "", "none has come: that is a failure of the launch"
    for host in "abc":
        launches.agent_connected(host)
    assert launches.incomplete() == ""


def test_host_without_an_agent_is_launched_again(launches, monkeypatch):
    launches._launcher.job_hosts = ["a", "b", "c"]
    launches.agent_connected("a")
    launches.agent_connected("b")
    launches.start_missing(None, ["a", "b"])
    assert launches._launcher.launched == [None], "the third may come"
    monkeypatch.setattr(launch, "LAUNCH_TIMEOUT_S", -1.0)
    launches.start_missing(None, ["a", "b"])
    assert launches._launcher.launched == [None, ["c"]]
    assert launches.incomplete().endswith("run on these only, until another launch brings one on c")
    (failure,) = launches.check()
    assert "no agent has connected from c within" in str(failure.error)
    launches.start_missing(None, ["a"])
    assert launches._launcher.launched == [None, ["c"], ["b"]], "that of c waits for the pause, and delays no other"
    launches._pauses["c"]._seconds = 0.0
    launches.start_missing(None, ["a", "b"])
    assert launches._launcher.launched[3:] == [["c"]]
    launches.agent_connected("c")
    launches.start_missing(None, ["a", "b", "c"])
    assert len(launches._launcher.launched) == 4


def test_host_that_ends_a_launch_delays_no_other(launches):
    launches._launcher.job_hosts = ["a", "b", "c"]
    launches.agent_connected("a")
    launches.agent_connected("b")
    launches._launcher.process.poll = lambda: 1
    launches._launcher.process.launch_failure = lambda _: "no connection to c"
    launches._launcher.process.outage = launches._launcher.process.failed_permanently = lambda _: None
    assert launches.check() == [], "it has brought agents"
    launches.start_missing(None, [])
    assert launches._launcher.launched == [None, ["a", "b"]], "which end with it"
    launches._pauses["c"]._seconds = 0.0
    launches.start_missing(None, [])
    assert launches._launcher.launched[2:] == [["c"]]


def test_pause_grows_with_each_failure(launches, monkeypatch):
    monkeypatch.setattr(launch, "LAUNCH_TIMEOUT_S", -1.0)
    pauses = []
    for _ in range(8):
        launches.check()
        pauses.append(launches._pauses[""]._seconds)
        launches._start(None, None)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


def test_agents_of_other_names_are_no_missing_hosts(launches, monkeypatch):
    launches._launcher.job_hosts = ["node1", "node2", "node3"]
    for host in "abc":
        launches.agent_connected(host)
    monkeypatch.setattr(launch, "LAUNCH_TIMEOUT_S", -1.0)
    launches.start_missing(None, ["a", "b", "c"])
    assert launches._launcher.launched == [None]


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
