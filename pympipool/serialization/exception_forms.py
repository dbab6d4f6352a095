"""Pickle exceptions so that they arrive unchanged, and copy them.

    dump_faithfully(error)
      as the class says ─► as copyreg says ─► without __init__ ─► without what cannot be pickled
      a group ─► its exceptions one by one

Each way is tried out: an exception whose `__init__` takes other arguments than it passes to its base class can be pickled, but not
rebuilt. Attributes are read and set by the descriptors of `BaseException`, which run no code of the class.
"""

from __future__ import annotations

import builtins

from pympipool._core.snapshot import is_heap_type
from pympipool._util.cmodules import pickle
from pympipool._util.reprs import error_message, summarize_error, type_name
from pympipool.serialization.plain import PROTOCOL, is_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

__all__ = [
    "BASE",
    "attributes_of",
    "copy_exception",
    "dump_faithfully",
    "load_pickled",
    "reduce_without_init",
    "refuses_attributes",
]


def dump_faithfully(error: BaseException) -> tuple[bytes | None, list[str], str]:
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


def load_pickled(type_name: str, message: str, pickled: bytes | None, reason: str) -> BaseException:
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


def copy_exception(error: BaseException) -> BaseException:
    """Return a copy of an exception: equal in type, arguments, attributes, notes and cause, but without a traceback.

    An exception belongs to one future: each `raise` of it adds frames, and with them the data of the frames, to its
    traceback. The copy is made without any code of the exception's class, which may take other arguments than it has
    passed to its base class, refuse to be changed, or answer to any attribute. Attributes are shared with the original.

    Raises:
        TypeError: Its arguments were replaced by others that its built-in base class does not take.
    """
    args = BASE["args"].__get__(error)
    copy = _builtin_base(type(error)).__new__(type(error), *args)
    for member, value in _members_with_values(error):
        try:
            member.__set__(copy, value)
        except (AttributeError, TypeError):  # read-only: `__new__` has set it
            pass
    for name in ("args", "__cause__", "__suppress_context__"):
        BASE[name].__set__(copy, BASE[name].__get__(error))
    attributes = attributes_of(copy)
    attributes.update(attributes_of(error))
    if isinstance(attributes.get("__notes__"), list):
        attributes["__notes__"] = [*attributes["__notes__"]]
    return copy


# ---- ways to pickle ----


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
    return {**_members(error, of_classes=isinstance(error, _GROUPS)), **attributes_of(error)}


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
        self.rebuild_args = (type(error), BASE["args"].__get__(error), attributes)

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
            attributes_of(error)[name] = value


class _Group:
    """An exception group that is pickled so that an exception in it that cannot be sent does not affect the others.

    Attributes:
        lost: The names of the attributes that were left out.
    """

    def __init__(self, group: Any) -> None:
        attributes, self.lost = _picklable_attributes(group)
        members = []
        for number, error in enumerate(group.exceptions):
            pickled, lost, reason = dump_faithfully(error)
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
    group = _builtin_base(kind).__new__(kind, message, [load_pickled(*member) for member in members])
    _set_attributes(group, attributes)
    return group


# ---- what exceptions have ----

BASE: Any = BaseException.__dict__
"""The descriptors of what every exception has. They run no code of its class."""


def attributes_of(error: BaseException) -> dict[str, Any]:
    """Return the `__dict__` of an exception, whatever its class says."""
    attributes: dict[str, Any] = BASE["__dict__"].__get__(error)
    return attributes


def _builtin_base(kind: type[BaseException]) -> type[BaseException]:
    return next(base for base in kind.__mro__ if not is_heap_type(base))


_MEMBER = type(BaseException.__dict__["__suppress_context__"])
"""The type of the descriptors of `__slots__`, and of the fields of built-in exceptions."""


def _members(error: BaseException, *, of_classes: bool) -> dict[str, Any]:
    """Return the values that an exception has outside its `__dict__`.

    Args:
        of_classes: Only the `__slots__` of its classes. Otherwise also the fields of the built-in class.
    """
    found: dict[str, Any] = {}
    for member, value in _members_with_values(error):
        if not of_classes or is_heap_type(member.__objclass__):
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
            if value is not None or is_heap_type(kind):  # a built-in class shows what was not set as None
                yield member, value


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
