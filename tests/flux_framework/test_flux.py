"""Workers that flux starts: with one or two brokers, with and without FluxExecutor, with and without block allocation."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from pympipool import Executor
from pympipool.backends.flux import availability, spawner
from pympipool.backends.flux.jobspec import make_jobspec
from pympipool.backends.registry import BACKENDS, choose, make_backend, unavailable_reasons
from pympipool.errors import WorkerDied, WorkerStartError
from pympipool.flux import PyFluxExecutor
from support.calls import fail, hold, pid, square, way_of_calls
from support.loopback_tcp import FluxOverTcp
from support.timing import in_time

pytestmark = pytest.mark.usefixtures("job_each")

MODES = pytest.mark.parametrize("block_allocation", [True, False], ids=["block_allocation", "single"])


@pytest.fixture
def make_executor(instance, opened):
    return maker(opened)


@pytest.fixture
def make_on_one(one_broker, opened):
    return maker(opened)


def maker(opened):
    def make(max_cores=1, **parameters):
        opened.append(Executor(**{"max_cores": max_cores, "backend": "flux", **parameters}))
        return opened[-1]

    return make


def of_job():
    return {name: value for name, value in os.environ.items() if name.startswith(("FLUX_", "PYMPIPOOL_"))}


def place():
    from mpi4py import MPI

    return os.environ["FLUX_TASK_RANK"], MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def say(number, text, stream="stdout"):
    for _ in range(number):
        print(text, file=getattr(sys, stream))


def complain_and_die(text):
    print(text, file=sys.stderr, flush=True)
    os._exit(7)


def ignore_sigterm_and_hold(gate):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return hold(gate)


# ---- jobs ----


@MODES
def test_each_worker_is_a_job(make_executor, instance, block_allocation):
    exe = make_executor(2, block_allocation=block_allocation)
    assert list(exe.map(square, range(6))) == [0, 1, 4, 9, 16, 25]
    job = exe.submit(of_job).result()["FLUX_JOB_ID"]
    assert instance.run("jobs", "-an", "-o", "{name}", job).startswith("pympipool-")


@MODES
def test_jobs_go_through_the_executor_that_was_given(make_executor, flux_executor, block_allocation, monkeypatch):
    submitted = []
    submit = flux_executor.submit
    monkeypatch.setattr(flux_executor, "submit", lambda jobspec: submitted.append(jobspec) or submit(jobspec))
    exe = make_executor(2, executor=flux_executor, block_allocation=block_allocation)
    assert list(exe.map(square, range(3))) == [0, 1, 4]
    assert len(submitted) == (2 if block_allocation else 3)


def test_executors_share_a_flux_executor(make_executor, flux_executor):
    executors = [make_executor(executor=flux_executor, block_allocation=block) for block in (True, False, True)]
    calls = [exe.submit(square, number) for number, exe in enumerate(executors)]
    assert [call.result() for call in calls] == [0, 1, 4]
    executors[0].shutdown()
    assert executors[2].submit(square, 3).result() == 9


def test_call_can_use_its_own_flux_executor(make_executor, flux_executor):
    assert make_executor().submit(square, 3, resource_dict={"executor": flux_executor}).result() == 9


def test_calls_run_side_by_side(make_executor, gate):
    exe = make_executor(4)
    calls = [exe.submit(hold, gate.path, i) for i in range(4)]
    gate.wait_until_begun(4)
    gate.open(4)
    assert [call.result() for call in calls] == [0, 1, 2, 3]


def test_default_uses_all_cores_of_the_instance(make_executor, instance):
    assert make_executor(None).info["max_cores"] == instance.brokers * instance.cores


def test_the_old_name_still_works(one_broker, flux_executor):
    with PyFluxExecutor(max_workers=2, executor=flux_executor) as exe:
        assert exe.info["block_allocation"]
        assert exe.submit(square, 4).result() == 16


# ---- links ----


def test_worker_on_master_host_uses_shared_memory(make_executor):
    exe = make_executor(block_allocation=True)
    assert psutil.Process(exe.submit(pid).result()).net_connections("tcp") == []


@MODES
@pytest.mark.mpi
def test_ranks_on_master_host_share_ring(make_executor, block_allocation):
    exe = make_executor(2, cores_per_worker=2, block_allocation=block_allocation)
    assert exe.submit(way_of_calls).result() == ["ring", "ring"]


@MODES
@pytest.mark.mpi
def test_ranks_on_another_host_use_mpi(two_brokers, monkeypatch, block_allocation):
    monkeypatch.setitem(BACKENDS, "flux over tcp", FluxOverTcp)
    parameters = {"cores_per_worker": 2, "block_allocation": block_allocation}
    with Executor(max_cores=2, backend="flux over tcp", **parameters) as exe:
        assert exe.submit(way_of_calls).result() == ["MPI", "MPI"]


def test_single_host_instance_opens_no_port(make_on_one):
    exe = make_on_one(block_allocation=True)
    assert exe.submit(square, 2).result() == 4
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    assert [process for process in processes if process.net_connections("tcp")] == []


@MODES
def test_worker_on_another_host_uses_the_network(two_brokers, monkeypatch, block_allocation):
    monkeypatch.setitem(BACKENDS, "flux over tcp", FluxOverTcp)
    with Executor(max_cores=2, backend="flux over tcp", block_allocation=block_allocation) as exe:
        assert list(exe.map(square, range(4))) == [0, 1, 4, 9]
        connections = psutil.Process(exe.submit(pid).result()).net_connections if block_allocation else None
        assert connections is None or connections("tcp") != []


# ---- MPI ----


@MODES
@pytest.mark.mpi
def test_ranks_find_each_other(make_executor, block_allocation):
    exe = make_executor(2, cores_per_worker=2, block_allocation=block_allocation)
    assert exe.submit(place).result() == [("0", 0, 2), ("1", 1, 2)]


@pytest.mark.mpi
def test_ranks_of_two_brokers_find_each_other(two_brokers, opened):
    exe = maker(opened)(two_brokers.cores + 1, cores_per_worker=two_brokers.cores + 1, block_allocation=True)
    assert [rank for _, rank, _ in exe.submit(place).result()] == list(range(two_brokers.cores + 1))


@pytest.mark.mpi
def test_pmi_mode_can_be_set(make_on_one):
    exe = make_on_one(2, cores_per_worker=2, pmi_mode="simple")
    assert exe.submit(place).result() == [("0", 0, 2), ("1", 1, 2)]
    with pytest.raises(WorkerStartError, match="set pmi_mode"):
        exe.submit(place, resource_dict={"pmi_mode": "no-such-pmi"}).result()


# ---- devices ----


def devices():
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def devices_of_both(gate):
    hold(gate)
    return devices()


@MODES
def test_each_worker_has_devices_of_its_own(make_on_one, gate, block_allocation):
    exe = make_on_one(2, gpus_per_worker=1, block_allocation=block_allocation)
    calls = [exe.submit(devices_of_both, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    gate.open(2)
    assert sorted(call.result() for call in calls) == ["0", "1"]


@pytest.mark.mpi
def test_each_rank_has_devices_of_its_own(make_on_one):
    exe = make_on_one(2, cores_per_worker=2, gpus_per_worker=2)
    assert sorted(exe.submit(devices).result()) == ["0", "1"]


def test_calls_without_devices_take_none(make_on_one):
    assert make_on_one().submit(devices).result() == "-1"


# ---- what goes wrong ----


def test_exceptions_arrive(make_executor):
    with pytest.raises(ValueError, match="on purpose"):
        make_executor().submit(fail, "on purpose").result()


@MODES
def test_error_log_is_written_beside_the_script(make_executor, tmp_path, monkeypatch, block_allocation):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    exe = make_executor(error_log_file="errors.log", cwd="elsewhere", block_allocation=block_allocation)
    assert isinstance(exe.submit(fail, "on purpose").exception(), ValueError)
    written = (tmp_path / "errors.log").read_text()
    assert re.search(rf" fail\(\) failed in worker 1 \(host {os.uname().nodename}, pid \d+\)\n", written)
    assert "argument 1: 'on purpose'" in written
    assert "ValueError: on purpose" in written


def test_dead_worker_error_has_exit_code_and_stderr(make_executor):
    exe = make_executor(block_allocation=True)
    with pytest.raises(WorkerDied, match="exit code 7") as caught:
        exe.submit(complain_and_die, "no more memory").result()
    assert caught.value.last_stderr == ("no more memory",)
    assert exe.submit(square, 3).result() == 9


@MODES
def test_impossible_request_fails_with_message_of_flux(make_executor, block_allocation):
    exe = make_executor(64, cores_per_worker=64, block_allocation=block_allocation)
    with pytest.raises(WorkerStartError, match="alloc: unsatisfiable request"):
        exe.submit(square, 1).result()


@MODES
def test_a_missing_program_is_named_by_flux(make_executor, block_allocation, monkeypatch):
    monkeypatch.setattr(spawner, "program_command", lambda: ["/no/such/python"])
    exe = make_executor(block_allocation=block_allocation)
    with pytest.raises(WorkerStartError, match=r"/no/such/python: No such file"):
        exe.submit(square, 1).result()


@MODES
def test_job_cancelled_in_queue_fails_its_call(make_on_one, one_broker, block_allocation):
    filler = make_on_one(one_broker.cores, threads_per_core=one_broker.cores, block_allocation=True)
    assert filler.submit(square, 2).result() == 4
    call = make_on_one(block_allocation=block_allocation).submit(square, 3)
    one_broker.run("cancel", *one_broker.wait_for_jobs("S"))
    with pytest.raises(WorkerStartError, match="cancel: "):
        call.result()


def test_a_flux_executor_that_was_closed_is_named(make_on_one):
    import flux.job

    with flux.job.FluxExecutor() as closed:
        pass
    with pytest.raises(WorkerStartError, match=r"takes no more jobs.*must stay open"):
        make_on_one(executor=closed).submit(square, 1).result()


def test_a_flux_executor_of_another_instance_is_named(make_on_one, running_two_brokers):
    import flux.job

    elsewhere = flux.job.FluxExecutor(handle_args=(running_two_brokers.uri,))
    with elsewhere, pytest.raises(WorkerStartError, match="another flux instance"):
        make_on_one(executor=elsewhere).submit(square, 1).result()
    assert running_two_brokers.wait_until_empty() == []


def test_worker_that_ignores_sigterm_still_ends(make_executor, gate):
    exe = make_executor(run_time_max=0.5, block_allocation=True)
    with pytest.raises(TimeoutError):
        exe.submit(ignore_sigterm_and_hold, gate.path).result()
    assert in_time(lambda: exe.submit(square, 2).result()) == 4


def test_calls_that_wait_are_cancelled_with_their_jobs(make_on_one, one_broker, gate):
    exe = make_on_one(3 * one_broker.cores, threads_per_core=one_broker.cores)
    calls = [exe.submit(hold, gate.path, number) for number in range(3)]
    gate.wait_until_begun()
    one_broker.wait_for_jobs("S", 2)
    exe.shutdown(wait=False, cancel_futures=True)
    gate.open(3)
    exe.shutdown()
    assert [call.done() for call in calls] == [True] * 3


# ---- what is wrong at once ----


@pytest.mark.parametrize(
    ("parameters", "error", "says"),
    [
        ({"oversubscribe": True}, ValueError, "oversubscribe is True; backend 'flux' takes none"),
        ({"command_line_argument_lst": ["--exclusive"]}, ValueError, "it is for SLURM's srun"),
        ({"executor": object()}, TypeError, "must be a flux.job.FluxExecutor"),
        ({"executor": object(), "backend": "auto"}, TypeError, "must be a flux.job.FluxExecutor"),
        ({"pmi_mode": 2}, TypeError, "pmi_mode is 2"),
    ],
)
def test_unavailable_resources_are_refused_by_executor(make_on_one, parameters, error, says):
    with pytest.raises(error, match=says):
        make_on_one(**parameters)


def test_unavailable_resources_are_refused_by_submit(make_on_one):
    with pytest.raises(ValueError, match="flux gives each core to one rank"):
        make_on_one().submit(square, 1, resource_dict={"oversubscribe": True})


def test_a_flux_executor_is_for_flux_only(one_broker, flux_executor):
    with pytest.raises(ValueError, match="backend 'mpi' takes none"):
        Executor(max_cores=1, executor=flux_executor, backend="mpi")


# ---- environment of the calls ----


def test_a_worker_runs_in_its_cwd(make_executor, tmp_path):
    assert make_executor(cwd=tmp_path).submit(os.getcwd).result() == str(tmp_path)


def test_worker_has_master_environment_without_key(make_executor, monkeypatch):
    monkeypatch.setenv("OF_THE_MASTER", "yes")
    monkeypatch.setitem(os.environb, b"NOT_UTF_8", b"\xff")
    exe = make_executor(block_allocation=True)
    assert exe.submit(os.getenv, "OF_THE_MASTER").result() == "yes"
    assert "PYMPIPOOL_KEY" not in exe.submit(of_job).result()


def test_the_key_is_in_no_command_line(make_executor):
    exe = make_executor(block_allocation=True)
    assert exe.submit(square, 2).result() == 4
    key = exe._engine.pool.supervisor.listener.key
    for process in psutil.process_iter():
        try:
            assert key not in " ".join(process.cmdline())
        except psutil.Error:
            continue


def test_large_output_of_a_call_arrives(make_executor, capfd):
    exe = make_executor()
    exe.submit(say, 100_000, "line").result()
    exe.shutdown()
    assert capfd.readouterr().out == "line\n" * 100_000


def test_output_from_another_host_arrives(two_brokers, monkeypatch, capfd):
    monkeypatch.setitem(BACKENDS, "flux over tcp", FluxOverTcp)
    with Executor(max_cores=1, backend="flux over tcp") as exe:
        exe.submit(say, 100, "line").result()
        exe.submit(say, 1, "a complaint", "stderr").result()
    assert capfd.readouterr() == ("line\n" * 100, "a complaint\n")


# ---- choice ----


def test_auto_backend_chooses_a_reachable_instance(one_broker, monkeypatch, tmp_path):
    assert choose("auto") == ("flux", {})
    assert unavailable_reasons()["flux"] is None
    with Executor(max_cores=1) as exe:
        assert (exe.info["backend"], exe.info["skipped_backends"]) == ("flux", {})
    monkeypatch.setenv("FLUX_URI", f"local://{tmp_path}/nobody")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none.conf"))
    name, skipped = choose("auto")
    assert name == "mpi"
    assert "no flux instance can be reached" in skipped["flux"]
    with pytest.raises(WorkerStartError, match=r"no flux instance can be reached.*flux start python"):
        make_backend("flux")


def test_silent_broker_is_skipped_after_timeout(make_instance, monkeypatch):
    stopped = make_instance(1, 1)
    monkeypatch.setenv("FLUX_URI", stopped.uri)
    brokers = stopped.broker_pids()
    for broker in brokers:
        os.kill(broker, signal.SIGSTOP)
    try:
        assert re.search("does not answer within 1 s", availability.unavailable_reason(1.0))
    finally:
        for broker in brokers:
            os.kill(broker, signal.SIGCONT)


def test_jobspec_equals_that_of_flux(one_broker):
    from flux.job import JobspecV1

    from pympipool.resources import Resources

    flux_s = JobspecV1.from_command(["a", "b"], num_tasks=2, cores_per_task=3, gpus_per_task=1)
    flux_s.cwd = "/tmp"
    flux_s.environment = {"A": "1"}
    flux_s.stdin = "/dev/null"
    flux_s.setattr("system.job.name", "name")
    for option, value in {"gpu-affinity": "per-task", "exit-on-error": 1, "pmi": "pmix"}.items():
        flux_s.setattr_shell_option(option, value)
    ours = make_jobspec(
        Resources(cores=2, threads_per_core=3, gpus_per_core=1),
        ["a", "b"],
        name="name",
        environment={"A": "1"},
        cwd="/tmp",
        pmi="pmix",
    )
    assert ours == flux_s.jobspec


def test_pympipool_runs_as_a_job_of_flux_itself(one_broker, tmp_path):
    source = os.path.dirname(os.path.dirname(sys.modules["pympipool"].__file__))
    script = tmp_path / "script.py"
    script.write_text(
        "from pympipool import Executor\nwith Executor(max_cores=2, backend='flux') as exe: print(exe.submit(sum, [1, 1]).result())"
    )
    done = subprocess.run(
        ["flux", "run", "-n1", sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([source, *sys.path])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("2\n", 0), done.stderr
