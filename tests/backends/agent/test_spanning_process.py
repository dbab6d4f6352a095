"""A worker on several hosts as its parts tell of themselves, without processes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pympipool.backends.agent.spanning import SpanningProcess
from pympipool.transport.frames import RUNNING
from pympipool.transport.frames import STATUS as RECORD
from pympipool.transport.host_stream import STATUS, STDERR, STDOUT

COMMANDS = b"HYDRA_LAUNCH: /proxy --id 0\nHYDRA_LAUNCH: /proxy --id 1\nHYDRA_LAUNCH_END\n"


def nothing(*_):
    pass


def fail(*_):
    raise MemoryError


class Host(SimpleNamespace):
    """An agent that is connected, and answers nothing."""

    def __init__(self, name):
        super().__init__(name=name, agent_pid=1, is_connected=True, start=nothing, put=nothing, workers=[], loss="")
        self.unanswered = set()
        self.expect_answer = self.unanswered.add
        self.allocate, self.release = self.workers.append, self.workers.remove


@pytest.fixture
def places():
    return [(Host("a"), 1), (Host("b"), 1)]


@pytest.fixture
def timers():
    return []


@pytest.fixture
def worker(timers):
    agents = SimpleNamespace(
        on_answer=nothing, check_host=nothing, call_later=lambda _, function: timers.append(function)
    )
    return SpanningProcess(agents, 1, (2, 1, 0), lambda _: b"", lambda *_: b"")


def tell(part, exit_code=RUNNING):
    part.receive(STATUS, RECORD.pack(7, exit_code))


@pytest.fixture
def parts(worker, places):
    """Return mpiexec and the proxies, which run."""
    worker.begin(places)
    mpiexec, *proxies = worker._parts()
    tell(mpiexec)
    mpiexec.receive(STDOUT, COMMANDS)
    for proxy in proxies:
        tell(proxy)
    return mpiexec, *proxies


def test_lost_worker_ends_after_its_living_parts(worker, parts, timers):
    mpiexec, living, _ = parts
    worker.kill_unreachable()
    assert [worker.poll() for _ in range(3)] == [None] * 3, "its slots would be given away"
    tell(mpiexec, -15)
    tell(living, -9)
    (give_up,) = timers
    assert worker.poll() is None
    give_up()
    assert worker.poll() is not None
    assert "the agent on b" in worker._loss


def test_exit_code_is_of_the_part_that_failed(worker, parts, timers):
    mpiexec, first, second = parts
    tell(second, -11)
    (end_others,) = timers
    end_others()
    tell(first, -9)
    tell(mpiexec, -15)
    assert [worker.poll() for _ in range(3)][-1] == -11  # a record each


def test_words_of_ended_mpiexec_are_dropped(worker, parts, timers):
    mpiexec, _, second = parts
    mpiexec.receive(STDERR, b"[mpiexec@a] why it fails\n")
    tell(second, -11)
    (end_others,) = timers
    end_others()
    mpiexec.receive(STDOUT, b"of a rank\nCtrl-C caught... cleaning up processes\nof another\n")
    mpiexec.receive(STDERR, b"[mpiexec@a] main (mpiexec.c:270): error\n")
    second.receive(STDERR, b"of a rank\n[proxy:0@b] assert (!closed) failed\n")
    inboxes = worker._inboxes
    assert inboxes[STDOUT].read() == b"of a rank\nof another\n"
    assert [inboxes[STDERR].read() for _ in range(2)] == [b"[mpiexec@a] why it fails\n", b"of a rank\n"]


def test_late_ranks_are_told_what_hosts_need(worker, places):
    worker.begin(places)
    mpiexec, *_ = worker._parts()
    assert worker.pending_reason() == ": the agent on a (pid 1) has not answered"
    tell(mpiexec)
    assert worker.pending_reason() == ": mpiexec on a has not printed how its proxies are started"
    mpiexec.receive(STDOUT, COMMANDS)
    assert ": its hosts (a, b) must be able to connect to each other, on any port" in worker.pending_reason()


def test_worker_without_memory_gives_all_slots_back(worker, places):
    places[0][0].start = fail
    with pytest.raises(MemoryError):
        worker.begin(places)
    assert [host.workers for host, _ in places] == [[], []]
    places[0][0].start = nothing
    worker.begin(places)
    assert len(worker._parts()) == 3
