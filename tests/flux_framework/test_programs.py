"""Cores of threads and of external programs, as the real flux counts them."""

from __future__ import annotations

import os
import sys

import pytest

from pympipool import Executor, ShellExecutor, SubprocessExecutor
from pympipool.backends.mpi_library import find_launcher, loaded_library
from support.calls import hold, square

pytestmark = pytest.mark.usefixtures("job_each")

MODES = pytest.mark.parametrize("block_allocation", [True, False], ids=["block_allocation", "single"])


@pytest.fixture(autouse=True)
def _no_threads_of_user(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def cores_of(instance, number=1):
    """Return the cores of the running jobs."""
    return instance.run("jobs", "-no", "{ncores}", *instance.wait_for_jobs("R", number)).split()


# ---- threads ----


@MODES
def test_threads_are_cores_of_the_job(instance, opened, gate, block_allocation):
    opened.append(Executor(max_cores=2, threads_per_core=2, backend="flux", block_allocation=block_allocation))
    held = opened[0].submit(hold, gate.path)
    gate.wait_until_begun()
    assert cores_of(instance) == ["2"]
    later = opened[0].submit(os.getenv, "OMP_NUM_THREADS")
    assert len(instance.active_jobs()) == 1  # max_cores are used
    gate.open()
    held.result()
    assert later.result() == "2"


@pytest.mark.mpi
def test_each_rank_has_cores_for_threads(instance, opened, gate):
    opened.append(Executor(max_cores=4, backend="flux"))
    held = opened[0].submit(hold, gate.path, 1, resource_dict={"cores": 2, "threads_per_core": 2})
    gate.wait_until_begun(2)
    assert cores_of(instance) == ["4"]
    gate.open(2)
    assert held.result() == [1, 1]


def test_call_with_too_many_threads_raises(one_broker, opened):
    opened.append(Executor(max_cores=2, backend="flux"))
    with pytest.raises(ValueError, match="threads_per_core=3, 3 cores together"):
        opened[0].submit(square, 1, resource_dict={"threads_per_core": 3})


# ---- programs ----

WAIT = "echo $FLUX_JOB_ID $OMP_NUM_THREADS $PWD; echo begun > begun; read line < life"


@pytest.fixture
def pipes(tmp_path):
    """Return a folder with the two named pipes that `WAIT` uses."""
    for name in ("begun", "life"):
        os.mkfifo(tmp_path / name)
    return tmp_path


@MODES
def test_cores_of_program_are_those_of_job(instance, pipes, block_allocation):
    resources = {"cores": 2, "threads_per_core": 2, "cwd": pipes}
    parameters = {"max_cores": 4, "backend": "flux", "block_allocation": block_allocation}
    with SubprocessExecutor(resource_dict=resources, **parameters) as exe:
        call = exe.submit(WAIT, shell=True, text=True)
        assert (pipes / "begun").read_text() == "begun\n"
        assert cores_of(instance) == ["4"]
        (pipes / "life").write_text("end\n")
        job, threads, cwd = call.result().split()
    assert (threads, cwd) == ("2", str(pipes))
    assert instance.run("jobs", "-ano", "{ntasks}", job).strip() == "1"


def test_each_command_has_resources_of_its_own(instance, tmp_path):
    with SubprocessExecutor(max_cores=2, backend="flux", block_allocation=False) as exe:
        show = "echo $OMP_NUM_THREADS $CUDA_VISIBLE_DEVICES"
        first = exe.submit(show, shell=True, text=True, resource_dict={"threads_per_core": 2})
        second = exe.submit(show, shell=True, text=True, resource_dict={"gpus_per_core": 1})
        with pytest.raises(TimeoutError, match="run_time_max"):
            exe.submit(["sleep", "60"], resource_dict={"run_time_max": 0.5}).result()
        assert first.result().split() == ["2", "-1"]
        assert second.result().split()[-1] in ("0", "1")


@pytest.mark.mpi
def test_mpi_program_runs_in_reserved_cores(instance):
    program = "from mpi4py.MPI import COMM_WORLD as world; world.rank == 0 and print(world.size)"
    command = [find_launcher(loaded_library()).path, "-n", "2", sys.executable, "-c", program]
    with SubprocessExecutor(max_cores=2, backend="flux", block_allocation=False) as exe:
        assert exe.submit(command, text=True, resource_dict={"cores": 2}).result() == "2\n"


def test_program_of_shell_is_a_job(instance, tmp_path):
    resources = {"threads_per_core": 2, "cwd": tmp_path}
    with ShellExecutor(["sh"], backend="flux", resource_dict=resources) as exe:
        told = exe.submit("echo $FLUX_JOB_ID $OMP_NUM_THREADS $PWD", lines_to_read=1).result()
        assert cores_of(instance) == ["2"]
        (job,) = instance.wait_for_jobs("R")
        assert told == f"{job} 2 {tmp_path}\n"


def test_program_ends_with_its_executor(instance, tmp_path):
    with ShellExecutor(["cat"], backend="flux") as exe:
        assert exe.submit("a line", lines_to_read=1).result() == "a line\n"
    assert instance.wait_until_empty() == []
