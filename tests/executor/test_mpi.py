"""Workers of several ranks: results in rank order, collectives, and ranks that raise."""

import importlib
import os
import threading
import traceback

import numpy as np
import psutil
import pytest

from pympipool import Executor
from pympipool.backends.spawner import WorkerProcess
from pympipool.errors import SerializationError, WorkerDied
from support.calls import add, divide, echo, hold, pid, square
from support.processes import is_alive
from support.scripts import run_script
from support.waiting import LIMIT_S

pytestmark = pytest.mark.mpi

RANKS = 2


@pytest.fixture(params=[pytest.param(True, id="block_allocation")], scope="module")
def block_allocation(request):
    """Return the modes to test. Most tests use block allocation only: a call with its own MPI job takes a second."""
    return request.param


@pytest.fixture(scope="module")
def mpi_executor(block_allocation):
    """An executor with one worker of two ranks, for tests that do not change it."""
    with Executor(max_workers=1, cores_per_worker=RANKS, block_allocation=block_allocation) as exe:
        yield exe


@pytest.fixture
def goes_on(mpi_executor):
    """Check after the test that the executor still runs calls."""
    yield
    assert [mpi_executor.submit(rank_and, i).result() for i in range(2)] == [[(0, i), (1, i)] for i in range(2)]


def world():
    from mpi4py import MPI

    return MPI.COMM_WORLD


def calc(i):
    from mpi4py import MPI

    size = MPI.COMM_WORLD.Get_size()
    rank = MPI.COMM_WORLD.Get_rank()
    return i, size, rank


def rank_and(value):
    return world().rank, value


def allreduce(value):
    return world().allreduce(value * (world().rank + 1))


def fail_on(rank, message="on purpose"):
    if world().rank == rank:
        raise LookupError(f"{message} on rank {rank}")
    return world().rank


def fail_on_and_meet(rank):
    if world().rank == rank:
        raise LookupError(f"instead of meeting the others, on rank {rank}")
    world().barrier()


def fail_differently():
    raise (ValueError, KeyError)[world().rank](f"rank {world().rank}")


# ---- results ----


def test_results_are_a_list_in_rank_order(mpi_executor):
    assert mpi_executor.submit(calc, 3).result() == [(3, 2, 0), (3, 2, 1)]


def test_ranks_work_together(mpi_executor):
    assert mpi_executor.submit(allreduce, 5).result() == [15, 15]


def test_functions_without_mpi_run_on_each_rank(mpi_executor):
    assert mpi_executor.submit(square, 3).result() == [9, 9]
    assert len(set(mpi_executor.submit(pid).result())) == RANKS


def test_arguments_arrive_on_each_rank(mpi_executor):
    assert mpi_executor.submit(add, 1, y=2).result() == [3, 3]


@pytest.mark.parametrize("size", [10, 100_000, 5_000_000])
def test_arrays_arrive_on_each_rank_and_from_each(mpi_executor, size):
    def scale(array):
        array *= world().rank + 1  # arrays are writable
        return array

    results = mpi_executor.submit(scale, np.arange(float(size))).result()
    for rank in range(RANKS):
        np.testing.assert_array_equal(results[rank], (rank + 1) * np.arange(float(size)))
        assert results[rank].flags.writeable


def test_results_of_different_sizes_on_each_rank_arrive(mpi_executor):
    def work():
        return np.full(10 ** (2 + 4 * world().rank), world().rank)

    assert [len(array) for array in mpi_executor.submit(work).result()] == [100, 1_000_000]


def test_ranks_exchange_messages_among_themselves(mpi_executor):
    def ring(value):
        comm = world()
        return comm.sendrecv(value + comm.rank, dest=(comm.rank + 1) % comm.size)

    assert mpi_executor.submit(ring, 10).result() == [11, 10]


def test_calls_follow_each_other_without_mixing(mpi_executor):
    calls = [mpi_executor.submit(allreduce, i) for i in range(200)]
    assert [call.result() for call in calls] == [[3 * i, 3 * i] for i in range(200)]


def test_map_gives_a_list_for_each_item(mpi_executor):
    assert list(mpi_executor.map(allreduce, range(5))) == [[3 * i, 3 * i] for i in range(5)]


def test_chunks_give_a_list_for_each_item_too(mpi_executor):
    assert list(mpi_executor.map(square, range(5), chunksize=2)) == [[i * i, i * i] for i in range(5)]


def test_result_can_be_argument_of_next_call(mpi_executor):
    assert mpi_executor.submit(echo, mpi_executor.submit(allreduce, 1)).result() == [[3, 3], [3, 3]]


def test_two_workers_of_two_ranks_run_concurrently(make_executor, gate):
    exe = make_executor(max_workers=None, max_cores=4, cores_per_worker=2)
    calls = [exe.submit(hold, gate.path) for _ in range(2)]
    gate.wait_until_begun(4)
    gate.open(4)
    assert len({process for call in calls for process in call.result()}) == 4


def test_max_cores_counts_ranks(make_executor):
    exe = make_executor(max_workers=None, max_cores=2, cores_per_worker=2)
    assert exe.info["max_workers"] == 1
    assert exe.submit(calc, 1).result() == [(1, 2, 0), (1, 2, 1)]


def test_a_waiting_call_can_be_cancelled(make_executor, gate, tmp_path):
    exe = make_executor(cores_per_worker=2)
    running = exe.submit(hold, gate.path, "held")
    gate.wait_until_begun(2)
    waiting = [exe.submit(square, i) for i in range(10)]
    assert all(call.cancel() for call in waiting)
    gate.open(2)
    assert running.result() == ["held", "held"]
    assert exe.submit(square, 3).result() == [9, 9]


def test_output_of_ranks_reaches_the_user(make_executor, capfd):
    exe = make_executor(cores_per_worker=2)
    exe.submit(lambda: print(f"rank {world().rank}")).result()
    exe.shutdown()
    assert sorted(capfd.readouterr().out.splitlines()) == ["rank 0", "rank 1"]


def test_workers_run_in_the_folder_they_are_given(make_executor, tmp_path):
    assert make_executor(cores_per_worker=2, cwd=str(tmp_path)).submit(os.getcwd).result() == [str(tmp_path)] * 2


def test_no_rank_is_left_after_shutdown(make_executor):
    exe = make_executor(cores_per_worker=2)
    ranks = exe.submit(pid).result()
    exe.shutdown()
    assert [rank for rank in ranks if is_alive(rank)] == []


def test_shutdown_ends_worker_that_is_still_starting(make_executor):
    make_executor(cores_per_worker=2).shutdown()


def test_script_without_mpiexec_sends_its_functions(tmp_path):
    script = """
from pympipool import Executor

def calc(i):
    from mpi4py import MPI
    size = MPI.COMM_WORLD.Get_size()
    rank = MPI.COMM_WORLD.Get_rank()
    return i, size, rank

with Executor(max_cores=2, cores_per_worker=2, block_allocation=True) as exe:
    fs = exe.submit(calc, 3)
    print(fs.result())
"""
    assert run_script(script, tmp_path) == "[(3, 2, 0), (3, 2, 1)]\n"


# ---- failures ----


@pytest.mark.usefixtures("goes_on")
class TestFailures:
    def test_an_exception_on_all_ranks_arrives(self, mpi_executor):
        with pytest.raises(ZeroDivisionError):
            mpi_executor.submit(divide, 1, 0).result()

    @pytest.mark.parametrize("rank", [0, 1])
    def test_exception_on_one_rank_names_the_rank(self, mpi_executor, rank):
        error = mpi_executor.submit(fail_on, rank).exception()
        assert type(error) is LookupError
        assert str(error) == f"on purpose on rank {rank}"
        assert f"rank {rank}" in "".join(traceback.format_exception(error))

    def test_different_exceptions_of_ranks_are_all_reported(self, mpi_executor):
        error = mpi_executor.submit(fail_differently).exception()
        assert isinstance(error, (ValueError, KeyError))
        shown = "".join(traceback.format_exception(error))
        assert "ValueError: rank 0" in shown
        assert "KeyError: 'rank 1'" in shown

    @pytest.mark.parametrize("rank", [0, 1])
    def test_unpicklable_result_on_one_rank_fails_call(self, mpi_executor, rank):
        def work():
            return (x for x in "x") if world().rank == rank else 1

        assert isinstance(mpi_executor.submit(work).exception(), SerializationError)

    def test_arguments_that_cannot_be_pickled_fail_the_call(self, mpi_executor):
        assert isinstance(mpi_executor.submit(echo, (x for x in "x")).exception(), SerializationError)

    def test_alternating_failures_and_results_do_not_mix(self, mpi_executor):
        calls = [mpi_executor.submit(fail_on, i % 4) for i in range(8)]
        for i, call in enumerate(calls):
            if i % 4 < RANKS:
                assert isinstance(call.exception(), LookupError)
            else:
                assert call.result() == [0, 1]


@pytest.mark.parametrize("rank", [0, 1])
def test_diverged_rank_error_is_reported_within_seconds(make_executor, rank):
    exe = make_executor(cores_per_worker=2)
    old = [psutil.Process(process) for process in exe.submit(pid).result()]
    with pytest.raises(LookupError, match=f"on rank {rank}"):
        exe.submit(fail_on_and_meet, rank).result(timeout=60)
    assert exe.submit(allreduce, 1).result() == [3, 3]
    psutil.wait_procs(old, timeout=60)
    assert [process for process in old if process.is_running()] == []


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_death_fails_only_its_running_call(make_executor, rank):
    def die():
        if world().rank == rank:
            os._exit(7)
        world().barrier()

    exe = make_executor(cores_per_worker=2)
    call, *after = [exe.submit(die), *(exe.submit(allreduce, i) for i in range(5))]
    with pytest.raises(WorkerDied, match="die"):
        call.result()
    assert [other.result() for other in after] == [[3 * i, 3 * i] for i in range(5)]


def test_function_that_ends_ranks_ends_its_calls(make_executor, tmp_path, monkeypatch):
    """It is unpickled in its calls, and no call that waits is lost with them."""
    name = f"ending_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(f"import os\nif os.getppid() != {os.getppid()}: os._exit(7)\ndef f(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = importlib.import_module(name).f
    exe = make_executor(cores_per_worker=2)
    calls = [exe.submit(function), exe.submit(function), exe.submit(allreduce, 1)]
    assert [type(call.exception()) for call in calls] == [WorkerDied, WorkerDied, type(None)]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_first_dead_rank_gives_the_exit_code(make_executor, rank, monkeypatch):
    monkeypatch.setattr(WorkerProcess, "exit_grace_s", LIMIT_S)  # on a busy machine mpiexec takes longer than usually

    def end():
        if world().rank == rank:
            os._exit(3)
        threading.Event().wait()

    exe = make_executor(cores_per_worker=3)
    for _ in range(5):
        died = exe.submit(end).exception(timeout=2 * LIMIT_S)
        assert isinstance(died, WorkerDied)
        assert (died.rank, died.exit_code) == (rank, 3)


def test_mpiexec_killed_during_start_prints_nothing(capfd):
    for number in range(30):
        exe = Executor(max_cores=2, cores_per_worker=2, block_allocation=True)
        threading.Event().wait(number * 0.004)
        exe.shutdown()
    assert capfd.readouterr() == ("", "")


# ---- result_of ----


def unpicklable_but_on_root(value):
    return value if world().rank == 0 else threading.Lock()


@pytest.mark.parametrize("block_allocation", [False, True], indirect=True)
def test_result_of_root_is_that_of_rank_0(make_executor):
    exe = make_executor(cores_per_worker=RANKS, result_of="root")
    assert exe.submit(rank_and, "value").result() == (0, "value")
    assert exe.submit(unpicklable_but_on_root, 3).result() == 3
    assert list(exe.map(rank_and, range(2))) == [(0, 0), (0, 1)]
    array = np.arange(300_000)
    assert (exe.submit(echo, array).result() == array).all()
    with pytest.raises(ValueError, match="rank 1"):
        exe.submit(fail_on_rank_1).result()
    assert exe.info["result_of"] == "root"


def test_single_call_selects_whose_result_it_wants():
    with Executor(max_cores=RANKS) as exe:
        root, every, one = (
            exe.submit(rank_and, 1, resource_dict=resources)
            for resources in ({"cores": RANKS, "result_of": "root"}, {"cores": RANKS}, {"result_of": "root"})
        )
        assert (root.result(), every.result(), one.result()) == ((0, 1), [(0, 1), (1, 1)], (0, 1))


def fail_on_rank_1():
    if world().rank == 1:
        raise ValueError("rank 1")
