from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import cloudpickle
import pytest

from pympipool._util.subprocesses import run
from pympipool.backends.child_process import ChildProcess
from pympipool.backends.mpi_library import Kind, loaded_library
from pympipool.backends.program import program_command, worker_environment
from pympipool.errors import SerializationError, WorkerStartError
from pympipool.serialization.exceptions import load_exception
from pympipool.worker.mpi import launched_rank
from pympipool.worker.rank_runner import RANKS_DIVERGED_REASON
from support.mpi_jobs import files_of, none_exists, rank_pids
from support.processes import is_alive
from support.timing import best
from support.tiny_master import LIMIT_S
from support.waiting import wait_until

pytestmark = pytest.mark.mpi


def rank():
    from mpi4py import MPI

    return MPI.COMM_WORLD.rank


def whoami(x):
    from mpi4py import MPI

    return x, MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank


# Pickled by value, as functions of a notebook are: the workers do not import this module.
cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["rank"]))


# ---- start ----


def test_ranks_that_never_find_each_other_end(tmp_path):
    """As if the launcher had lost a message of another rank: MPI waits, and holds the GIL."""
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").touch()
    (tmp_path / "mpi4py" / "MPI.py").write_text("import ctypes\nctypes.PyDLL(None).sleep(1000)\n")
    imports = "from pympipool.detached.rank import World; from pympipool.worker.mpi import join_world"
    source = f"{imports}; join_world(World(2, '', connect_timeout_s=0.1), 0)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    ended = run([sys.executable, "-c", source], env=environment, timeout=LIMIT_S)
    assert ended.returncode == 1
    assert "join_world" in ended.stderr


# ---- calls ----


def test_the_results_are_a_list_in_rank_order(mpi_worker):
    """The example of the specification."""
    mpi_worker.send(whoami, 3)
    assert mpi_worker.result() == [(3, 2, 0), (3, 2, 1)]


@pytest.mark.parametrize("ranks", [3, 4])
def test_one_result_for_each_rank(start_mpi, ranks):
    master = start_mpi(ranks=ranks).ready()
    master.send(whoami, 3)
    assert master.result() == [(3, ranks, number) for number in range(ranks)]


def test_function_sent_once_is_called_by_number(mpi_worker):
    mpi_worker.send_function(3, lambda x: (x, rank()))
    sent = [mpi_worker.send_call(3, number) for number in range(50)]
    answers = [mpi_worker.receive() for _ in sent]
    assert [answer[1] for answer in answers] == sent
    assert [answer[3] for answer in answers] == [[(number, 0), (number, 1)] for number in range(50)]


def test_ranks_can_compute_together(mpi_worker):
    def allreduce(x):
        from mpi4py import MPI

        return MPI.COMM_WORLD.allreduce(x * (MPI.COMM_WORLD.rank + 1))

    mpi_worker.send(allreduce, 5)
    assert mpi_worker.result() == [15, 15]


@pytest.mark.parametrize("length", [0, 1, 200, 2_000, 20_000, 3_000_000])
def test_arrays_of_all_sizes_arrive_whole_and_writable(mpi_worker, length):
    import numpy as np

    def scale(array, text):
        array *= rank() + 1
        return array, text * 2

    sent = np.arange(length, dtype=float)
    mpi_worker.send(scale, sent, "x" * length)
    for number, (array, text) in enumerate(mpi_worker.result()):
        assert (array == sent * (number + 1)).all()
        assert text == "x" * 2 * length
        array[:] = 1


def test_messages_of_many_parts_arrive(mpi_worker):
    import numpy as np

    sent = [np.full(3000, number) for number in range(1500)]
    mpi_worker.send(lambda arrays: [array[rank()] for array in arrays], sent)
    assert mpi_worker.result() == [list(range(1500))] * 2
    mpi_worker.send(lambda arrays: arrays, sent)
    for arrays in mpi_worker.result():
        assert [array[0] for array in arrays] == list(range(1500))


def test_results_of_different_sizes_are_combined(mpi_worker):
    mpi_worker.send(lambda: b"x" * (5_000_000 * rank()))
    assert [len(value) for value in mpi_worker.result()] == [0, 5_000_000]


def test_internal_messages_do_not_reach_the_user(mpi_worker):
    def listen():
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        stray = world.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)
        if world.rank == 0:
            world.send("for rank 1", 1, 1)
            return stray
        return stray, world.recv(None, MPI.ANY_SOURCE, MPI.ANY_TAG)

    for _ in range(20):
        mpi_worker.send(listen)
        assert mpi_worker.result() == [False, (False, "for rank 1")]


def test_no_reference_to_an_ended_call_is_kept(mpi_worker):
    class Thing:
        pass

    def remember(thing):
        import gc
        import sys
        import weakref

        gc.disable()
        result = Thing()
        sys.remembered = [weakref.ref(thing), weakref.ref(result)]
        return result

    def alive():
        import gc
        import sys

        gc.enable()
        return [reference() is not None for reference in sys.remembered]

    mpi_worker.send(remember, Thing())
    mpi_worker.receive()
    mpi_worker.send(alive)
    assert mpi_worker.result() == [[False, False], [False, False]]


# ---- exceptions ----


def fail_on(*ranks):
    def fail():
        if rank() in ranks:
            raise ValueError(f"bad luck on {rank()}")
        return rank()

    return fail


@pytest.mark.parametrize("failing", [0, 1])
def test_exception_of_one_rank_names_the_rank(start_mpi, failing):
    master = start_mpi().ready()
    call = master.send(fail_on(failing))
    kind, answered, _, error = master.receive()
    assert (kind, answered) == ("error", call)
    assert type(error) is ValueError
    assert str(error) == f"bad luck on {failing}"
    assert f"rank {failing} of worker 7 (host" in str(error.__cause__)
    assert f"rank {1 - failing} of worker 7" not in str(error.__cause__)


def test_exceptions_of_several_ranks_are_all_reported(start_mpi):
    master = start_mpi(ranks=3).ready()
    master.send(fail_on(1, 2))
    error = master.receive()[3]
    assert str(error) == "bad luck on 1"
    told = str(error.__cause__)
    assert told.index("rank 1 of worker 7") < told.index("bad luck on 1") < told.index("rank 2 of worker 7")
    assert "bad luck on 2" in told


def test_worker_survives_if_all_ranks_raise_alike(start_mpi):
    def fail():
        raise ValueError("bad luck everywhere")

    master = start_mpi().ready()
    for _ in range(3):
        master.send(fail)
        kind, _, _, error = master.receive()
        assert (kind, str(error)) == ("error", "bad luck everywhere")
    master.send(rank)
    assert master.result() == [0, 1]
    assert master.end() == 0


def fail_with_rank():
    raise ValueError(f"rank {rank()}: {object()}")


def fail_in_handler():
    try:
        raise KeyError(rank())
    except KeyError as error:
        raise ValueError(rank()) from error


def lock_on(*ranks):
    return lambda: __import__("threading").Lock() if rank() in ranks else 0


class CannotBeRebuilt:
    def __reduce__(self):
        return fail_with_rank, ()


@pytest.mark.parametrize(
    "call",
    [(fail_with_rank,), (fail_in_handler,), (lock_on(0, 1),), (lock_on(1),), (abs, CannotBeRebuilt())],
    ids=["rank and address in text", "with a cause", "results", "one result", "argument"],
)
def test_worker_survives_errors_at_one_place(start_mpi, call):
    master = start_mpi().ready()
    for _ in range(2):
        master.send(*call)
        kind, _, _, error = master.receive()
        assert kind == "error"
        assert not hasattr(error, "__notes__")
    master.send(rank)
    assert master.result() == [0, 1]
    assert not master.said("exiting")
    assert master.end() == 0


def fail_at_two_places():
    if rank() == 0:
        raise ValueError("same text")
    raise ValueError("same text")


def fail_with_two_causes():
    try:
        int("x") if rank() else [].pop()
    except (ValueError, IndexError):
        raise ValueError("same text") from None


def fail_with_two_types():
    raise [ValueError, TypeError][rank()]("same text")


@pytest.mark.parametrize("fail", [fail_at_two_places, fail_with_two_causes, fail_with_two_types])
def test_worker_ends_after_errors_at_different_places(start_mpi, fail):
    master = start_mpi().ready()
    master.send(rank)
    assert master.result() == [0, 1]
    master.send(fail)
    error = master.receive()[3]
    assert "is lost" in error.__notes__[0]
    master.wait()
    assert master.said("exiting") == [("exiting", RANKS_DIVERGED_REASON)]


@pytest.mark.parametrize("has_init_function", [False, True])
def test_first_diverging_call_loses_only_init_state(start_mpi, has_init_function):
    init_function = cloudpickle.dumps(dict) if has_init_function else None
    master = start_mpi(init_function=init_function).ready()
    master.send(fail_at_two_places)
    assert hasattr(master.receive()[3], "__notes__") == has_init_function


def send_and_fail():
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    if world.rank == 1:
        raise ValueError("does not receive")
    world.bcast("stale")
    world.send("stale", 1)


def exchange(text):
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    received = world.bcast(text if world.rank == 0 else None)
    if world.rank == 0:
        world.send(text, 1)
        return received
    return received, world.recv(None, 0)


def test_diverged_worker_exits_before_the_next_call(start_mpi):
    """A worker whose ranks have diverged reports that, exits after the exception, and starts no prefetched call.

    Its exit code is a matter of luck: MPI_Finalize may receive the message that was left.
    """
    master = start_mpi().ready()
    master.send(exchange, "before")
    assert master.result() == ["before", ("before", "before")]
    master.send(send_and_fail)
    master.send(exchange, "fresh")
    assert str(master.receive()[3]) == "does not receive"
    master.wait()
    master.until(lambda: len(master.gone) == 2, "hanging up")
    assert master.said("exiting") == [("exiting", RANKS_DIVERGED_REASON)]
    lines = (master.output["stdout"] + master.output["stderr"]).splitlines()
    assert [
        line for line in lines if b"UCX  WARN  unexpected tag-receive" not in line
    ] == []  # of the message that was left
    assert master.channel.receive(0.0) is None


def test_one_call_worker_does_not_hang_in_finalize(start_mpi):
    """It has limited time to exit, as any worker whose ranks have diverged."""

    def leave_unread():
        from mpi4py import MPI

        if MPI.COMM_WORLD.rank == 1:
            raise ValueError("does not receive")
        import atexit
        import time

        atexit.register(time.sleep, 1000)

    master = start_mpi(max_calls=1).ready()
    master.send(leave_unread)
    assert str(master.receive()[3]) == "does not receive"
    assert master.wait() != 0


def test_diverged_ranks_exit_even_if_finalize_hangs(start_mpi):
    def leave_unread():
        from mpi4py import MPI

        if MPI.COMM_WORLD.rank == 1:
            raise ValueError("does not receive")
        import atexit
        import time

        atexit.register(time.sleep, 1000)

    master = start_mpi().ready()
    master.send(leave_unread)
    master.receive()
    assert master.wait() != 0


def test_raising_rank_reports_while_others_wait(start_mpi):
    def wait_in_vain():
        from mpi4py import MPI

        if MPI.COMM_WORLD.rank == 1:
            raise ValueError("alone")
        MPI.COMM_WORLD.Barrier()

    master = start_mpi().ready()
    call = master.send(wait_in_vain)
    master.until(lambda: master.said("rank_error"), "word of the exception")
    ((_, raised_on, of_call, parts),) = master.said("rank_error")
    assert (raised_on, of_call) == (1, call)
    assert str(load_exception(parts)) == "alone"
    assert master.channel.receive(0.1) is None


def test_unpicklable_result_is_an_error_of_its_rank(start_mpi):
    master = start_mpi().ready()
    master.send(lambda: __import__("threading").Lock() if rank() == 1 else 0)
    kind, _, _, error = master.receive()
    assert kind == "error"
    assert type(error) is SerializationError
    assert "rank 1" in str(error.__cause__)


def test_system_exit_on_a_rank_is_an_exception(start_mpi):
    master = start_mpi().ready()
    master.send(lambda: __import__("sys").exit(3) if rank() else None)
    assert type(master.receive()[3]) is SystemExit


# ---- start ----


def test_init_function_runs_on_every_rank(start_mpi):
    master = start_mpi(init_function=cloudpickle.dumps(lambda: {"mine": rank() + 10})).ready()
    master.send(lambda mine: mine)
    assert master.result() == [10, 11]


def test_init_function_error_on_one_rank_ends_worker(start_mpi):
    def init_function():
        if rank() == 1:
            raise ValueError("not here")
        return {}

    master = start_mpi(init_function=cloudpickle.dumps(init_function))
    error = master.failure()
    assert str(error) == "not here"
    assert "rank 1 of worker 7" in str(error.__cause__)
    assert master.wait() == 1


def test_unconnected_ranks_explain_the_mismatch(start_mpi):
    """With the mpiexec of another MPI, each rank is told its number, but MPI finds no other rank."""

    variable = {Kind.HYDRA: "OMPI_COMM_WORLD_RANK", Kind.OPEN_MPI: "PMI_RANK"}[loaded_library().kind]

    class WrongMpiexec:
        def start(self, order):
            environment = {**worker_environment(order), "PYMPIPOOL_LAUNCHER": "/wrong/mpiexec", variable: "1"}
            return ChildProcess(program_command(), environment, None)

    start_mpi.spawner = WrongMpiexec
    master = start_mpi()
    error = master.failure()
    assert type(error) is WorkerStartError
    said = str(error)
    assert "/wrong/mpiexec was to start 2 ranks; this is rank 1 of them, but rank 0 of 1" in said
    assert "MPI" in said.split("loaded: ")[1]
    assert "pip install mpi4py mpich" in said
    assert master.wait() == 1


def test_ranks_that_are_alone_report_before_settings(start_mpi):
    """Without a launcher's variables each is rank 0 of its own world. So not all ranks connect, and no settings come."""

    class NoLauncher:
        def start(self, order):
            return ChildProcess(program_command(), worker_environment(order), None)

    start_mpi.spawner = NoLauncher
    master = start_mpi(sends_settings=False)
    assert "this is rank 0 of them, but rank 0 of 1 in the eyes" in str(master.failure())
    assert master.wait() == 1


@pytest.mark.parametrize("name", ["PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "FLUX_TASK_RANK"])
def test_rank_is_read_from_launcher_variables(name):
    assert launched_rank({name: "3"}) == 3
    assert launched_rank({"HOME": "/"}) is None
    assert launched_rank({name: "?"}) is None


def test_without_launcher_variables_mpi_tells_the_rank(start_mpi, monkeypatch):
    monkeypatch.setattr("pympipool.worker.mpi._RANK_VARIABLES", ())
    code = "import pympipool.worker.mpi as m; m._RANK_VARIABLES = (); from pympipool.worker import main; main()"
    monkeypatch.setattr(
        "pympipool.backends.program.BOOTSTRAP", f"import os, sys; sys.path[:] = {os.sys.path!r}; {code}"
    )
    master = start_mpi().ready()
    master.send(whoami, 0)
    assert master.result() == [(0, 2, 0), (0, 2, 1)]


# ---- idle workers, and the end ----


def cpu_s(pids):
    """Return the CPU time that processes have used, in seconds."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="needs /proc/PID/schedstat of Linux")
@pytest.mark.alone
def test_idle_ranks_use_almost_no_cpu(start_mpi):
    masters = [start_mpi(), start_mpi()]
    pids = []
    for master in masters:
        master.ready().send(rank)
        assert master.result() == [0, 1]
        pids += rank_pids(master)
    time.sleep(0.2)

    def measure():
        before = cpu_s(pids)
        time.sleep(2.0)
        return cpu_s(pids) - before

    assert best(measure, 0.01 * 2.0) < 0.01 * 2.0


@pytest.mark.alone
def test_call_after_idle_time_wakes_all_ranks(start_mpi):
    master = start_mpi(ranks=3).ready()
    master.send_function(1, lambda x: x)
    master.send_call(1, "first")  # the first call imports much
    assert master.result() == ["first"] * 3
    slow_s = 0.2  # a lost wake-up costs 0.25 s (SLEEP_MAX_S)
    for pause_s in [0.0, 1e-4, 2e-4, 3e-4, 1e-3, 0.01, 0.05]:

        def call(pause_s=pause_s):
            time.sleep(pause_s)
            began = time.monotonic()
            master.send_call(1, pause_s)
            assert master.result() == [pause_s] * 3
            return time.monotonic() - began

        def slow_calls(call=call):
            return sum(call() > slow_s for _ in range(10))

        assert best(slow_calls, 3) < 3  # other processes may delay one or two


def test_end_message_ends_all_ranks_cleanly(start_mpi):
    master = start_mpi(ranks=3).ready()
    master.send(lambda: __import__("atexit").register(print, "bye"))
    master.receive()
    pids = rank_pids(master)
    files = files_of(master)
    assert master.end() == 0
    assert master.output["stdout"].count(b"bye") == 3  # the output of the ranks may be interleaved
    assert master.output["stderr"] == b""
    assert not any(map(is_alive, pids))
    assert none_exists(files)


def test_one_call_worker_ends_all_its_ranks(start_mpi):
    master = start_mpi(max_calls=1).ready()
    master.send(whoami, 1)
    assert master.result() == [(1, 2, 0), (1, 2, 1)]
    assert master.wait() == 0


@pytest.mark.parametrize("doing", ["waiting", "computing", "stuck in a collective"])
def test_end_of_master_ends_ranks_and_mpiexec(start_mpi, doing):
    def stick():
        from mpi4py import MPI

        if MPI.COMM_WORLD.rank == 0:
            MPI.COMM_WORLD.Barrier()
        while True:
            pass

    def compute():
        while True:
            pass

    master = start_mpi().ready()
    pids = rank_pids(master)
    files = files_of(master)
    if doing != "waiting":
        master.send(compute if doing == "computing" else stick)
    for connection in master.connections.values():
        connection.close()
    wait_until(lambda: not any(map(is_alive, pids)))
    assert master.process.wait(LIMIT_S) is not None
    assert none_exists(files)


def test_death_of_a_rank_ends_the_others(start_mpi):
    master = start_mpi(ranks=3).ready()
    pids = rank_pids(master)
    os.kill(pids[2], signal.SIGKILL)
    assert master.process.wait(LIMIT_S) not in (None, 0)
    wait_until(lambda: not any(map(is_alive, pids)))
