"""Exceptions of calls, which are stored if the user asks for it (`cache_exceptions`).

Only what the function has raised is stored: not the death of a worker, a time limit, or the failure of an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pympipool.errors import RemoteTraceback, SerializationError
from pympipool.serialization import payload
from pympipool.serialization.exceptions import dump_loaded, load_exception

if TYPE_CHECKING:
    from pympipool._core.future import Future

__all__ = ["is_raised", "load_parts", "raised", "raised_parts"]

_RAISED = b"!"
"""Begins what is stored of an exception; its parts follow. No pickle begins with it."""


def raised(parts: Sequence[Any]) -> list[bytes]:
    """Return an exception of one part, as from `dump_exception`, as it is stored."""
    return [_RAISED + bytes(parts[0])]


def is_raised(parts: Sequence[Any]) -> bool:
    """Return True if what was stored is an exception."""
    return len(parts) == 1 and bytes(parts[0][:1]) == _RAISED


def load_parts(parts: Sequence[Any]) -> Any:
    """Return a stored result.

    Raises:
        Exception: The call has raised this.
    """
    if is_raised(parts):
        raise load_exception([parts[0][1:]])
    return payload.load(parts, "a cached result")


def raised_parts(future: Future[Any]) -> list[bytes] | None:
    """Return the exception of a call as it is stored; None if the function has not raised it."""
    if future.cancelled() or future.run_ns == 0:  # no worker has run it to its end
        return None
    error = future.exception()
    is_of_function = isinstance(error, Exception) and isinstance(error.__cause__, RemoteTraceback)
    if error is None or not is_of_function or isinstance(error, (SerializationError, MemoryError)):
        return None
    return raised(dump_loaded(error))
