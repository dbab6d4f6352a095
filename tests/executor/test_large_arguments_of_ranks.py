"""Large arguments of calls on several ranks lie once in the memory of the host."""

import gc
import os
import sys

import numpy as np
import psutil
import pytest

from pympipool import Executor
from pympipool.errors import WorkerDied
from support.calls import pid
from support.processes import is_alive
from support.waiting import wait_until

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(sys.platform != "linux", reason="other systems have no memfd: ranks get copies there"),
]

MB = 1 << 20
LARGE = 64 * MB
RANKS = 2

_kept = {}


@pytest.fixture(scope="module")
def executor():
    """An executor with one worker of two ranks."""
    with Executor(max_workers=1, cores_per_worker=RANKS, block_allocation=True) as exe:
        yield exe


def world():
    from mpi4py import MPI

    return MPI.COMM_WORLD


def array_of(value, size_bytes=LARGE):
    return np.full(size_bytes // 8, float(value))


def add_rank(array):
    """Write into the array, and look at it again when all ranks have done so."""
    array += world().rank
    world().barrier()
    return float(array.mean())


def own_mb():
    """Return the memory that this process has for itself. A shared page counts as private while no other process has it mapped."""
    with open("/proc/self/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:")) / 1024


def read_all(array):
    total = float(array.sum())
    return total, own_mb()


def keep(array):
    _kept["array"] = array


def kept_value():
    return float(_kept["array"].min()), float(_kept["array"].max())


def fail_on_rank(rank, array):
    if world().rank == rank:
        raise ValueError(f"mean {array.mean()}")


def die_on_rank(rank, array):
    array[:] = 0
    if world().rank == rank:
        os.kill(os.getpid(), 9)
    world().barrier()


def fork_and_read(array):
    """Have a child read the array after this process has dropped it, and other calls have run."""
    reading, writing = os.pipe()
    go, goes = os.pipe()
    if os.fork() == 0:
        os.read(go, 1)
        os.write(writing, b"y" if (array == array[0]).all() and array[0] == 1 else b"n")
        os._exit(0)
    _kept["child"] = reading, goes


def ask_child():
    reading, goes = _kept.pop("child")
    os.write(goes, b"x")
    answer = os.read(reading, 1)
    os.wait()
    return answer


def test_ranks_write_what_nobody_else_sees(executor):
    for value in range(3):
        array = array_of(value)
        assert executor.submit(add_rank, array).result() == [value, value + 1.0]
        assert (array == value).all()


def test_memory_of_ranks_does_not_grow_with_arguments(executor):
    before = [mb for _, mb in executor.submit(read_all, array_of(1, 8)).result()]
    sums, after = zip(*executor.submit(read_all, array_of(1)).result(), strict=True)
    assert sums == (LARGE / 8,) * RANKS
    assert all(now - then < 8 for now, then in zip(after, before, strict=True))


def test_kept_argument_stays_as_it_was(executor):
    executor.submit(keep, array_of(1)).result()
    for value in range(2, 6):
        assert executor.submit(add_rank, array_of(value)).result() == [value, value + 1.0]
    assert executor.submit(kept_value).result() == [(1.0, 1.0)] * RANKS


def test_child_of_rank_sees_its_own_argument(executor):
    executor.submit(fork_and_read, array_of(1)).result()
    for value in range(2, 5):
        executor.submit(add_rank, array_of(value)).result()
    assert executor.submit(ask_child).result() == [b"y"] * RANKS


def test_many_arguments_arrive(executor):
    arrays = [array_of(value) for value in range(10)]
    future = executor.submit(lambda *got: [float(one[-1]) for one in got], *arrays)
    assert future.result() == [[float(value) for value in range(10)]] * RANKS


def test_failed_call_gives_way_to_the_next(executor):
    with pytest.raises(ValueError, match="mean 3"):
        executor.submit(fail_on_rank, 1, array_of(3)).result()
    assert executor.submit(add_rank, array_of(4)).result() == [4.0, 5.0]


def test_dead_rank_leaves_nothing():
    """Neither descriptors nor memory, in the script."""
    gc.collect()
    stored, descriptors = stored_memory(), psutil.Process().num_fds()
    with Executor(max_workers=1, cores_per_worker=RANKS, block_allocation=True) as exe:
        ranks = exe.submit(pid).result()
        assert exe.submit(add_rank, array_of(1)).result() == [1.0, 2.0]
        with pytest.raises(WorkerDied):
            exe.submit(die_on_rank, 1, array_of(2)).result()
        wait_until(lambda: not any(map(is_alive, ranks)))
        assert exe.submit(add_rank, array_of(3)).result() == [3.0, 4.0]
    wait_until(lambda: stored_memory() <= stored)
    wait_until(lambda: psutil.Process().num_fds() <= descriptors)


def stored_memory():
    """Return the memory of large arguments that this process has mapped, as numbers of inodes."""
    with open("/proc/self/maps") as maps:
        mapped = [line.split() for line in maps if "memfd:pympipool" in line]
    ends = ([int(end, 16) for end in words[0].split("-")] for words in mapped)
    return {words[4] for words, (first, last) in zip(mapped, ends, strict=True) if last - first >= LARGE}


def test_call_that_is_tried_again_has_its_arguments():
    with Executor(max_workers=1, cores_per_worker=RANKS, block_allocation=True, restart_limit=2) as exe:
        exe.submit(pid).result()
        with pytest.raises(WorkerDied):
            exe.submit(die_on_rank, 0, array_of(1)).result()
        futures = [exe.submit(add_rank, array_of(value)) for value in range(3)]
        assert [future.result() for future in futures] == [[value, value + 1.0] for value in range(3)]
