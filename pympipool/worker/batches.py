"""Batches: calls of one function that travel together, as `Executor.map` makes them.

    columns ([1, 2, 3], ["a", "b", "c"]) -> f(1, "a"), f(2, "b"), f(3, "c") -> (results, error)

A batch ends with its first exception. What was returned before arrives all the same, and as it was when it was returned: a
later call of the batch may change what an earlier one has returned. So a batch is to its user what the single calls would have
been.
"""

from __future__ import annotations

import os
from time import monotonic_ns

from pympipool._core.sequences import freeze_all
from pympipool._util.cmodules import socket
from pympipool._util.reprs import callable_name
from pympipool.serialization.exceptions import dump_exception
from pympipool.serialization.payload import IMMUTABLE_TYPES, Pickled, dump_frozen, freeze

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, TypeAlias

Batch: TypeAlias = "tuple[Pickled, list[Any] | None]"
"""The results, pickled, and the parts of the exception that came after them (None: they are all)."""


LOOK = 16
"""After so many calls of a traced batch: are they long enough to be told apart?"""

SHORT_NS = 10_000
"""Shorter calls are not: reading the clock for each of them would be felt, and nobody could see them."""


def run_each(function: Callable[..., Any], columns: Sequence[Sequence[Any]], stamps: list[int] | None = None) -> Batch:
    """Runs function for each row of the columns, in order, until one raises.

    Args:
        stamps: Where to put down when each call ended (monotonic clock, ns), unless they are short.
    """
    results: list[Any] = []
    error: list[Any] | None = None
    each = map(function, *columns)
    try:
        if stamps is None or not _run_and_time(each, results, stamps):
            freeze_all(
                results, each, IMMUTABLE_TYPES, freeze
            )  # what was returned before an exception stays in the list
        if len(results) < len(columns[0]):
            raise RuntimeError(
                f"{callable_name(function)}() raised StopIteration, as next() does at the end of an iterator: catch it, or give"
                " next() a default; here it would have taken its place out of the results"
            )
    except BaseException as raised:  # SystemExit too, as in concurrent.futures
        error = dump_exception(raised, _where())
    return Pickled(dump_frozen(results)), error


def _run_and_time(each: Iterator[Any], results: list[Any], stamps: list[int]) -> bool:
    """Goes through all calls, or through the first ones if they are short; then nothing is put down.

    Returns:
        Whether it has gone through all, or to one that raised StopIteration.
    """
    are_short = False
    begun_ns = monotonic_ns()
    for result in each:
        results.append(result if type(result) in IMMUTABLE_TYPES else freeze(result))
        stamps.append(monotonic_ns())
        if len(results) == LOOK and stamps[-1] - begun_ns < LOOK * SHORT_NS:
            are_short = True
            break
    if results and stamps[-1] - begun_ns < len(results) * SHORT_NS:
        stamps.clear()
    return not are_short


def _where() -> str:
    return f"a worker (host {socket.gethostname()}, pid {os.getpid()})"
