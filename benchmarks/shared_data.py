"""Data that many calls use: a large array that they read, and one that they write.

    WAYS[peer.name] ─► read(rows), noop(rows) ─► seconds of 1000 calls, and their rate as a share of that of no-op calls
    pympipool: calls that write rows of a shared array, calls that return them ─► seconds of 2000 calls of each kind

Each peer sends the array that is read once, as its documentation says, which is not measured. Each call reads another row: one
that its worker may not have touched before.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import calls
from benchmarks.peers import Feature, Peer, Request, make_executorlib
from benchmarks.pools import MultiprocessingPool, Pool, RayHandle, StandardPool
from benchmarks.samples import Effort, Values, affordable_calls, seconds_of

REQUEST = Request(2, needs=Feature.SHARED_DATA)
CALLS = 1000
REPEATS = 4
SHAPE = (10_000, 1000)
"""More rows than calls: no row is read twice."""

WRITE_REQUEST = Request(2, needs=Feature.SHARED_ARRAYS)
WRITES = 2000
RESULT_SHAPE = (WRITES, 10_000)

Run = Callable[[Sequence[int]], Sequence[float]]
"""Makes a call for each row, and returns their results."""

Runs = tuple[Run, Run]
"""Calls that read the row, and no-op calls."""


def many_calls(peer: Peer, effort: Effort) -> Values:
    """Return the seconds of 1000 calls, and their rate as a share of that of no-op calls, which run in turns with them."""
    array = np.empty(SHAPE)
    array[:] = np.arange(len(array))[:, None]
    rows = itertools.cycle(range(len(array)))

    def run(run_all: Run, count: int) -> None:
        wanted = list(itertools.islice(rows, count))
        if list(run_all(wanted)) != wanted:
            raise RuntimeError("calls have read wrong rows")

    with WAYS[peer.name](peer, array) as runs:
        count = min(affordable_calls(CALLS, effort, partial(run, run_all)) for run_all in runs)
        times: tuple[list[float], list[float]] = ([], [])
        while not times[0] or (len(times[0]) < REPEATS and sum(times[0]) < effort.budget_s):
            for run_all, of_run in zip(runs, times, strict=True):
                of_run.append(seconds_of(partial(run, run_all, count)))
    read_s, noop_s = map(statistics.median, times)
    return read_s / count * CALLS, noop_s / read_s


def many_writes(peer: Peer, effort: Effort) -> Values:
    """Return the seconds of 2000 calls that each write a row of an array, and how often as fast that is as to return the row.

    The script copies rows that are returned into an array. It has used all pages of both arrays before. Workers map what they write
    when they write it first.
    """
    from pympipool import shared_array

    shared, own = shared_array(RESULT_SHAPE), np.ones(RESULT_SHAPE)
    times: tuple[list[float], list[float]] = ([], [])
    with peer.opened(WRITE_REQUEST) as pool:

        def write(count: int) -> None:
            for handle in [pool.submit(calls.write_row, shared[i], i) for i in range(count)]:
                handle.result()

        def fetch(count: int) -> None:
            for i, handle in enumerate([pool.submit(calls.new_row, i, RESULT_SHAPE[1]) for i in range(count)]):
                own[i] = handle.result()

        count = min(affordable_calls(WRITES, effort, run) for run in (write, fetch))
        shared[:] = own[:] = -1.0
        while not times[0] or (len(times[0]) < REPEATS and sum(times[0]) < effort.budget_s):
            for run, of_run in zip((write, fetch), times, strict=True):
                of_run.append(seconds_of(partial(run, count)))
        if shared[:count, -1].tolist() != list(range(count)) or not np.array_equal(shared[:count], own[:count]):
            raise RuntimeError("calls have written wrong rows")
    write_s, fetch_s = map(statistics.median, times)
    return write_s / count * WRITES, fetch_s / write_s


# ---- the ways ----


def _submit_each(pool: Pool, fn: Callable[..., Any], *shared: Any) -> Run:
    return lambda rows: [handle.result() for handle in [pool.submit(fn, row, *shared) for row in rows]]


@contextmanager
def _argument(share: Callable[[Pool, Any], Any], peer: Peer, array: Any) -> Iterator[Runs]:
    """Pass to each call what stands for the array."""
    with peer.opened(REQUEST) as pool:
        yield _submit_each(pool, calls.max_of_row, share(pool, array)), _submit_each(pool, calls.noop)


def _share(_pool: Any, array: Any) -> Any:
    from pympipool import share

    return share(array)


def _scatter(pool: Any, array: Any) -> Any:
    return pool.client.scatter(array, broadcast=True)


def _put(_pool: Any, array: Any) -> Any:
    import ray

    return RayHandle(ray.put(array))


@contextmanager
def _initializer(make: Callable[..., Pool], peer: Peer, array: Any) -> Iterator[Runs]:
    """Set a global of each worker."""
    opened = replace(peer, make=lambda request: make(request.workers, initializer=calls.keep, initargs=(array,)))
    with opened.opened(REQUEST) as pool:
        yield _submit_each(pool, calls.max_of_kept_row), _submit_each(pool, calls.noop)


def _pool(workers: int, **options: Any) -> Pool:
    return MultiprocessingPool(multiprocessing.Pool(workers, **options))


def _process_pool(workers: int, **options: Any) -> Pool:
    return StandardPool(ProcessPoolExecutor(workers, **options))


def _loky(workers: int, **options: Any) -> Pool:
    from loky import ProcessPoolExecutor as LokyExecutor

    return StandardPool(LokyExecutor(workers, **options))


def _mpi4py(workers: int, **options: Any) -> Pool:
    from mpi4py.futures import MPIPoolExecutor

    return StandardPool(MPIPoolExecutor(workers, **options))


@contextmanager
def _init_function(peer: Peer, array: Any, **options: Any) -> Iterator[Runs]:
    """Have each worker of executorlib pass the array to those functions that have a parameter of this name."""
    make = partial(make_executorlib, init_function=lambda: {"array": array}, **options)
    with replace(peer, make=make).opened(REQUEST) as pool:
        yield _submit_each(pool, calls.max_of_row), _submit_each(pool, calls.noop)


@contextmanager
def _shared_objects(_peer: Peer, array: Any) -> Iterator[Runs]:
    """Have mpire pass the array to every function."""
    from mpire import WorkerPool

    with WorkerPool(REQUEST.workers, shared_objects=array, keep_alive=True) as pool:

        def apply_each(fn: Callable[..., Any], rows: Sequence[int]) -> list[Any]:
            return [applied.get() for applied in [pool.apply_async(fn, (row,)) for row in rows]]

        yield partial(apply_each, calls.max_of_shared_row), partial(apply_each, calls.noop_with_shared)


@contextmanager
def _memmap(peer: Peer, array: Any) -> Iterator[Runs]:
    """Have joblib pass each call a memmap of a file."""
    import joblib

    with tempfile.TemporaryDirectory(prefix="pympipool-bench-") as folder, peer.opened(REQUEST) as opened:
        pool: Any = opened
        file = Path(folder, "array")
        joblib.dump(array, file)
        memmap = joblib.load(file, mmap_mode="r")

        def read(rows: Sequence[int]) -> list[float]:
            results: list[float] = pool.parallel(joblib.delayed(calls.max_of_row)(row, memmap) for row in rows)
            return results

        yield read, partial(pool.map, calls.noop, chunksize=None)


WAYS: dict[str, Callable[[Peer, Any], AbstractContextManager[Runs]]] = {
    "pympipool": partial(_argument, _share),
    "multiprocessing.Pool": partial(_initializer, _pool),
    "ProcessPoolExecutor": partial(_initializer, _process_pool),
    "loky": partial(_initializer, _loky),
    "mpire": _shared_objects,
    "mpi4py.futures": partial(_initializer, _mpi4py),
    "executorlib": _init_function,
    "executorlib, dependencies off": partial(_init_function, disable_dependencies=True),
    "dask": partial(_argument, _scatter),
    "ray": partial(_argument, _put),
    "joblib": _memmap,
}
"""How each peer shares the array, by the name of the peer."""
