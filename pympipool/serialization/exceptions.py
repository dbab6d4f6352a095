"""Convert exceptions of calls to bytes and back, with their tracebacks.

    master                                                        worker
    load_exception() <- parts ............................... parts <- dump_exception(error, where)

    exception_forms.py   the ways to pickle an exception so that it arrives unchanged
    tracebacks.py        its traceback as text

An exception travels inside a pickle of strings, so that its name, its message and its traceback arrive even if the
exception itself cannot be unpickled on the other side. Every worker imports these modules at its start, so what only
exceptions need (pympipool.errors, traceback, cloudpickle) is imported when there is an exception.
"""

from __future__ import annotations

from pympipool._util.cmodules import pickle
from pympipool._util.reprs import error_message, summarize_error, type_name
from pympipool.serialization.exception_forms import BASE, attributes_of, dump_faithfully, load_pickled
from pympipool.serialization.plain import PROTOCOL, Part
from pympipool.serialization.tracebacks import add_source_lines, format_exception

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

STATE_LOST_NOTE = (
    "The worker of this call ends, and what init_function and earlier calls have left in its memory is lost; with"
    ' on_worker_replaced="fail" later calls fail'
)
"""The note of an exception whose worker had state and is replaced."""

__all__ = [
    "STATE_LOST_NOTE",
    "add_note",
    "dump_exception",
    "dump_loaded",
    "join_exceptions",
    "load_exception",
    "summarize_parts",
]


def dump_exception(error: BaseException, where: str = "", also: Sequence[str] = ()) -> list[Part]:
    """Pickle an exception with its traceback. Never raises, and keeps no reference to the exception.

    The exception arrives with its type, message, arguments, attributes and notes. Its cause, context and traceback
    arrive as text. Unpickling is tried here: an exception whose `__init__` takes other arguments than it passes to its
    base class can be pickled, but not rebuilt. Such an exception is rebuilt without its `__init__`. If that fails too,
    it arrives as `RemoteError`.

    Args:
        error: The exception.
        where: Where it was raised, for the traceback, for example "worker 3 on node1, rank 0".
        also: Further tracebacks to show, as from `format_exception`: those of other ranks.

    Returns:
        Parts for `load_exception`.
    """
    text = "\n".join([format_exception(error, where), *also])
    try:
        pickled, lost, reason = dump_faithfully(error)
    except BaseException as problem:  # even reading the attributes of the exception raises
        pickled, lost, reason = None, [], summarize_error(problem)
    if lost:
        text += f"\n(attributes of the exception that cannot be pickled and were left out: {', '.join(lost)})"
    return [pickle.dumps((type_name(type(error)), error_message(error), text, pickled, reason), PROTOCOL)]


def load_exception(parts: Sequence[Any]) -> BaseException:
    """Rebuild what `dump_exception` pickled.

    Args:
        parts: One part; or those of several ranks that raised in the same call, and a note, which may be empty.

    Returns:
        The exception, with a `RemoteTraceback` as its `__cause__`. A `RemoteError` in its place if the exception could
        not be pickled in the worker or cannot be unpickled here (for example because its class cannot be imported).

    Raises:
        SerializationError: The parts are not from `dump_exception`.
    """
    from pympipool.errors import RemoteTraceback, SerializationError

    try:
        if len(parts) > 1:
            *raised, note = parts
            parts = join_exceptions([[part] for part in raised], str(note, "utf-8"))
        type_name, message, text, pickled, reason, *notes = pickle.loads(parts[0])
    except MemoryError:
        raise
    except Exception as problem:
        raise SerializationError(f"what arrived is no exception of a call: {summarize_error(problem)}") from problem
    error = load_pickled(type_name, message, pickled, reason)
    cause = RemoteTraceback(add_source_lines(text))
    BASE["__cause__"].__set__(error, cause)  # a frozen dataclass has a __setattr__ of its own
    for note in notes:
        add_note(error, note)
    return error


def dump_loaded(error: BaseException) -> list[Part]:
    """Pickle again what `load_exception` has returned, with the traceback of the worker only."""
    text = getattr(error.__cause__, "text", "")
    pickled, lost, reason = dump_faithfully(error)
    if lost:
        text += f"\n(attributes of the exception that cannot be pickled and were left out: {', '.join(lost)})"
    return [pickle.dumps((type_name(type(error)), error_message(error), text, pickled, reason), PROTOCOL)]


def join_exceptions(exceptions: Sequence[Sequence[Any]], note: str = "") -> list[Part]:
    """Join several exceptions of one call: the first exception, with the tracebacks of all.

    Args:
        exceptions: Parts as from `dump_exception`, at least one. The exceptions in them are not unpickled.
        note: A note that the exception gets when it is loaded.

    Returns:
        Parts for `load_exception`.
    """
    first, *others = [pickle.loads(parts[0]) for parts in exceptions]
    type_name, message, text, pickled, reason, *notes = first
    text = "\n\n".join([text, *(other[2] for other in others)])
    notes += [note] if note else []
    return [pickle.dumps((type_name, message, text, pickled, reason, *notes), PROTOCOL)]


def summarize_parts(parts: Sequence[Any]) -> tuple[str, str]:
    """Return the name of the type and the message of an exception that `dump_exception` pickled, without loading it."""
    type_name, message, *_ = pickle.loads(parts[0])
    return type_name, message


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception, as `BaseException.add_note` of Python 3.11 does."""
    attributes = attributes_of(error)
    notes = attributes.get("__notes__")
    attributes["__notes__"] = [*notes, note] if isinstance(notes, list) else [note]
