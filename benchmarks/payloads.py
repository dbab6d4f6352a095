"""What programs send and return: the values of the cases "Real payloads", and the ways in which they travel.

    Payload ── pairs(n) ─► function and n items ─► submit, map, asyncio, joblib or dask ─► seconds per call

No two items are the same object: in one pickle, the second one would be a reference to the first.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks import calls
from benchmarks.peers import JOBLIB_BACKENDS, Peer
from benchmarks.pools import Pool
from benchmarks.samples import Effort, Values, affordable_calls, seconds_of

MAX_CALLS = 20_000


@dataclass(frozen=True)
class Payload:
    """A kind of call that programs make.

    Args:
        title: title in the tables.
        item: makes the argument of call number i.
        function: returns the function to call. The default returns a function that returns its argument.
    """

    title: str
    item: Callable[[int], Any]
    function: Callable[[], Callable[[Any], Any]] = lambda: calls.noop


def _script() -> Any:
    """Return the module that holds the names of script.py: `__main__` of a peer process."""
    return sys.modules["__main__"]


def _structured(i: int) -> Any:
    rows = np.zeros(10, dtype=[("position", "f8", 3), ("species", "i4")])
    rows["species"] = i
    return rows


@functools.cache
def _frame() -> Any:
    import pandas as pd

    return pd.DataFrame({"volume": np.arange(100.0), "energy": np.arange(100.0) ** 2, "count": np.arange(100)})


def _atoms(i: int) -> Any:
    from ase import Atoms

    return Atoms("Al4", positions=np.arange(12.0).reshape(4, 3) + i, cell=[4.0, 4.0, 4.0], pbc=True)


def _payloads() -> tuple[Payload, ...]:
    everywhere = (
        Payload("int", lambda i: i),
        Payload("string of 100 characters", lambda i: f"{i:>100}"),
        Payload("numpy scalar", np.float64),
        Payload("dict of 4 numbers", lambda i: {"a": 1.5, "b": float(i), "c": i, "d": -1}),
        Payload("list of 10 numbers", lambda i: [float(i)] * 10),
        Payload(
            "nested dict and lists", lambda i: {"id": i, "cell": [[1.0, 0.0], [0.0, float(i)]], "tags": ["a", "b"]}
        ),
        Payload("array of 10 numbers", lambda i: np.full(10, float(i))),
        Payload("structured array of 10 rows", _structured),
        Payload("dataclass of the script", lambda i: _script().Structure("fcc", float(i)), lambda: _script().relax),
        Payload("bound method of the script", float, lambda: _script().Structure("fcc", 4.0).energy),
        Payload("closure over an array", lambda i: i / MAX_CALLS, lambda: _script().closure_over_array()),
    )
    optional = (
        ("pandas", Payload("row of a frame", lambda i: _frame().iloc[i % 100])),
        ("ase", Payload("ase.Atoms", _atoms)),
    )
    return everywhere + tuple(payload for package, payload in optional if find_spec(package) is not None)


PAYLOADS = _payloads()

WAYS = ("int", "nested dict and lists", "dataclass of the script")
"""The payloads that are also measured through asyncio, joblib and dask."""

Run = Callable[[Callable[[Any], Any], Sequence[Any]], Any]
"""Calls a function for each item, and waits for all results."""


def _seconds_per_call(payload: Payload, effort: Effort, run: Run) -> float:
    """Return the time of one call of many. Making the items is not measured."""
    function = payload.function()

    def run_some(count: int) -> None:
        run(function, [payload.item(i) for i in range(count)])

    count = affordable_calls(MAX_CALLS, effort, run_some)
    items = [payload.item(i) for i in range(count)]
    return seconds_of(lambda: run(function, items)) / count


def in_pool(payload: Payload, pool: Pool, effort: Effort) -> Values:
    """Return the seconds per call by `submit`, by `map`, and by `map` with chunksize 100."""

    def submit(function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        for handle in [pool.submit(function, item) for item in items]:
            handle.result()

    def map_(function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        for _ in pool.map(function, items, None):
            pass

    def map_in_chunks(function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        for _ in pool.map(function, items, 100):
            pass

    return tuple(_seconds_per_call(payload, effort, run) for run in (submit, map_, map_in_chunks))


def by_asyncio(payload: Payload, pool: Pool, effort: Effort) -> Values:
    """Return the seconds per call by `run_in_executor`, of many with `gather`, and of one awaited after the other."""

    async def gather(function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(pool.executor, function, item) for item in items))

    async def one_by_one(function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        loop = asyncio.get_running_loop()
        for item in items:
            await loop.run_in_executor(pool.executor, function, item)

    ways = (gather, one_by_one)
    return tuple(
        _seconds_per_call(payload, effort, lambda function, items, way=way: asyncio.run(way(function, items)))  # type: ignore[misc]
        for way in ways
    )


def by_dask(payload: Payload, pool: Pool, effort: Effort) -> Values:
    """Return the seconds per task of a `dask.compute` whose scheduler is the executor."""
    import dask

    def compute(function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        task = dask.delayed(function, pure=False)
        # traverse=False: without it, dask would search each argument for further tasks
        dask.compute(*(task(dask.delayed(item, traverse=False)) for item in items), scheduler=pool.executor)

    return (_seconds_per_call(payload, effort, compute),)


def by_joblib(payload: Payload, peer: Peer, effort: Effort, workers: int) -> Values:
    """Return the seconds per call of a `joblib.Parallel` that keeps its workers."""
    import joblib

    if peer.name == "pympipool":
        import pympipool.joblib  # noqa: F401  # registers the backend

    with joblib.parallel_config(JOBLIB_BACKENDS[peer.name], n_jobs=workers), joblib.Parallel() as parallel:

        def run(function: Callable[[Any], Any], items: Sequence[Any]) -> None:
            parallel(joblib.delayed(function)(item) for item in items)

        return (_seconds_per_call(payload, effort, run),)
