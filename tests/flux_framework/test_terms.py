"""Nodes, queue, time and files of workers, as the real flux sees them."""

from __future__ import annotations

import json
import os
import socket

import pytest

from pympipool import Executor
from pympipool.backends.flux import availability
from pympipool.errors import WorkerDied, WorkerStartError
from pympipool.resources.request import DURATION_MARGIN_S
from support.calls import hold, square

pytestmark = pytest.mark.usefixtures("job_each")

MODES = pytest.mark.parametrize("block_allocation", [True, False], ids=["block_allocation", "single"])

LIMITED = """
[policy.limits]
duration = "5m"
"""

QUEUES = """
[queues.debug]
[queues.large]
[policy.jobspec.defaults.system]
queue = "debug"
"""


@pytest.fixture
def make_executor(opened):
    def make(max_cores=1, **parameters):
        opened.append(Executor(**{"max_cores": max_cores, "backend": "flux", **parameters}))
        return opened[-1]

    return make


@pytest.fixture(scope="module")
def _limited(make_instance):
    return make_instance(1, 2, LIMITED)


@pytest.fixture
def limited(_limited, monkeypatch):
    """An instance that limits the time of jobs, and has no default."""
    monkeypatch.setenv("FLUX_URI", _limited.uri)
    return _limited


@pytest.fixture
def held(make_executor, gate):
    """Return a function that starts a call with these parameters, and returns the jobspec of its job."""

    def start(instance, **parameters):
        make_executor(**parameters).submit(hold, gate.path)
        gate.wait_until_begun()
        (job,) = instance.wait_for_jobs("R")
        return json.loads(instance.run("job", "info", job, "jobspec"))

    yield start
    gate.open()


def system_of(jobspec):
    return jobspec["attributes"]["system"]


# ---- time ----


def test_run_time_max_is_duration_of_job(one_broker, held):
    assert system_of(held(one_broker, run_time_max=30, connect_timeout=20))["duration"] == 50 + DURATION_MARGIN_S


@MODES
def test_time_limit_wins_over_run_time_max(one_broker, held, block_allocation):
    parameters = {"block_allocation": block_allocation, "run_time_max": 30, "time_limit": 301}
    assert system_of(held(one_broker, **parameters))["duration"] == 301


@MODES
def test_instance_with_limit_runs_calls(limited, make_executor, block_allocation):
    exe = make_executor(block_allocation=block_allocation)
    assert list(exe.map(square, range(3))) == [0, 1, 4]


@pytest.mark.parametrize("parameters", [{}, {"run_time_max": 3600}, {"block_allocation": True, "run_time_max": 1}])
def test_duration_is_cut_to_limit(limited, held, parameters):
    assert system_of(held(limited, **parameters))["duration"] == 300


@MODES
def test_time_limit_beyond_policy_is_refused(limited, make_executor, block_allocation):
    call = make_executor(time_limit=3600, block_allocation=block_allocation).submit(square, 1)
    with pytest.raises(WorkerStartError, match="exceeds policy limit"):
        call.result(timeout=60)


@MODES
def test_worker_ends_at_its_time_limit(one_broker, make_executor, gate, block_allocation):
    exe = make_executor(time_limit=4, block_allocation=block_allocation)
    call = exe.submit(hold, gate.path)
    with pytest.raises(WorkerDied, match="timeout: resource allocation expired"):
        call.result(timeout=60)
    assert exe.submit(square, 3).result() == 9


@MODES
def test_run_time_max_ends_before_the_job(one_broker, make_executor, gate, block_allocation):
    exe = make_executor(run_time_max=0.5, block_allocation=block_allocation)
    with pytest.raises(TimeoutError, match="run_time_max"):
        exe.submit(hold, gate.path).result(timeout=60)
    assert exe.submit(square, 3).result() == 9


# ---- queue ----


def test_queue_bank_and_urgency_are_of_job(make_instance, monkeypatch, make_executor, gate):
    instance = make_instance(1, 2, QUEUES)
    monkeypatch.setenv("FLUX_URI", instance.uri)
    instance.run("queue", "start", "--all")
    call = make_executor(partition="large", account="physics", priority=20).submit(hold, gate.path, 5)
    gate.wait_until_begun()
    (job,) = instance.wait_for_jobs("R")
    assert instance.run("jobs", "-no", "{queue} {bank} {urgency}", job).split() == ["large", "physics", "20"]
    gate.open()
    assert call.result() == 5


def test_urgent_calls_pass_those_in_queue(one_broker, make_executor, gate):
    exe = make_executor(3 * one_broker.cores, threads_per_core=one_broker.cores)
    first = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    later = exe.submit(hold, gate.path)
    one_broker.wait_for_jobs("S")
    urgent = exe.submit(hold, gate.path, resource_dict={"priority": 31})
    one_broker.wait_for_jobs("S", 2)
    gate.open()
    first.result()
    gate.wait_until_begun()
    gate.open()
    urgent.result()
    assert not later.done()
    gate.wait_until_begun()
    gate.open()
    later.result()


def test_urgency_reaches_a_flux_executor(one_broker, make_executor, flux_executor):
    exe = make_executor(priority=17, executor=flux_executor)
    job = exe.submit(os.getenv, "FLUX_JOB_ID").result()
    assert one_broker.run("jobs", "-ano", "{urgency}", job).strip() == "17"


# ---- nodes ----


@MODES
@pytest.mark.mpi
def test_ranks_are_spread_over_nodes(two_brokers, held, block_allocation):
    parameters = {"max_cores": 2, "num_nodes": 2, "cores_per_worker": 2, "block_allocation": block_allocation}
    held(two_brokers, **parameters)
    (job,) = two_brokers.wait_for_jobs("R")
    assert two_brokers.run("jobs", "-no", "{nnodes} {ncores}", job).split() == ["2", "2"]


@MODES
def test_exclusive_job_has_whole_node(two_brokers, held, block_allocation):
    held(two_brokers, exclusive=True, block_allocation=block_allocation)
    (job,) = two_brokers.wait_for_jobs("R")
    assert two_brokers.run("jobs", "-no", "{nnodes} {ncores}", job).split() == ["1", str(two_brokers.cores)]


def test_hosts_are_compared_by_name(one_broker, monkeypatch):
    assert availability.is_on_one_host()
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert not availability.is_on_one_host()


# ---- files ----


def speak():
    print("a line")
    os.write(2, b"a complaint\n")


@MODES
def test_output_goes_to_flux_log_files(instance, make_executor, tmp_path, capfd, block_allocation):
    exe = make_executor(flux_log_files=True, cwd=tmp_path, block_allocation=block_allocation)
    exe.submit(speak).result()
    exe.shutdown()
    assert (tmp_path / "flux_1.out").read_text() == "a line\n"
    assert (tmp_path / "flux_1.err").read_text() == "a complaint\n"
    assert capfd.readouterr() == ("", "")


# ---- instances of workers ----


def of_inner_executor():
    from pympipool import Executor

    with Executor(max_workers=1, backend="flux") as inner:
        return os.environ["FLUX_URI"], inner.info["backend"], inner.submit(os.getenv, "FLUX_URI").result()


@MODES
def test_calls_submit_to_instance_of_worker(one_broker, make_executor, capfd, block_allocation):
    """Without an instance of its own, the job of the inner call would wait for ever: the outer call has all cores."""
    exe = make_executor(None, executor_nesting=True, threads_per_core=8, block_allocation=block_allocation)
    outer, backend, inner = exe.submit(of_inner_executor).result(timeout=120)
    assert (backend, inner) == ("flux", outer)
    assert outer != one_broker.uri
    exe.shutdown()
    assert not os.path.exists(outer.removeprefix("local://"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"priority": 32}, "priority is 32; with flux it is the urgency of a job, at most 31"),
        ({"executor_nesting": True, "cores_per_worker": 2}, "executor_nesting is True with 2 cores"),
        ({"num_nodes": 2}, "each node needs at least one rank"),
    ],
)
def test_wrong_terms_are_refused_at_once(one_broker, make_executor, parameters, says):
    with pytest.raises(ValueError, match=says):
        make_executor(2, **parameters)
