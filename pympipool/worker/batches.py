"""Batches: calls of one function that travel together, as `Executor.map` makes them.

    columns ([1, 2, 3], ["a", "b", "c"]) -> f(1, "a"), f(2, "b"), f(3, "c") -> (results, error)
    one column of rows: `Rows`, or their pickles: `Entries` -> f(*arguments) for each

A batch ends with its first exception. The results before the exception arrive all the same. A result arrives as it was when
the call returned it, even if a later call of the batch changes the object. So the user sees no difference between a batch
and single calls.
"""

from __future__ import annotations

import os
from itertools import islice, starmap
from time import monotonic_ns

from pympipool._util.cmodules import socket
from pympipool._util.reprs import callable_name
from pympipool.serialization.column_forms import Entries, Rows, taking
from pympipool.serialization.columns import dump_results, freeze
from pympipool.serialization.copying import result_copier
from pympipool.serialization.exceptions import dump_exception
from pympipool.serialization.plain import Pickled
from pympipool.worker.call_forks import NO_ROWS, CallForks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, TypeAlias

    from pympipool._core.copies import Copier
    from pympipool.serialization.column_forms import Entry

Batch: TypeAlias = "Pickled"
"""The results (a list or `Entries`), and the parts of the exception that came after them (None: no call raised)."""


SAMPLE_CALLS = 16
"""Calls of a traced batch after which it is decided whether they are long enough to be timed one by one."""

SHORT_CALL_NS = 10_000
"""Mean duration below which the calls of a batch are not timed: reading the clock would slow them down noticeably, and they
could not be told apart in a picture of the trace."""


def run_each(
    function: Callable[..., Any],
    columns: Sequence[Any],
    stamps: list[int] | None = None,
    forks: CallForks | None = None,
) -> Batch:
    """Run function for each row of the columns, in order, until one call raises.

    Args:
        stamps: Gets the time at which each call ended (monotonic clock, ns), unless the calls are short. None: the batch is
            not traced.
        forks: Ends what a call forks; None: nothing does.
    """
    results: list[Any] = []
    error: list[Any] | None = None
    count = len(columns[0])
    copier = result_copier(count)
    forks = forks or CallForks()
    if type(columns[0]) is Entries:
        rows = [NO_ROWS]
        calls: Iterator[Any] = starmap(function, map(_loader(columns[0], forks), columns[0].entries))
    else:
        rows = columns[0].iterators() if type(columns[0]) is Rows else list(map(taking, columns))
        calls = map(function, *rows)
    forks.rows = rows[0]
    try:
        if stamps is None or not _run_and_time(calls, results, stamps, copier):
            copier.freeze_all(results, calls, freeze)  # results before an exception stay in the list
        forks.end_fork()
        if len(results) < count:
            raise RuntimeError(
                f"{callable_name(function)}() raised StopIteration, as next() does at the end of an iterator: catch it, or give"
                " next() a default; here it would have taken its place out of the results"
            )
    except BaseException as raised:  # SystemExit too, as in concurrent.futures
        forks.end_fork()
        error = dump_exception(raised, _location())
    finally:
        forks.rows = NO_ROWS
    return Pickled(dump_results(results, error, has_instances=bool(copier.kinds)))


def _loader(entries: Entries, forks: CallForks) -> Callable[[Entry], Any]:
    """Return a function that unpickles the arguments of a call. A fork ends in it, also one that was made while it unpickles."""
    load = entries.load

    def load_in_worker(entry: Entry) -> Any:
        if forks.is_fork:
            forks.end_fork()
        arguments = load(entry)
        if forks.is_fork:
            forks.end_fork()
        return arguments

    return load_in_worker


def _run_and_time(calls: Iterator[Any], results: list[Any], stamps: list[int], copier: Copier) -> bool:
    """Run and time all calls. If the first ones are short, stop after them and discard the times.

    Returns:
        True if all calls have run, or all before one that raised StopIteration.
    """
    are_short = False
    start_ns = monotonic_ns()
    while True:
        count = len(results)
        copier.freeze_all(results, islice(calls, 1), freeze)
        if len(results) == count:
            break
        stamps.append(monotonic_ns())
        if len(results) == SAMPLE_CALLS and stamps[-1] - start_ns < SAMPLE_CALLS * SHORT_CALL_NS:
            are_short = True
            break
    if results and stamps[-1] - start_ns < len(results) * SHORT_CALL_NS:
        stamps.clear()
    return not are_short


def _location() -> str:
    return f"a worker (host {socket.gethostname()}, pid {os.getpid()})"
