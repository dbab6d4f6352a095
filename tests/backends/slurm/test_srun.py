"""The command line and the environment of srun. tests/slurm runs them on a real cluster."""

from __future__ import annotations

import mmap
import subprocess
from pathlib import Path

import pytest

from pympipool.backends.mpi_library import Library
from pympipool.backends.slurm import srun
from pympipool.backends.slurm.spawner import SrunProcess
from pympipool.backends.slurm.srun import names_own_job, srun_command, step_environment
from pympipool.resources import Resources

IN_JOB = {"SLURM_JOB_ID": "7"}


def test_step_takes_only_the_cores_it_needs():
    assert "--exact" in srun_command(Resources(), IN_JOB)
    assert "--exact" not in srun_command(Resources(), {})


def test_step_without_devices_takes_no_devices_of_job():
    assert "--gres=none" in srun_command(Resources(), IN_JOB)
    assert "--gres=none" not in srun_command(Resources(), {})
    with_devices = srun_command(Resources(gpus_per_core=2), IN_JOB)
    assert "--gpus-per-task=2" in with_devices
    assert "--gres=none" not in with_devices


def test_step_of_whole_nodes_counts_no_cores(monkeypatch):
    monkeypatch.setattr(srun, "loaded_library", lambda: Library("MPICH Version: 5", ""))
    step = srun_command(Resources(cores=4, threads_per_core=2, exclusive=True), IN_JOB)
    assert {"--nodes=1", "--cpu-bind=none"} <= set(step)
    assert not any(option.startswith(("--exact", "--exclusive", "--cpus-per-task")) for option in step)
    job = srun_command(Resources(cores=4, threads_per_core=2, exclusive=True), {})
    assert {"--exclusive", "--cpus-per-task=2"} <= set(job)
    assert not any(option.startswith("--nodes") for option in job)


def test_terms_of_scheduler_become_options(monkeypatch):
    monkeypatch.setattr(srun, "loaded_library", lambda: Library("MPICH Version: 5", ""))
    resources = Resources(cores=4, num_nodes=2, partition="debug", account="physics", priority=5)
    options = {"--nodes=2", "--partition=debug", "--account=physics", "--priority=5"}
    assert options <= set(srun_command(resources, {}))


def test_arguments_of_the_user_come_last():
    assert srun_command(Resources(command_line_argument_lst=["-p", "debug"]), {})[-2:] == ["-p", "debug"]


@pytest.mark.parametrize(("version", "plugin"), [("MPICH Version: 5", "pmi2"), ("Open MPI v5", "pmix")])
def test_mpi_plugin_fits_the_library_unless_user_chooses(monkeypatch, version, plugin):
    monkeypatch.setattr(srun, "loaded_library", lambda: Library(version, ""))
    assert f"--mpi={plugin}" in srun_command(Resources(cores=2), {})
    assert "--mpi=cray_shasta" in srun_command(Resources(cores=2, pmi_mode="cray_shasta"), {})
    assert "--mpi=none" in srun_command(Resources(), {})


def test_options_of_the_job_are_left_out():
    job = {**IN_JOB, "SLURM_NTASKS": "8", "SLURM_GPUS": "4", "SLURM_EXPORT_ENV": "NONE", "HOME": "/home/me"}
    assert step_environment(job) == {**IN_JOB, "HOME": "/home/me"}


def test_step_gets_its_share_of_the_memory():
    job = {"SLURM_MEM_PER_NODE": "8000", "SLURM_CPUS_ON_NODE": "4"}
    assert step_environment(job) == {"SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_CPU": "2000"}
    whole_node = {"SLURM_MEM_PER_NODE": "0", "SLURM_CPUS_ON_NODE": "4"}
    assert step_environment(whole_node) == whole_node


@pytest.mark.parametrize("option", ["--job-name=mine", "-J", "--clusters=other", "-Mother", "--jobid=7"])
def test_job_named_by_user_is_not_queried(option):
    assert names_own_job(Resources(command_line_argument_lst=[option]))
    assert not names_own_job(Resources(command_line_argument_lst=["--nodelist=node2"]))


def test_only_workers_of_several_ranks_have_an_epilog(monkeypatch):
    monkeypatch.setattr(srun, "loaded_library", lambda: Library("MPICH Version: 5", ""))
    assert f"--task-epilog={srun.TASK_EPILOG}" in srun_command(Resources(cores=2), {})
    assert not any(option.startswith("--task-epilog") for option in srun_command(Resources(), {}))


def test_epilog_removes_files_that_nothing_maps(mark):
    left, used = (Path(f"/dev/shm/mpich_shm_{name}_{mark}") for name in ("left", "used"))
    try:
        left.touch()
        used.write_bytes(bytes(4096))
        with used.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
            subprocess.run([srun.TASK_EPILOG], check=True, timeout=60)
        assert not left.exists()
        assert used.exists()
    finally:
        left.unlink(missing_ok=True)
        used.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("message", "is_permanent", "outage"),
    [
        ("Unable to create step for job 7: More processors requested than permitted", True, None),
        ("Unable to create step for job 7: Memory required by task is not available", False, "memory"),
        ("Unable to allocate resources: Unable to contact slurm controller (connect failure)", False, "controller"),
        ("Unable to allocate resources: Socket timed out on send/recv operation", False, "in time"),
        ("Unable to create step for job 7: Requested nodes are busy", False, None),
        ("Unable to create step for job 7: Requested node configuration is not available", True, None),
        ("Unable to allocate resources: Unexpected missing socket error", False, "reached"),
        ("Unable to confirm allocation for job 7: Unexpected missing socket error", False, "reached"),
        ("Unable to confirm allocation for job 7: Protocol authentication error", False, "munge"),
        ("Application launch failed: Communication connection failure", False, "reached"),
    ],
)
def test_outages_are_not_final(message, is_permanent, outage):
    process = object.__new__(SrunProcess)
    assert process.failed_permanently([f"srun: error: {message}"]) == is_permanent
    found = process.outage([f"srun: error: {message}"])
    assert found is None if outage is None else outage in found


def test_final_error_is_no_outage():
    process = object.__new__(SrunProcess)
    lines = [
        "srun: error: Unable to contact slurm controller (connect failure)",
        "srun: error: Unable to allocate resources: Invalid partition name specified",
    ]
    assert process.outage(lines[:1]) is not None
    assert process.failed_permanently(lines)
    assert process.outage(iter(lines)) is None
