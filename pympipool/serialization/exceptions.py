"""Convert exceptions of calls to bytes and back, with their tracebacks.

    master                                                        worker
    load_exception() <- parts ............................... parts <- dump_exception(error, where)
    copy_exception(error), for each further future that fails with it

An exception travels inside a pickle of strings, so that its name, its message and its traceback arrive even if the
exception itself cannot be unpickled on the other side. Every worker imports this module at its start, so what only
exceptions need (pympipool.errors, traceback, cloudpickle) is imported when there is an exception.
"""

from __future__ import annotations

import builtins
import os

from pympipool._util.cmodules import pickle
from pympipool._util.reprs import error_message, summarize_error, type_name
from pympipool.serialization.payload import PROTOCOL, Part, is_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

STATE_LOST_NOTE = (
    "The worker of this call ends, and what init_function and earlier calls have left in its memory is lost; with"
    ' on_worker_replaced="fail" later calls fail'
)
"""The note of an exception whose worker had state and is replaced."""

__all__ = [
    "STATE_LOST_NOTE",
    "add_note",
    "add_source_lines",
    "copy_exception",
    "describe_place",
    "dump_exception",
    "format_exception",
    "join_exceptions",
    "load_exception",
    "reduce_without_init",
    "refuses_attributes",
    "summarize_parts",
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
    except BaseException as problem:  # even reading the attributes of the exception raises
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
    from pympipool.errors import RemoteTraceback, SerializationError

    try:
        type_name, message, text, pickled, reason, *notes = pickle.loads(parts[0])
    except MemoryError:
        raise
    except Exception as problem:
        raise SerializationError(f"what arrived is no exception of a call: {summarize_error(problem)}") from problem
    error = _load(type_name, message, pickled, reason)
    cause = RemoteTraceback(add_source_lines(text))
    _BASE["__cause__"].__set__(error, cause)  # a frozen dataclass has a __setattr__ of its own
    for note in notes:
        add_note(error, note)
    return error


def _load(type_name: str, message: str, pickled: bytes | None, reason: str) -> BaseException:
    """Unpickle an exception. Return a `RemoteError` in its place if that is not possible."""
    if pickled is not None:
        try:
            error = pickle.loads(pickled)
        except Exception as problem:
            reason = summarize_error(problem)
        else:
            if isinstance(error, BaseException):
                return error
    from pympipool.errors import RemoteError

    return RemoteError(type_name, message, reason)


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
    attributes = _dict_of(error)
    notes = attributes.get("__notes__")
    attributes["__notes__"] = [*notes, note] if isinstance(notes, list) else [note]


def copy_exception(error: BaseException) -> BaseException:
    """Return a copy of an exception: equal in type, arguments, attributes, notes and cause, but without a traceback.

    An exception belongs to one future: each `raise` of it adds frames, and with them the data of the frames, to its
    traceback. The copy is made without any code of the exception's class, which may take other arguments than it has
    passed to its base class, refuse to be changed, or answer to any attribute. Attributes are shared with the original.

    Raises:
        TypeError: Its arguments were replaced by others that its built-in base class does not take.
    """
    args = _BASE["args"].__get__(error)
    copy = _builtin_base(type(error)).__new__(type(error), *args)
    for member, value in _members_with_values(error):
        try:
            member.__set__(copy, value)
        except (AttributeError, TypeError):  # read-only: `__new__` has set it
            pass
    for name in ("args", "__cause__", "__suppress_context__"):
        _BASE[name].__set__(copy, _BASE[name].__get__(error))
    attributes = _dict_of(copy)
    attributes.update(_dict_of(error))
    if isinstance(attributes.get("__notes__"), list):
        attributes["__notes__"] = [*attributes["__notes__"]]
    return copy


_BASE: Any = BaseException.__dict__
"""The descriptors of what every exception has. They run no code of its class."""


def _dict_of(error: BaseException) -> dict[str, Any]:
    attributes: dict[str, Any] = _BASE["__dict__"].__get__(error)
    return attributes


def describe_place(error: BaseException) -> bytes:
    """Return where an exception was raised: its type and stack, and those of its causes, contexts and members.

    Two processes that run the same code get the same bytes if they have raised at the same place.
    """
    places: list[tuple[str, list[tuple[str, int, int]]]] = []
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    for raised in waiting:  # the loop appends to the list
        if raised is None or id(raised) in seen:
            continue
        seen.add(id(raised))
        frames = []
        frame = raised.__traceback__
        while frame is not None:
            frames.append((frame.tb_frame.f_code.co_filename, frame.tb_lineno, frame.tb_lasti))
            frame = frame.tb_next
        places.append((type_name(type(raised)), frames))
        waiting += (raised.__cause__, raised.__context__)
        if isinstance(raised, _GROUPS):
            waiting += raised.exceptions
    return repr(places).encode(errors="backslashreplace")


def format_exception(error: BaseException, where: str = "") -> str:
    """Return an exception's traceback as text, with its causes, contexts and notes, from the user's first frame on."""
    try:
        import traceback

        lines = traceback.format_exception(type(error), error, _user_traceback(_BASE["__traceback__"].__get__(error)))
    except BaseException as problem:  # even formatting the exception raises
        lines = [f"{type_name(type(error))} (its traceback cannot be shown: {type_name(type(problem))})\n"]
    return "".join([f"In {where}:\n" if where else "", *lines]).rstrip()


def add_source_lines(text: str) -> str:
    """Add the source lines that a traceback from a worker lacks, where this process knows them.

    The worker does not know the source of notebook cells and of the interactive prompt, and it may be on a host without
    the script. Lines that the worker has shown are left as they are.
    """
    import linecache
    import re

    lines = text.split("\n")
    shown: list[str] = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        shown.append(line)
        frame = re.fullmatch(r'([ |+-]*)File "(/.*|<.*>)", line (\d+), in .*', line)
        if frame is not None and not following.startswith(frame[1].replace("+", " ").replace("-", " ") + "  "):
            source = linecache.getline(frame[2], int(frame[3])).strip()
            if source:
                shown.append(f"{frame[1]}  {source}")
    return "\n".join(shown)


def without_frames(error: BaseException) -> BaseException:
    """Return the exception with the traceback of its cause as text. Frames would keep the call's arguments alive."""
    from pympipool.errors import RemoteTraceback

    cause = _BASE["__cause__"].__get__(error)
    if cause is not None and not isinstance(cause, RemoteTraceback):
        _BASE["__cause__"].__set__(error, RemoteTraceback(format_exception(cause)))
    _BASE["__context__"].__set__(error, None)
    _BASE["__traceback__"].__set__(error, None)
    return error


# ---- pickling ----


class _ClassReduce:
    """An exception that is pickled as its class defines, not with a reducer that a library registered with `copyreg`.

    tblib, and with it dask, registers reducers for all exception classes. With them frames and causes would travel
    along, and not every exception could be rebuilt.
    """

    def __init__(self, error: BaseException) -> None:
        self.reduced = error.__reduce_ex__(PROTOCOL)
        slots = _members(error, of_classes=True)
        if slots and type(error).__setstate__ is BaseException.__setstate__ and len(self.reduced) <= 3:
            state: Any = self.reduced[2] if len(self.reduced) == 3 else None
            self.reduced = (*self.reduced[:2], {**slots, **(state or {})})  # BaseException's own has no slots

    def is_plain(self) -> bool:
        """Return True if plain pickle is right for it: a built-in class and plain values."""
        kind = self.reduced[0]
        return isinstance(kind, type) and kind.__module__ == "builtins" and is_plain(self.reduced[1:])

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self.reduced


class _WithoutInit:
    """An exception that is pickled so that it is rebuilt without a call of the `__new__` and `__init__` of its class."""

    def __init__(self, error: BaseException, attributes: dict[str, Any]) -> None:
        self.rebuild_args = (type(error), _BASE["args"].__get__(error), attributes)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild, self.rebuild_args


def refuses_attributes(kind: type) -> bool:
    """Return True for a class of exceptions that pickle cannot rebuild since it sets their attributes: frozen dataclasses."""
    return (
        issubclass(kind, BaseException)
        and kind.__setattr__ is not BaseException.__setattr__
        and kind.__reduce__ is BaseException.__reduce__
        and kind.__setstate__ is BaseException.__setstate__
    )


def reduce_without_init(error: BaseException) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Reduce an exception so that no code of its class runs when it is rebuilt."""
    return _WithoutInit(error, _attributes(error)).__reduce__()


def _rebuild(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    builtin = _builtin_base(kind)
    error = builtin.__new__(kind, *args)
    try:
        builtin.__init__(error, *args)
    except TypeError:  # the class had given it other arguments, or none
        pass
    _set_attributes(error, {"args": args, **attributes})
    return error


def _set_attributes(error: BaseException, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        try:
            BaseException.__setattr__(error, name, value)
        except (AttributeError, TypeError):  # there is a property of this name, or a member that is read-only
            _dict_of(error)[name] = value


class _Group:
    """An exception group that is pickled so that an exception in it that cannot be sent does not affect the others.

    Attributes:
        lost: The names of the attributes that were left out.
    """

    def __init__(self, group: Any) -> None:
        attributes, self.lost = _picklable_attributes(group)
        members = []
        for number, error in enumerate(group.exceptions):
            pickled, lost, reason = _dump_faithfully(error)
            members.append((type_name(type(error)), error_message(error), pickled, reason))
            self.lost += [f"exceptions[{number}].{name}" for name in lost]
        self.rebuild_args = (type(group), group.message, members, attributes)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild_group, self.rebuild_args


def _rebuild_group(
    kind: type[BaseException],
    message: str,
    members: Sequence[tuple[str, str, bytes | None, str]],
    attributes: dict[str, Any],
) -> BaseException:
    group = _builtin_base(kind).__new__(kind, message, [_load(*member) for member in members])
    _set_attributes(group, attributes)
    return group


def _builtin_base(kind: type[BaseException]) -> type[BaseException]:
    return next(base for base in kind.__mro__ if not base.__flags__ & _HEAP_TYPE)


_HEAP_TYPE = 1 << 9
"""Flag of the classes that a class statement made (Py_TPFLAGS_HEAPTYPE)."""

_MEMBER = type(BaseException.__dict__["__suppress_context__"])
"""The type of the descriptors of `__slots__`, and of the fields of built-in exceptions."""


def _members(error: BaseException, *, of_classes: bool) -> dict[str, Any]:
    """Return the values that an exception has outside its `__dict__`.

    Args:
        of_classes: Only the `__slots__` of its classes. Otherwise also the fields of the built-in class.
    """
    found: dict[str, Any] = {}
    for member, value in _members_with_values(error):
        if not of_classes or member.__objclass__.__flags__ & _HEAP_TYPE:
            found.setdefault(member.__name__, value)
    return found


def _members_with_values(error: BaseException) -> Iterator[tuple[Any, Any]]:
    """Yield the descriptor and the value of each slot, and of each field of the built-in class."""
    for kind in type(error).__mro__:
        for name, member in vars(kind).items():
            if type(member) is not _MEMBER or name.startswith("__"):
                continue
            try:
                value = member.__get__(error, kind)
            except AttributeError:  # no value was set
                continue
            if value is not None or kind.__flags__ & _HEAP_TYPE:  # a built-in class shows what was not set as None
                yield member, value


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
            if _equivalent(error, pickle.loads(pickled), lost):
                return pickled, lost, ""
        except BaseException as problem:  # code of the exception may raise anything
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
    is_group = isinstance(error, _GROUPS)
    if not is_group or type(error).__reduce__ is not BaseException.__reduce__:
        yield lambda: (_ClassReduce(error), [])
        yield lambda: (error, [])
    if is_group:
        yield lambda: _with_lost(_Group(error))
        return
    yield lambda: (_WithoutInit(error, _attributes(error)), [])
    yield lambda: _without_unpicklable_attributes(error)


_GROUPS: Any = getattr(builtins, "BaseExceptionGroup", ())
"""The class of all exception groups; Python 3.10 has none."""


def _with_lost(group: _Group) -> tuple[_Group, list[str]]:
    return group, group.lost


def _attributes(error: BaseException) -> dict[str, Any]:
    return {**_members(error, of_classes=isinstance(error, _GROUPS)), **_dict_of(error)}


def _without_unpicklable_attributes(error: BaseException) -> tuple[_WithoutInit, list[str]]:
    kept, lost = _picklable_attributes(error)
    return _WithoutInit(error, kept), lost


def _picklable_attributes(error: BaseException) -> tuple[dict[str, Any], list[str]]:
    """Return the attributes that can be pickled, and the names of the others."""
    attributes = _attributes(error)
    kept = {name: value for name, value in attributes.items() if _is_picklable(value)}
    return kept, sorted(str(name) for name in attributes.keys() - kept.keys())


def _is_picklable(value: object) -> bool:
    try:
        pickle.loads(_dump_in_band(value))
    except BaseException:
        return False
    return True


def _equivalent(error: BaseException, other: BaseException, lost: Sequence[str]) -> bool:
    """Return True if other has the type and message of error, and all its slots but the lost ones.

    Memory addresses in the message may differ.
    """
    if type(other) is not type(error):
        return False
    slots = _members(error, of_classes=True).keys() - lost
    if slots - _members(other, of_classes=True).keys():
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
