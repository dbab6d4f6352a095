"""Batches: calls of one function that travel together, as `Executor.map` makes them.

    columns ([1, 2, 3], ["a", "b", "c"]) -> f(1, "a"), f(2, "b"), f(3, "c") -> (results, error)

A batch ends with its first exception. What was returned before arrives all the same, so that a batch is to its user what
the single calls would have been.
"""

from __future__ import annotations

import os

from pympipool.light import pickle, socket
from pympipool.serialization import Packed, dump, dump_exception

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias

Batch: TypeAlias = "tuple[Packed, list[Any] | None]"
"""The results, pickled, and the parts of the exception that came after them (None: they are all)."""


def run_each(function: Callable[..., Any], columns: Sequence[Sequence[Any]]) -> Batch:
    """Runs function for each row of the columns, in order, until one raises."""
    results: list[Any] = []
    error: list[Any] | None = None
    try:
        results.extend(map(function, *columns))  # what was returned before an exception stays in the list
    except BaseException as raised:  # SystemExit too, as in concurrent.futures
        error = dump_exception(raised, _where())
    try:
        return Packed(dump(results, "the results")), error
    except pickle.PickleError:  # what dump raises is one
        return _as_far_as_possible(results)


def _as_far_as_possible(results: list[Any]) -> Batch:
    """The results up to the first that cannot be pickled, and what that says."""
    for position, result in enumerate(results):
        try:
            dump(result, "the result")
        except pickle.PickleError as error:
            return Packed(dump(results[:position])), dump_exception(error, _where())
    raise AssertionError("each result can be pickled, but not the list of them")


def _where() -> str:
    return f"a worker (host {socket.gethostname()}, pid {os.getpid()})"
