"""The cases to measure. A case takes a sample of one peer; `rounds` compares the peers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np

from benchmarks import calls, limits, payloads, shared_data
from benchmarks.payloads import PAYLOADS, Payload
from benchmarks.peers import PAYLOADS_SECTION, SHARED_SECTION, Feature, Peer, Request
from benchmarks.samples import (
    Effort,
    Measure,
    Values,
    chain,
    echo,
    echo_of_ranks,
    efficiency,
    fan_in,
    first_result,
    idle_cores,
    idle_rank_cores,
    in_open_pool,
    large_argument,
    map_rate,
    one_process_per_call,
    pending_memory,
    round_trip,
    script_call,
    submit_rate,
)
from benchmarks.units import BYTES, CORES, RATE, SECONDS, SHARE, TIME, TIMES, TIMES_AS_LONG, TRIPS, Quantity


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Args:
        section: the section of the page; the cases of a section share a plot.
        title: the title of the column.
        quantities: the quantities of a sample.
        request: the workers that the case needs.
        sample: takes a sample of a peer.
        table: title of the table. Cases of a section with the same title are columns of one table; "" if the section
            has only one table.
        x: position on the x axis of a line plot; None for cases that are drawn as points.
        limit: measures the limit of the machine, in the same quantities or in the first of them.
        core: True if the case is a part of the quick run and is also measured on peers that are slow to start.
    """

    section: str
    title: str
    quantities: tuple[Quantity, ...]
    request: Request
    sample: Callable[[Peer, Effort], Values]
    table: str = ""
    x: float | None = None
    limit: Callable[[], Values] | None = None
    core: bool = True

    @property
    def name(self) -> str:
        """The name on the command line and of the file of results."""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.section} {self.table} {self.title}".lower()).strip("-")


def _case(
    section: str,
    title: str,
    measure: Measure,
    *,
    quantities: tuple[Quantity, ...] = TIME,
    request: Request | None = None,
    **others: Any,
) -> Case:
    request = request or Request()
    return Case(section, title, quantities, request, in_open_pool(request, measure), **others)


def _rate_cases() -> Iterator[Case]:
    case = partial(_case, "Rate", quantities=(Quantity("rate", RATE),))
    yield case("submit, 1 worker", submit_rate, limit=lambda: (limits.records_per_second(),))
    yield case("submit, 2 workers", submit_rate, request=Request(2))
    yield case("map, 2 workers", partial(map_rate, max_calls=20_000, chunksize=None), request=Request(2))
    chunked = partial(map_rate, max_calls=200_000, chunksize=1000)
    yield case("map with chunksize 1000, 2 workers", chunked, request=Request(2))


def _script_cases() -> Iterator[Case]:
    """Yield cases with classes that the script defines."""
    for title in ("instance", "bound method", "result", "method with such a result"):
        measure = partial(script_call, case=title)
        yield _case("Classes of the script", title, measure, quantities=TRIPS)


def _array(size_bytes: int) -> Any:
    return np.random.default_rng(1).random(size_bytes // 8)


def _nested(size_bytes: int) -> Any:
    return {f"step {i}": {"positions": _array(size_bytes // 10), "energy": float(i)} for i in range(10)}


def _frame(size_bytes: int) -> Any:
    import pandas as pd

    return pd.DataFrame(_array(size_bytes).reshape(-1, 10), columns=list("abcdefghij"))


def _dates(size_bytes: int) -> Any:
    return np.arange(size_bytes // 8).astype("M8[s]")


def _masked(size_bytes: int) -> Any:
    array = np.ma.masked_array(_array(size_bytes))
    array[::100] = np.ma.masked
    return array


@cache
def _file_of_array(size_bytes: int) -> Any:
    file = NamedTemporaryFile(prefix="pympipool-bench-")  # removed when this process ends
    _array(size_bytes).tofile(file.name)
    return file


def _memmap(size_bytes: int) -> Any:
    return np.memmap(_file_of_array(size_bytes).name, dtype=float, mode="r+")


def _echo_cases() -> Iterator[Case]:
    def case(table: str, title: str, make: Callable[[int], Any], size_bytes: int = 0, *, core: bool = False) -> Case:
        """Return a case. It calls make only when it takes a sample: values of 100 MB are not created at import."""

        def limit() -> Values:
            return (2 * limits.copy_time(size_bytes),)

        return _case(
            f"Echo of {table}",
            title,
            lambda pool, effort: echo(pool, effort, make(size_bytes)),
            x=size_bytes if make in {_array, bytes} else None,
            limit=limit if size_bytes >= 1000 else None,
            core=core,
        )

    sizes = ((1, "1 B"), (1000, "1 kB"), (100_000, "100 kB"), (10_000_000, "10 MB"), (100_000_000, "100 MB"))
    for size_bytes, title in sizes:
        yield case("bytes", title, bytes, size_bytes)
    sizes = ((8000, "8 kB"), (80_000, "80 kB"), (800_000, "800 kB"), (8_000_000, "8 MB"), (100_000_000, "100 MB"))
    for size_bytes, title in sizes:
        yield case("float64 arrays", title, _array, size_bytes, core=size_bytes == 8_000_000)
    yield case("other values", "int", lambda _: 12345)
    yield case("other values", "dict of dicts of arrays, 8 MB", _nested, 8_000_000)
    for title, make in (("datetime64 array", _dates), ("masked array", _masked), ("memmap of a file", _memmap)):
        yield case("other values", f"{title}, 8 MB", make, 8_000_000)
    if find_spec("pandas") is not None:
        yield case("other values", "pandas frame, 8 MB", _frame, 8_000_000)


def _efficiency_cases() -> Iterator[Case]:
    """Yield cases for 1 to 64 workers. With more than 2 workers the calls sleep: there may not be a core for each."""
    for workers in (1, 2, 4, 16, 64):
        call = calls.spin if workers <= 2 else calls.sleep
        verb = "compute" if workers <= 2 else "sleep"
        for call_s in (1e-4, 1e-3, 1e-2):
            yield _case(
                "Efficiency",
                f"calls of {1000 * call_s:g} ms",
                partial(efficiency, workers=workers, call=call, call_s=call_s),
                table=f"{workers} worker{'s' * (workers > 1)} that {verb}{'s' * (workers == 1)}",
                x=call_s,
                quantities=(Quantity("share", SHARE),),
                request=Request(workers, needs=Feature.MANY_WORKERS if workers > 4 else Feature.NOTHING),
                core=(workers, call_s) in {(2, 1e-3), (64, 1e-2)},
            )


def _payload_cases() -> Iterator[Case]:
    """Yield cases of what programs really send and return, through each of the ways in which they call an executor."""
    case = partial(_case, PAYLOADS_SECTION, core=False)
    in_pool = (Quantity("submit", SECONDS), Quantity("map", SECONDS), Quantity("map, chunksize 100", SECONDS))
    for payload in PAYLOADS:
        yield case(payload.title, partial(payloads.in_pool, payload), table="submit and map", quantities=in_pool)
    for payload in PAYLOADS:
        if payload.title in payloads.WAYS:
            yield from _ways(payload)


def _ways(payload: Payload) -> Iterator[Case]:
    case = partial(_case, PAYLOADS_SECTION, payload.title, core=False)
    request = Request(2, needs=Feature.EXECUTOR)
    awaited = (Quantity("gather", SECONDS), Quantity("one by one", SECONDS))
    yield case(partial(payloads.by_asyncio, payload), table="asyncio", request=request, quantities=awaited)
    if find_spec("dask") is not None:
        yield case(partial(payloads.by_dask, payload), table="dask", request=request)
    if find_spec("joblib") is not None:
        request = Request(2, needs=Feature.JOBLIB)

        def by_joblib(peer: Peer, effort: Effort) -> Values:
            return payloads.by_joblib(payload, peer, effort, request.workers)

        yield Case(PAYLOADS_SECTION, payload.title, TIME, request, by_joblib, table="joblib", core=False)


def _large_argument(pool: Any, effort: Effort, size_bytes: int) -> Values:
    return large_argument(pool, effort, np.ones(size_bytes // 8))


def _rank_cases() -> Iterator[Case]:
    """Yield cases of functions that run on several ranks."""
    case = partial(_case, "MPI functions")
    requests = {ranks: Request(ranks=ranks, needs=Feature.MPI) for ranks in (2, 4, 8)}
    for ranks, request in requests.items():
        yield case(f"round trip, {ranks} ranks", round_trip, quantities=TRIPS, request=request)
    for ranks, request in requests.items():
        rate = (Quantity("rate", RATE),)
        yield case(f"submit, {ranks} ranks", submit_rate, table="rate", quantities=rate, request=request)

    def echo_of_two(peer: Peer, effort: Effort) -> Values:
        return echo_of_ranks(peer, effort, requests[2], _array(8_000_000))

    echo = (Quantity("time", SECONDS), Quantity("compared with one process", TIMES_AS_LONG))
    yield Case("MPI functions", "8 MB, 2 ranks", echo, requests[2], echo_of_two, table="echo of an array")
    for ranks in (2, 4):
        large = (Quantity("time", SECONDS), Quantity("memory of a rank", BYTES))
        argument, title = partial(_large_argument, size_bytes=256_000_000), f"256 MB, {ranks} ranks"
        yield case(title, argument, table="large argument", quantities=large, request=requests[ranks], core=False)
    for ranks in (2, 8):
        idle, title = (Quantity("of a core", CORES),), f"a rank of {ranks}"
        yield case(title, idle_rank_cores, table="idle ranks", quantities=idle, request=requests[ranks], core=False)


def _shared_cases() -> Iterator[Case]:
    """Yield cases of many calls that each read, or write, a row of one large array."""
    quantities = (Quantity("time", SECONDS), Quantity("share of the rate of no-op calls", SHARE))
    yield Case(SHARED_SECTION, "1000 calls", quantities, shared_data.REQUEST, shared_data.many_calls)
    quantities = (Quantity("time", SECONDS), Quantity("rate, compared with returned rows", TIMES))
    request, sample = shared_data.WRITE_REQUEST, shared_data.many_writes
    yield Case(SHARED_SECTION, "2000 calls", quantities, request, sample, table="rows written in place")


def _other_cases() -> Iterator[Case]:
    single_use = Request(block=False, needs=Feature.ONE_PROCESS_PER_CALL)
    yield Case("Start", "first result", TIME, Request(), first_result)
    yield _case("Start", "one process per call", one_process_per_call, request=single_use)
    yield from _rank_cases()
    with_futures = Request(needs=Feature.FUTURES_AS_ARGUMENTS)
    yield _case("Futures as arguments", "chain of 1000 calls", chain, request=with_futures)
    yield _case("Futures as arguments", "fan-in of 1000 calls", fan_in, request=with_futures)
    memory = (Quantity("memory", BYTES),)
    yield Case("Cost of waiting", "memory per pending call", memory, Request(), pending_memory, core=False)
    case = partial(_case, "Cost of waiting", measure=idle_cores, quantities=(Quantity("of a core", CORES),))
    yield case(title="2 idle workers", request=Request(2), core=False)
    yield case(title="2 idle workers of 2 ranks", request=Request(2, ranks=2, needs=Feature.MPI), core=False)


CASES: tuple[Case, ...] = (
    _case("Round trip", "no-op call", round_trip, quantities=TRIPS, limit=lambda: (limits.spin_round_trip(),)),
    *_script_cases(),
    *_rate_cases(),
    *_echo_cases(),
    *_payload_cases(),
    *_shared_cases(),
    *_efficiency_cases(),
    *_other_cases(),
)


def find_case(name: str) -> Case:
    """Return the case of this name.

    Raises:
        ValueError: there is no such case.
    """
    for case in CASES:
        if case.name == name:
            return case
    raise ValueError(f"there is no case {name!r}: python -m benchmarks --list shows them")
