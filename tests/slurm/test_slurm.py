"""Workers that SLURM starts: inside a job and outside, on the master's host and on another."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from pympipool import Executor
from pympipool.backends.registry import make_backend
from pympipool.errors import WorkerDied, WorkerStartError
from support.calls import echo, fail, hold, pid, square, way_of_calls
from support.slurm_cluster import MODES, sruns


@pytest.fixture
def make_executor(cluster, opened):
    def make(max_cores=1, **parameters):
        opened.append(Executor(**{"max_cores": max_cores, "backend": "slurm", **parameters}))
        return opened[-1]

    return make


def host_of_call():
    return socket.gethostname()


def place():
    from mpi4py import MPI

    return socket.gethostname(), MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def on(host):
    return {"command_line_argument_lst": [f"--nodelist={host}"]}


def of_step():
    return {name: value for name, value in os.environ.items() if name.startswith(("SLURM_", "PYMPIPOOL_"))}


def squares_of_inner_calls(numbers, **parameters):
    with Executor(max_workers=1, **parameters) as inner:
        return inner.info["backend"], list(inner.map(square, numbers))


# ---- on the master's own host ----


@MODES
def test_each_worker_is_a_job_outside_a_job(make_executor, cluster, block_allocation):
    exe = make_executor(2, block_allocation=block_allocation)
    assert list(exe.map(square, range(6))) == [0, 1, 4, 9, 16, 25]
    assert exe.submit(of_step).result()["SLURM_JOB_NAME"].startswith("pympipool-")


@MODES
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_nested_executor_uses_only_cores_of_its_call(make_executor, job, block_allocation, ranks):
    exe = make_executor(block_allocation=block_allocation)
    inner = exe.submit(squares_of_inner_calls, [2, 3], cores_per_worker=ranks)
    assert inner.result() == ("mpi", [4, 9] if ranks == 1 else [[4, 4], [9, 9]])


@MODES
def test_each_worker_is_a_step_inside_a_job(make_executor, job, block_allocation):
    exe = make_executor(2, block_allocation=block_allocation)
    assert list(exe.map(square, range(6))) == [0, 1, 4, 9, 16, 25]
    assert exe.submit(of_step).result()["SLURM_JOB_ID"] == job


def test_worker_on_master_host_uses_shared_memory(make_executor, cluster):
    exe = make_executor(block_allocation=True, **on(cluster.first))
    assert psutil.Process(exe.submit(pid).result()).net_connections("tcp") == []


def test_calls_run_side_by_side(make_executor, job, gate):
    exe = make_executor(4)
    calls = [exe.submit(hold, gate.path, i) for i in range(4)]
    gate.wait_until_begun(4)
    gate.open(4)
    assert [call.result() for call in calls] == [0, 1, 2, 3]


@MODES
@pytest.mark.mpi
def test_ranks_find_each_other(make_executor, job, block_allocation):
    exe = make_executor(2, cores_per_worker=2, block_allocation=block_allocation)
    assert [(rank, size) for _, rank, size in exe.submit(place).result()] == [(0, 2), (1, 2)]


@MODES
@pytest.mark.mpi
def test_ranks_on_master_host_share_ring(make_executor, job, cluster, block_allocation):
    arguments = [f"--nodelist={cluster.first}", "--nodes=1"]
    exe = make_executor(2, cores_per_worker=2, block_allocation=block_allocation, command_line_argument_lst=arguments)
    assert exe.submit(way_of_calls).result() == ["ring", "ring"]


def test_exceptions_arrive(make_executor, job):
    with pytest.raises(ValueError, match="on purpose"):
        make_executor().submit(fail, "on purpose").result()


def test_dead_worker_error_has_exit_code(make_executor, job):
    exe = make_executor(block_allocation=True)
    with pytest.raises(WorkerDied, match="exit code 3"):
        exe.submit(os._exit, 3).result()
    assert exe.submit(square, 3).result() == 9


@MODES
def test_impossible_request_fails_with_message_of_slurm(make_executor, job, block_allocation):
    exe = make_executor(64, cores_per_worker=64, block_allocation=block_allocation)
    with pytest.raises(WorkerStartError, match="More processors requested than permitted"):
        exe.submit(square, 1).result()


def test_arguments_for_srun_are_handed_on(make_executor, job):
    exe = make_executor(command_line_argument_lst=["--comment=from the test", "--nice=5"])
    assert exe.submit(square, 2).result() == 4
    with pytest.raises(WorkerStartError, match="no-such-option"):
        make_executor(command_line_argument_lst=["--no-such-option"]).submit(square, 2).result()


def test_a_worker_runs_in_its_cwd(make_executor, job, tmp_path):
    assert make_executor(cwd=tmp_path).submit(os.getcwd).result() == str(tmp_path)


def test_steps_that_wait_print_nothing(make_executor, job, capfd):
    exe = make_executor(40)
    assert list(exe.map(square, range(40))) == [i * i for i in range(40)]
    exe.shutdown()
    assert "srun" not in capfd.readouterr().err


def test_workers_start_despite_export_none(make_executor, job, monkeypatch):
    monkeypatch.setenv("SLURM_EXPORT_ENV", "NONE")
    assert make_executor().submit(square, 2).result() == 4


def test_key_is_absent_from_commands_and_environment(make_executor, job):
    exe = make_executor(block_allocation=True)
    assert "PYMPIPOOL_KEY" not in exe.submit(of_step).result()
    for process in psutil.process_iter():
        try:
            assert "PYMPIPOOL_KEY=" not in " ".join(process.cmdline())
        except psutil.Error:
            continue


def test_calls_beyond_cores_of_job_wait(make_executor, job, cluster):
    exe = make_executor(12, cores_per_worker=8)
    assert exe.submit(square, 3, resource_dict={"cores": 1}).result() == 9


def test_sruns_never_exceed_cores(make_executor, job):
    exe = make_executor(4, mp_context="spawn")
    calls = [exe.submit(square, i) for i in range(60)]
    most = 0
    while not all(call.done() for call in calls):
        most = max(most, len(sruns()))
        time.sleep(0.01)
    assert [call.result() for call in calls] == [i * i for i in range(60)]
    assert 1 < most <= 4


def test_slurm_keeps_the_key_nowhere(make_executor, cluster, monkeypatch):
    exe = make_executor(block_allocation=True)
    assert exe.submit(square, 2).result() == 4
    key = exe._engine.pool.supervisor.listener.key.encode()
    contents = dict(files_below(cluster.folder))
    assert contents
    assert [path for path, content in contents.items() if key in content] == []


def files_below(folder):
    """Yield all files, without those that daemons remove meanwhile."""
    for where, _, names in os.walk(folder):
        for path in (Path(where, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    yield path, path.read_bytes()


# ---- devices ----


def devices():
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def hold_and_tell_devices(path):
    hold(path)
    return devices()


@MODES
def test_each_worker_has_devices_of_its_own(make_executor, job, cluster, gate, block_allocation):
    exe = make_executor(2, gpus_per_worker=1, block_allocation=block_allocation, **on(cluster.first))
    calls = [exe.submit(hold_and_tell_devices, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    gate.open(2)
    assert sorted(call.result() for call in calls) == ["0", "1"]


def test_calls_without_devices_take_none(make_executor, job):
    exe = make_executor(2)
    assert exe.submit(devices).result() in (None, "", "NoDevFiles")


# ---- on another host ----


@MODES
def test_a_worker_on_another_host_serves_calls(make_executor, job, second_host, block_allocation):
    exe = make_executor(2, block_allocation=block_allocation, **on(second_host))
    assert exe.submit(host_of_call).result() == second_host
    assert list(exe.map(square, range(6))) == [0, 1, 4, 9, 16, 25]
    with pytest.raises(ValueError, match="from afar"):
        exe.submit(fail, "from afar").result()


def test_arrays_go_to_another_host_and_come_back(make_executor, job, second_host):
    exe = make_executor(block_allocation=True, **on(second_host))
    array = np.random.default_rng(1).random(2_000_000)
    received = exe.submit(echo, array).result()
    assert np.array_equal(received, array)
    assert received.flags.writeable


@MODES
@pytest.mark.mpi
def test_ranks_on_two_hosts_find_each_other(make_executor, job, second_host, cluster, block_allocation):
    exe = make_executor(
        4,
        cores_per_worker=4,
        block_allocation=block_allocation,
        command_line_argument_lst=["--nodes=2", "--ntasks-per-node=2"],
    )
    places = exe.submit(place).result()
    assert [(rank, size) for _, rank, size in places] == [(rank, 4) for rank in range(4)]
    assert {host for host, _, _ in places} == {socket.gethostname(), second_host}


@pytest.mark.mpi
@pytest.mark.parametrize("hosts", [1, 2])
def test_ranks_on_second_host_use_mpi(make_executor, job, second_host, hosts):
    arguments = [f"--nodelist={second_host}", f"--nodes={hosts}"]
    exe = make_executor(2, cores_per_worker=2, block_allocation=True, command_line_argument_lst=arguments)
    assert exe.submit(way_of_calls).result() == ["MPI", "MPI"]


@pytest.mark.mpi
def test_large_data_reach_ranks_on_two_hosts(make_executor, job, second_host):
    exe = make_executor(2, cores_per_worker=2, block_allocation=True, command_line_argument_lst=["--nodes=2"])
    array = np.arange(500_000.0)
    assert [received.sum() for received in exe.submit(echo, array).result()] == [array.sum()] * 2


def test_missing_cwd_on_another_host_is_an_error(make_executor, job, second_host, cluster, tmp_path):
    folder = tmp_path / "covered" / "folder"
    folder.mkdir(parents=True)
    cluster.on_second("mount", "-t", "tmpfs", "tmpfs", str(folder.parent))
    try:
        with pytest.raises(FileNotFoundError, match="folder"):
            make_executor(cwd=folder, **on(second_host)).submit(os.getcwd).result()
    finally:
        cluster.on_second("umount", str(folder.parent))


def test_hostname_localhost_error_names_reason_on_other_host(make_executor, job, second_host):
    exe = make_executor(hostname_localhost=True, connect_timeout=2, **on(second_host))
    with pytest.raises(WorkerStartError, match="hostname_localhost"):
        exe.submit(square, 1).result()


# ---- choice ----


def test_auto_chooses_slurm_where_its_controller_answers(cluster, monkeypatch, tmp_path):
    assert make_backend("auto").name == "slurm"
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none.conf"))
    assert make_backend("auto").name == "mpi"
    with pytest.raises(WorkerStartError, match=r"controller.*sinfo"):
        make_backend("slurm")


def test_default_uses_all_cores_of_the_job(make_executor, job, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "8(x2)")
    assert make_executor(None).info["max_cores"] == 16


def test_max_workers_is_required_outside_a_job(make_executor):
    with pytest.raises(ValueError, match="max_cores"):
        make_executor(None)
