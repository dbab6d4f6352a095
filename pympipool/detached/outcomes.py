"""How detached calls end: with a result, which becomes one of the cache, with an exception, or with the words of the scheduler."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pympipool._util.reprs import summarize_error
from pympipool._util.service_threads import ServiceLogger
from pympipool.caching.entries import answer
from pympipool.caching.exceptions import raised
from pympipool.caching.file_format import INLINE_BYTES_MAX
from pympipool.errors import JobError
from pympipool.execution.dependencies import InputError, has_result
from pympipool.serialization import payload
from pympipool.serialization.exceptions import load_exception

if TYPE_CHECKING:
    from pympipool.caching.store import Store
    from pympipool.detached.spool import End, Spool
    from pympipool.detached.submitting import Call

__all__ = ["answer_from_cache", "fail", "fail_with_exception", "fail_without_result", "keep_exception", "keep_result"]

LOGGER = ServiceLogger("pympipool.detached")

MOVED_BYTES = 16 * INLINE_BYTES_MAX
"""Size from which the file of a result is moved into the cache. Smaller ones are written anew, or into the index."""


def keep_result(store: Store, spool: Spool, number: int, end: End, call: Call) -> tuple[list[Any], bool]:
    """Make a result one of the cache; return its parts, and True if that was possible.

    Raises:
        OSError, ValueError: The file of the result is not there, or is damaged.
    """
    parts = spool.read_result(number, end)
    try:
        if end.size_bytes >= MOVED_BYTES:
            path = spool.result_path(number)
            store.adopt(call.key, path, end.size_bytes, call.function, call.arguments, end.run_ns)
        else:
            store.write([(call.key, parts, call.function, call.arguments, end.run_ns)])
    except (OSError, sqlite3.Error) as problem:  # a full disk: a later script tries it again
        LOGGER.warning("the result of %s() is not in the cache yet: %s", call.function, problem)
        return parts, False
    return parts, True


def keep_exception(store: Store, end: End, call: Call, parts: list[Any]) -> bool:
    """Make what a call has raised one of the results of the cache; return True if that was possible."""
    try:
        store.write([(call.key, raised(parts), call.function, call.arguments, end.run_ns)])
    except (OSError, sqlite3.Error) as problem:
        LOGGER.warning("the exception of %s() is not in the cache: %s", call.function, problem)
        return False
    return True


def answer_from_cache(store: Store, call: Call, parts: list[Any] | None = None) -> bool:
    """End the future of a call with its cached result, or with these parts if the cache has none; else return False."""
    if call.future.done():
        return True
    found = store.find(call.key)
    if found is not None:
        with suppress(InvalidStateError):  # it was cancelled just now
            answer(call.future, call.future.cache_entry, found)
        return True
    if parts is None:
        return False
    try:
        call.future.set_result(payload.load_copy(parts, "the result"))
    except InvalidStateError:
        pass
    except Exception as error:  # unpickling runs code of the user's classes
        fail(call, error)
    except BaseException as problem:  # nor may it end the thread
        fail(call, _unreadable(call, problem))
    return True


def fail_with_exception(call: Call, parts: Sequence[Any]) -> None:
    """End the future of a call with what it has raised."""
    try:
        error = load_exception([bytes(part) for part in parts])
    except BaseException as problem:  # unpickling runs code of the user's classes
        error = _unreadable(call, problem)
    fail(call, error)


def fail_without_result(call: Call, job: str, words: str, log: str, last_lines: Sequence[str]) -> None:
    """End the future of a call whose job has left no result, with the error of an input, or with the words of the scheduler."""
    failed = next((one for one in call.inputs if one.done() and not has_result(one)), None)
    if failed is not None:
        fail(call, InputError(failed)())
    elif words.startswith("TIMEOUT"):
        fail(call, TimeoutError(f"job {job} of {call.function}() was ended: {words}. Its output is in {log}"))
    else:
        fail(call, JobError(call.function, job=job, words=words, log=log, last_lines=last_lines))


def _unreadable(call: Call, problem: BaseException) -> JobError:
    return JobError(call.function, words=f"what it left cannot be unpickled in this script: {summarize_error(problem)}")


def fail(call: Call, error: BaseException) -> None:
    """End the future of a call with an error, unless it has ended, or was cancelled."""
    with suppress(InvalidStateError):
        call.future.set_exception(error)
