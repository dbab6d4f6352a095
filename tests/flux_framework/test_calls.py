"""Retries, ends of running calls, and what runs before calls, where each worker, or each call, is a job of flux."""

from __future__ import annotations

import os
import sys
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from pympipool import Executor
from pympipool.errors import WorkerDied
from support.calls import hold, square

pytestmark = [
    pytest.mark.parametrize("block_allocation", [True, False], ids=["block_allocation", "single"]),
    pytest.mark.usefixtures("job_each"),
]

ENDINGS = {
    "kill_workers": lambda exe: exe.kill_workers(),
    "terminate_workers": lambda exe: exe.terminate_workers(),
    "shutdown": lambda exe: exe.shutdown(kill_workers=True),
}

SEEN = []


@pytest.fixture
def start(instance, opened, block_allocation):
    """Return a function that makes an executor on the instance."""

    def make(max_workers=1, **options):
        opened.append(Executor(max_workers, backend="flux", block_allocation=block_allocation, **options))
        return opened[-1]

    return make


def fail_first(path, times):
    """Fail the first times; return the number of the attempt, and the job."""
    with open(path, "a") as file:
        file.write("x")
    attempt = Path(path).stat().st_size
    if attempt <= times:
        raise OSError(f"attempt {attempt}")
    return attempt


def die_first(path):
    try:
        return fail_first(path, 1)
    except OSError:
        os._exit(3)


def note(*values):
    SEEN.extend(values)


def seen():
    return SEEN


def job():
    return os.environ["FLUX_JOB_ID"]


def is_imported(name):
    return name in sys.modules


def test_failed_call_is_tried_again(start, tmp_path):
    exe = start(retries=2, retry_on=OSError, retry_delay=0.01)
    call = exe.submit(fail_first, str(tmp_path / "attempts"), 2)
    assert (call.result(), call.attempts) == (3, 3)


def test_call_of_dead_worker_is_tried_again(start, tmp_path):
    assert start(restart_limit=1).submit(die_first, str(tmp_path / "attempts")).result() == 2


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
def test_running_and_waiting_calls_end(start, instance, gate, end):
    exe = start()
    running = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    waiting = [exe.submit(square, number) for number in range(3)]
    end(exe)
    with pytest.raises(WorkerDied, match=r"while it ran hold\(\): its executor has ended it"):
        running.result(60)
    assert all(call.cancelled() for call in waiting)
    assert instance.wait_until_empty() == []


def test_calls_in_the_queue_end(start, instance, gate):
    cores = instance.cores
    exe = start(3 * instance.brokers, threads_per_core=cores)
    calls = [exe.submit(hold, gate.path) for _ in range(3 * instance.brokers)]
    gate.wait_until_begun(instance.brokers)
    instance.wait_for_jobs("S", 2 * instance.brokers)
    exe.kill_workers()
    assert all(call.done() for call in calls)
    assert instance.wait_until_empty() == []


def test_forced_cancel_ends_a_running_call(start, instance, gate):
    exe = start()
    call = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    (of_call,) = instance.wait_for_jobs("R")
    assert call.cancel(force=True)
    with pytest.raises(CancelledError):
        call.result()
    assert exe.submit(square, 3).result() == 9
    assert of_call not in instance.run("jobs", "-no", "{id}", "--filter=running")


def test_workers_have_limited_number_of_calls(start):
    exe = start(max_tasks_per_child=2)
    assert len({call.result() for call in [exe.submit(job) for _ in range(4)]}) == (
        2 if exe.info["block_allocation"] else 4
    )


def test_initializer_runs_in_each_job(start):
    exe = start(initializer=note, initargs=("a", 1))
    assert exe.submit(seen).result() == ["a", 1]


def test_function_gets_id_of_its_worker(start):
    assert start().submit(lambda x, worker_id: (x, worker_id), 5).result() == (5, 0)


def test_preload_is_accepted(start):
    """Each worker is a fresh process; only those that are forked on this machine share imports."""
    assert start(preload=("decimal",)).submit(square, 2).result() == 4
    assert start(preload=()).submit(is_imported, "mailbox").result() is False


@pytest.mark.mpi
def test_result_of_root_is_one_result(start):
    exe = start(cores_per_worker=2, result_of="root")
    assert exe.submit(square, 3).result() == 9
