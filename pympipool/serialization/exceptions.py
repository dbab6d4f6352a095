"""Convert exceptions of calls to bytes and back, with their tracebacks.

    master                                                        worker
    load_exception() <- parts ............................... parts <- dump_exception(error, where)

An exception travels inside a pickle of strings, so that its name, its message and its traceback arrive even if the
exception itself cannot be unpickled on the other side. Every worker imports this module at its start, so what only
exceptions need (pympipool.errors, traceback, cloudpickle) is imported when there is an exception.
"""

from __future__ import annotations

import os

from pympipool._util.cmodules import pickle
from pympipool._util.reprs import error_message, summarize_error, type_name
from pympipool.serialization.payload import PROTOCOL, Part, is_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

__all__ = [
    "are_alike",
    "dump_exception",
    "format_exception",
    "join_exceptions",
    "load_exception",
    "without_frames",
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
        pickled, lost, reason = _dump_faithfully(error)
    except Exception as problem:  # even reading the attributes of the exception raises
        pickled, lost, reason = None, [], summarize_error(problem)
    if lost:
        text += f"\n(attributes of the exception that cannot be pickled and were left out: {', '.join(lost)})"
    return [pickle.dumps((type_name(type(error)), error_message(error), text, pickled, reason), PROTOCOL)]


def load_exception(parts: Sequence[Any]) -> BaseException:
    """Rebuild what `dump_exception` pickled.

    Returns:
        The exception, with a `RemoteTraceback` as its `__cause__`. A `RemoteError` in its place if the exception could
        not be pickled in the worker or cannot be unpickled here (for example because its class cannot be imported).

    Raises:
        SerializationError: The parts are not from `dump_exception`.
    """
    from pympipool.errors import RemoteError, RemoteTraceback, SerializationError

    try:
        type_name, message, text, pickled, reason = pickle.loads(parts[0])
    except Exception as problem:
        raise SerializationError(f"what arrived is no exception of a call: {summarize_error(problem)}") from problem
    error: object = None
    if pickled is not None:
        try:
            error = pickle.loads(pickled)
        except Exception as problem:
            reason = summarize_error(problem)
    if not isinstance(error, BaseException):
        error = RemoteError(type_name, message, reason)
    error.__cause__ = RemoteTraceback(text)
    return error


def join_exceptions(exceptions: Sequence[Sequence[Any]]) -> list[Part]:
    """Join several exceptions of one call: the first exception, with the tracebacks of all.

    Args:
        exceptions: Parts as from `dump_exception`, at least one. The exceptions in them are not unpickled.

    Returns:
        Parts for `load_exception`.
    """
    first, *others = [pickle.loads(parts[0]) for parts in exceptions]
    type_name, message, text, pickled, reason = first
    text = "\n\n".join([text, *(other[2] for other in others)])
    return [pickle.dumps((type_name, message, text, pickled, reason), PROTOCOL)]


def are_alike(exceptions: Sequence[Sequence[Any]]) -> bool:
    """Return True if all exceptions have the same type, message and traceback.

    The first line of each traceback, which says where the exception was raised, is not compared.

    Args:
        exceptions: Parts as from `dump_exception`. The exceptions in them are not unpickled.
    """
    described = [pickle.loads(parts[0])[:3] for parts in exceptions]
    return len({(type_name, message, text.partition("\n")[2]) for type_name, message, text in described}) <= 1


def format_exception(error: BaseException, where: str = "") -> str:
    """Return an exception's traceback as text, with its causes, contexts and notes, from the user's first frame on."""
    try:
        import traceback

        lines = traceback.format_exception(type(error), error, _user_traceback(error.__traceback__))
    except Exception as problem:  # even formatting the exception raises
        lines = [f"{type_name(type(error))} (its traceback cannot be shown: {type_name(type(problem))})\n"]
    return "".join([f"In {where}:\n" if where else "", *lines]).rstrip()


def without_frames(error: BaseException) -> BaseException:
    """Return the exception with the traceback of its cause as text. Frames would keep the call's arguments alive."""
    from pympipool.errors import RemoteTraceback

    if error.__cause__ is not None and not isinstance(error.__cause__, RemoteTraceback):
        error.__cause__ = RemoteTraceback(format_exception(error.__cause__))
    error.__context__ = None
    return error.with_traceback(None)


# ---- pickling ----


class _ClassReduce:
    """An exception that is pickled as its class defines, not with a reducer that a library registered with `copyreg`.

    tblib, and with it dask, registers reducers for all exception classes. With them frames and causes would travel
    along, and not every exception could be rebuilt.
    """

    def __init__(self, error: BaseException) -> None:
        self.reduced = error.__reduce_ex__(PROTOCOL)

    def is_plain(self) -> bool:
        """Return True if plain pickle is right for it: a built-in class and plain values."""
        kind = self.reduced[0]
        return isinstance(kind, type) and kind.__module__ == "builtins" and is_plain(self.reduced[1:])

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self.reduced


class _WithoutInit:
    """An exception that is pickled so that it is rebuilt without a call of its `__init__`."""

    def __init__(self, error: BaseException, state: dict[str, Any]) -> None:
        self.rebuild_args = (type(error), error.args, state)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild, self.rebuild_args


def _rebuild(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _dump_faithfully(error: BaseException) -> tuple[bytes | None, list[str], str]:
    """Pickle an exception, and check that it arrives unchanged.

    Returns:
        The pickle, or None if the exception cannot be pickled.
        The names of the attributes that were left out.
        The reason why it cannot be pickled, as text: a reference to the reason's exception would keep this frame alive,
        and with it the error.
    """
    reason = ""
    for form in _picklable_forms(error):
        try:
            value, lost = form()
            pickled = _dump_in_band(value)
            if _equivalent(error, pickle.loads(pickled)):
                return pickled, lost, ""
        except Exception as problem:
            reason = reason or summarize_error(problem)
    return None, [], reason or "pickling and unpickling it changes it"


def _dump_in_band(value: object) -> bytes:
    """Pickle into a single bytes object. Raises the pickler's own exceptions."""
    if isinstance(value, _ClassReduce) and value.is_plain():
        return pickle.dumps(value, PROTOCOL)
    from pympipool.serialization.by_value import dump as dump_by_value

    return dump_by_value(value, is_result=True)


def _picklable_forms(error: BaseException) -> Iterator[Callable[[], tuple[object, list[str]]]]:
    """Yield ways to pickle an exception, best first.

    Each one returns the value to pickle, and the names of the attributes that it leaves out.
    """
    yield lambda: (_ClassReduce(error), [])
    yield lambda: (error, [])
    yield lambda: (_WithoutInit(error, dict(error.__dict__)), [])
    yield lambda: _without_unpicklable_attributes(error)


def _without_unpicklable_attributes(error: BaseException) -> tuple[_WithoutInit, list[str]]:
    kept = {name: value for name, value in error.__dict__.items() if _is_picklable(value)}
    return _WithoutInit(error, kept), sorted(str(name) for name in error.__dict__.keys() - kept.keys())


def _is_picklable(value: object) -> bool:
    try:
        pickle.loads(_dump_in_band(value))
    except Exception:
        return False
    return True


def _equivalent(error: BaseException, other: object) -> bool:
    """Return True if other has the type and message of error. Memory addresses in the message may differ."""
    if type(other) is not type(error):
        return False
    text, other_text = str(error), str(other)
    return text == other_text or _without_addresses(text) == _without_addresses(other_text)


def _without_addresses(text: str) -> str:
    import re

    return re.sub(r"0x[0-9a-fA-F]+", "0x", text)


def _user_traceback(trace: types.TracebackType | None) -> types.TracebackType | None:
    """Return the traceback from the first frame that is not pympipool's; all of it if every frame is pympipool's."""
    first = trace
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        first = first.tb_next
    return first or trace


_OWN_FILES = (
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
    "pympipool/_core/",  # frames of compiled modules have the path that the compiler was given, relative to the source
)
"""Beginnings of the file names of pympipool's own frames."""
