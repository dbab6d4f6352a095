"""Exceptions of calls to bytes and back, with their tracebacks.

    master                                                        worker
    load_exception() <- parts ............................... parts <- dump_exception(error, where)

An exception travels inside a pickle of strings, so that its name, its message and its traceback arrive even when it
cannot be unpickled there. What only exceptions need (our own, tracebacks, cloudpickle) is imported when there is one: every
worker imports this at its start.
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
    """Pickles an exception with its traceback. Never raises, and keeps nothing of the exception.

    The exception arrives with its type, message, arguments, attributes and notes; its cause, context and traceback as
    text. That it can be unpickled is tried here: exceptions whose `__init__` takes other arguments than they hand on
    pickle well and then cannot be rebuilt. Those are rebuilt without their `__init__`; what cannot be rebuilt even so
    arrives as `RemoteError`.

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
    except Exception as problem:  # an exception that cannot even be looked at
        pickled, lost, reason = None, [], summarize_error(problem)
    if lost:
        text += f"\n(attributes of the exception that cannot be pickled and were left out: {', '.join(lost)})"
    return [pickle.dumps((type_name(type(error)), error_message(error), text, pickled, reason), PROTOCOL)]


def load_exception(parts: Sequence[Any]) -> BaseException:
    """Rebuilds what `dump_exception` pickled.

    Returns:
        The exception, with a `RemoteTraceback` as its `__cause__`. A `RemoteError` in its place when the exception
        could not be pickled there or cannot be unpickled here (its class cannot be imported, say).

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
    """The first of several exceptions of one call, with the tracebacks of all.

    Args:
        exceptions: Parts as from `dump_exception`, at least one; what they hold is not unpickled.

    Returns:
        Parts for `load_exception`.
    """
    first, *others = [pickle.loads(parts[0]) for parts in exceptions]
    type_name, message, text, pickled, reason = first
    text = "\n\n".join([text, *(other[2] for other in others)])
    return [pickle.dumps((type_name, message, text, pickled, reason), PROTOCOL)]


def are_alike(exceptions: Sequence[Sequence[Any]]) -> bool:
    """Whether exceptions have the same type, message and traceback, the line that says where they were raised aside.

    Args:
        exceptions: Parts as from `dump_exception`; what they hold is not unpickled.
    """
    told = [pickle.loads(parts[0])[:3] for parts in exceptions]
    return len({(type_name, message, text.partition("\n")[2]) for type_name, message, text in told}) <= 1


def format_exception(error: BaseException, where: str = "") -> str:
    """The traceback of an exception as text, with its causes, contexts and notes, from the user's first frame on."""
    try:
        import traceback

        lines = traceback.format_exception(type(error), error, _user_traceback(error.__traceback__))
    except Exception as problem:  # an exception that cannot even be shown
        lines = [f"{type_name(type(error))} (its traceback cannot be shown: {type_name(type(problem))})\n"]
    return "".join([f"In {where}:\n" if where else "", *lines]).rstrip()


def without_frames(error: BaseException) -> BaseException:
    """The exception with the traceback of its cause as text: frames would keep a call's arguments alive."""
    from pympipool.errors import RemoteTraceback

    if error.__cause__ is not None and not isinstance(error.__cause__, RemoteTraceback):
        error.__cause__ = RemoteTraceback(format_exception(error.__cause__))
    error.__context__ = None
    return error.with_traceback(None)


# ---- pickling ----


class _ClassReduce:
    """An exception to be pickled as its class says, not as somebody has told `copyreg`.

    tblib, and with it dask, registers reducers for all exceptions there are: its frames and causes would travel along,
    and not every exception can be rebuilt.
    """

    def __init__(self, error: BaseException) -> None:
        self.rebuilding = error.__reduce_ex__(PROTOCOL)

    def is_plain(self) -> bool:
        """Whether it needs no more than the class and plain values."""
        kind = self.rebuilding[0]
        return isinstance(kind, type) and kind.__module__ == "builtins" and is_plain(self.rebuilding[1:])

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self.rebuilding


class _WithoutInit:
    """An exception to be pickled so that it is rebuilt without a call of its `__init__`."""

    def __init__(self, error: BaseException, state: dict[str, Any]) -> None:
        self.rebuilding = (type(error), error.args, state)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild, self.rebuilding


def _rebuild(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _dump_faithfully(error: BaseException) -> tuple[bytes | None, list[str], str]:
    """Pickles an exception so that it is known to arrive as it is.

    Returns:
        The pickle, or None where that cannot be; the attributes that were left out; what was in the way, as text: an
        exception that is kept would keep this frame alive, and with it the error.
    """
    reason = ""
    for form in _forms(error):
        try:
            value, lost = form()
            pickled = _dump_in_band(value)
            if _equivalent(error, pickle.loads(pickled)):
                return pickled, lost, ""
        except Exception as problem:
            reason = reason or summarize_error(problem)
    return None, [], reason or "pickling and unpickling it changes it"


def _dump_in_band(value: object) -> bytes:
    """Pickles into one run of bytes, with the pickler's own exceptions."""
    if isinstance(value, _ClassReduce) and value.is_plain():
        return pickle.dumps(value, PROTOCOL)
    from pympipool.serialization.by_value import dump as dump_by_value

    return dump_by_value(value)


def _forms(error: BaseException) -> Iterator[Callable[[], tuple[object, list[str]]]]:
    """Ways to pickle an exception, best first; each gives what to pickle, and the names of attributes that it leaves out."""
    yield lambda: (_ClassReduce(error), [])
    yield lambda: (error, [])
    yield lambda: (_WithoutInit(error, dict(error.__dict__)), [])
    yield lambda: _without_what_stays(error)


def _without_what_stays(error: BaseException) -> tuple[_WithoutInit, list[str]]:
    kept = {name: value for name, value in error.__dict__.items() if _can_travel(value)}
    return _WithoutInit(error, kept), sorted(str(name) for name in error.__dict__.keys() - kept.keys())


def _can_travel(value: object) -> bool:
    try:
        pickle.loads(_dump_in_band(value))
    except Exception:
        return False
    return True


def _equivalent(error: BaseException, other: object) -> bool:
    """Whether other has the type and message of error, memory addresses in the message aside."""
    if type(other) is not type(error):
        return False
    ours, theirs = str(error), str(other)
    return ours == theirs or _without_addresses(ours) == _without_addresses(theirs)


def _without_addresses(text: str) -> str:
    import re

    return re.sub(r"0x[0-9a-fA-F]+", "0x", text)


def _user_traceback(trace: types.TracebackType | None) -> types.TracebackType | None:
    """The traceback from the first frame that is not pympipool's; the whole when all are."""
    first = trace
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        first = first.tb_next
    return first or trace


_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
