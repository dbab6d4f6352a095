"""Nodes, queue and time of workers, as the real SLURM sees them."""

from __future__ import annotations

import os
import socket

import pytest

from pympipool import Executor
from pympipool.errors import WorkerDied, WorkerStartError
from support.calls import hold, square
from support.slurm_cluster import LONG, MODES
from support.waiting import wait_until


@pytest.fixture
def short_partition(cluster):
    """Make a partition that allows two minutes."""
    cluster.run("scontrol", "create", "PartitionName=short", "Nodes=ALL", "MaxTime=2")
    yield "short"
    wait_until(lambda: cluster.run("squeue", "--noheader", "--partition=short") == "")
    cluster.run("scontrol", "delete", "PartitionName=short")


@pytest.fixture
def make_executor(short_partition, opened):
    def make(max_cores=1, **parameters):
        opened.append(Executor(**{"max_cores": max_cores, "backend": "slurm", **parameters}))
        return opened[-1]

    return make


def step_of_call():
    return os.environ["SLURM_JOB_ID"], os.environ["SLURM_STEP_ID"]


def host():
    return socket.gethostname()


def of_job(cluster, step, form):
    """Return what squeue says of the job of a step, such as %l: its time limit."""
    return cluster.run("squeue", "--noheader", f"--jobs={step[0]}", f"--format={form}").split()


def of_step(cluster, step):
    """Return a step as scontrol shows it."""
    words = cluster.run("scontrol", "show", "step", ".".join(step)).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


@pytest.fixture
def held(cluster, make_executor, gate):
    """Return a function that starts a call with these parameters, and returns the ids of its step while it runs."""

    def start(**parameters):
        exe = make_executor(**parameters)
        exe.submit(hold, gate.path)
        gate.wait_until_begun()
        (worker,) = exe.info["workers"]
        name = cluster.run("squeue", "--noheader", "--steps", "--format=%i %j").split()
        ids = [one for one, job in zip(name[::2], name[1::2], strict=True) if job.startswith("pympipool-")]
        assert len(ids) == 1, (worker, name)
        return tuple(ids[0].split("."))

    yield start
    gate.open(9)


# ---- outside of a job ----


@MODES
def test_job_has_partition_account_and_priority(held, cluster, short_partition, block_allocation):
    step = held(block_allocation=block_allocation, partition=short_partition, account="physics", priority=77)
    assert of_job(cluster, step, "%P %a %Q %l") == ["short", "physics", "77", "2:00"]


@pytest.mark.parametrize(("seconds", "limit"), [(30, "3:00"), (1e9, "UNLIMITED")])
def test_run_time_max_is_time_of_job(held, cluster, seconds, limit):
    assert of_job(cluster, held(run_time_max=seconds), "%l") == [limit]


def test_run_time_max_is_cut_to_partition(held, cluster, short_partition):
    step = held(partition=short_partition, run_time_max=3600)
    assert of_job(cluster, step, "%l") == ["2:00"]


@MODES
def test_time_limit_wins_over_run_time_max(held, cluster, block_allocation):
    step = held(block_allocation=block_allocation, run_time_max=30, time_limit=301)
    assert of_job(cluster, step, "%l") == ["6:00"]


def test_run_time_max_leaves_blocks_alone(held, cluster):
    step = held(block_allocation=True, run_time_max=30)
    assert of_job(cluster, step, "%l") == ["UNLIMITED"]


@MODES
def test_exclusive_job_has_whole_node(held, cluster, block_allocation):
    step = held(block_allocation=block_allocation, exclusive=True)
    assert of_job(cluster, step, "%C") == ["8"]


def test_time_limit_beyond_partition_is_refused(make_executor, short_partition):
    call = make_executor(partition=short_partition, time_limit=3600).submit(square, 1)
    with pytest.raises(WorkerStartError, match="Requested time limit is invalid"):
        call.result(timeout=60)


@MODES
def test_job_that_never_starts_fails(make_executor, cluster, short_partition, block_allocation):
    everything = cluster.allocate()
    try:
        call = make_executor(partition=short_partition, time_limit=120, block_allocation=block_allocation).submit(
            square, 1
        )
        wait_until(lambda: "PENDING" in cluster.run("squeue", "--noheader", "--partition=short", "--format=%T"))
        cluster.run("scontrol", "update", "PartitionName=short", "MaxTime=1")
        with pytest.raises(WorkerStartError, match=r"will never start .*\(PartitionTimeLimit\).*smaller time_limit"):
            call.result(timeout=60)
    finally:
        cluster.run("scancel", everything)


# ---- inside a job ----


@pytest.mark.parametrize(("name", "value"), [("partition", "short"), ("account", "physics"), ("priority", 3)])
@MODES
def test_parameter_of_jobs_is_refused_in_job(make_executor, job, name, value, block_allocation):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; this script runs in job {job} of SLURM"):
        make_executor(**{name: value}, block_allocation=block_allocation)
    with pytest.raises(ValueError, match=f"which have the {name} of the job: give it to sbatch or salloc"):
        make_executor().submit(square, 1, resource_dict={name: value})


@pytest.mark.parametrize(
    ("parameters", "limit"),
    [({"run_time_max": 30}, "00:03:00"), ({"run_time_max": 30, "time_limit": 61}, "00:02:00"), ({}, "UNLIMITED")],
)
def test_run_time_max_is_time_of_step(held, cluster, job, parameters, limit):
    assert of_step(cluster, held(**parameters, mp_context="spawn"))["TimeLimit"] == limit


@MODES
def test_time_limit_is_that_of_step(held, cluster, job, block_allocation):
    step = held(block_allocation=block_allocation, time_limit=61)
    assert of_step(cluster, step)["TimeLimit"] == "00:02:00"


@MODES
def test_exclusive_step_has_whole_node(held, cluster, job, block_allocation):
    step = of_step(cluster, held(block_allocation=block_allocation, exclusive=True))
    assert (step["Nodes"], step["CPUs"]) == ("1", "8")


@MODES
@pytest.mark.mpi
def test_ranks_are_spread_over_nodes(make_executor, job, second_host, block_allocation):
    exe = make_executor(4, cores_per_worker=4, num_nodes=2, block_allocation=block_allocation)
    hosts = exe.submit(host).result()
    assert sorted(map(hosts.count, set(hosts))) == [2, 2]


def test_call_has_terms_of_its_own(make_executor, job, cluster):
    exe = make_executor()
    step = exe.submit(step_of_call, resource_dict={"exclusive": True, "run_time_max": 60}).result()
    assert step[0] == job


@LONG
@MODES
def test_slurm_ends_worker_after_time_limit(make_executor, gate, block_allocation):
    exe = make_executor(time_limit=1, block_allocation=block_allocation)
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    error = call.exception(timeout=150)
    assert isinstance(error, WorkerDied)
    assert "DUE TO TIME LIMIT" in str(error)
    assert exe.submit(square, 3).result(timeout=60) == 9
