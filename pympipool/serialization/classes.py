"""Receive classes that travel by value so that a process never changes a class of its own, and never has an old one.

cloudpickle pickles a class that cannot be imported as an empty class and its state, and gives it an id. A process that
already has the class of this id applies the state to it. For a worker that is right: a call sees the class as it is in
the master. For the master it is wrong: a result that contains an instance would set the attributes and methods of the
script's class back to what they were when the call was submitted. So the state arrives here first:

    the class               in a call          in a result
    was made here           is left alone      is left alone
    was received before     gets the state     is left alone
    is not known yet        is built           is built

A class usually arrives as the bytes of its definition, with the number of its version (`definitions.py`). In a call the
definition is unpickled if the class has another version here, or if a call has changed it: each call finds the class as the
master has it. `_kept` has the number and a snapshot of each class. The snapshot is made when a class arrives for the second
time: a worker of one call needs none.
"""

from __future__ import annotations

import enum
import pickle
import weakref
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from cloudpickle import cloudpickle

from pympipool._core.snapshot import ADDED_TO_CLASSES, Snapshot
from pympipool.serialization import CLASSES_MARK
from pympipool.serialization.analysis import Analysis
from pympipool.serialization.enums import reduce_enum

__all__ = ["find_class", "load_class", "reduce_class", "snapshot_of"]

KEPT_MAX = 256
"""Number of classes that are kept with their numbers. A class that was dropped is defined anew."""


class Kept(NamedTuple):
    """A class that was received with a number.

    Attributes:
        kind: The class.
        number: The number of its version.
        definition: What it was made from.
        snapshot: Compares it with what it was; None if it was not made yet.
    """

    kind: type
    number: int
    definition: bytes
    snapshot: Snapshot | None


_kept: dict[str, Kept] = {}
"""The classes that were received with a number, by class id."""

_received: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes that this process has built from pickles."""

_unfinished: dict[int, weakref.ref[type]] = {}
"""Classes of `_received` that have no state yet, by id. It is nearly always empty."""


_KNOWN: dict[str, weakref.ref[type]] = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.data
"""All classes that have an id. The `get` of cloudpickle's WeakValueDictionary takes five times as long."""

_own_names: weakref.WeakKeyDictionary[type, frozenset[str]] = weakref.WeakKeyDictionary()
"""The attributes that a class of `_received` has had without its state."""


State: TypeAlias = "tuple[Callable[..., Any], Any, int, tuple[type, ...]]"
"""The state of a class as cloudpickle pickles it with its setter, the number of its version, and its base classes."""


def reduce_class(kind: type, reduced: tuple[Any, ...], is_result: bool, number: int = 0) -> tuple[Any, ...]:
    """Return the reduction of a class that travels by value, in full.

    Args:
        kind: The class.
        reduced: cloudpickle's reduction of the class: constructor, arguments, state, two times None, state setter.
        is_result: The class belongs to a result or an exception.
        number: The number of its definition, if it has one.
    """
    if issubclass(kind, enum.Enum):
        reduced = reduce_enum(kind, reduced)
    make, arguments, state, _, _, set_state = reduced
    arguments = (make, *arguments)
    return _make, arguments, (set_state, state, number, kind.__bases__), None, None, _complete if is_result else _update


def _make(make: Callable[..., type], *arguments: Any) -> type:
    """Return the class of the id in the arguments; if it is not known yet, a new class without its state."""
    *_, class_id, _ = arguments
    known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(class_id)
    if known is not None:
        return known  # type: ignore[no-any-return]  # cloudpickle has no types
    kind = make(*arguments)
    _own_names[kind] = frozenset(vars(kind))
    _received.add(kind)
    number = id(kind)
    _unfinished[number] = weakref.ref(kind, lambda _: _unfinished.pop(number, None))
    return kind


def _is_unfinished(kind: type) -> bool:
    reference = _unfinished.get(id(kind))
    return reference is not None and reference() is kind


def _complete(kind: type, state: State) -> None:
    """Set the state of a class that arrived in a result, if the class is a new one."""
    if _is_unfinished(kind):
        _set_state(kind, state)


def _update(kind: type, state: State) -> None:
    """Set the state of a class that arrived in a call, unless the class was made in this process, or has this state."""
    if kind in _received and not _is_kept(cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS[kind], state[2]):
        _set_state(kind, state)


def _set_state(kind: type, state: State) -> None:
    """Set the attributes of a class that was received, and delete those that calls have added."""
    set_state, values, _, bases = state
    if kind.__bases__ != bases:
        kind.__bases__ = bases
    set_state(kind, values)
    for name in vars(kind).keys() - values[0].keys() - _own_names[kind] - ADDED_TO_CLASSES:
        type.__delattr__(kind, name)
    _unfinished.pop(id(kind), None)


# ---- definitions ----


def load_class(class_id: str, number: int, definition: bytes) -> type:
    """Return the class of a call.

    Args:
        class_id: The class id.
        number: The version of the class.
        definition: See `_unpickle`.
    """
    kept = _kept.get(class_id)
    if kept is not None and kept.number == number and kept.snapshot is not None and kept.snapshot.is_current():
        return kept.kind
    kind: type | None = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(class_id)
    if kind is not None and kind not in _received:
        return kind  # it was made here
    classes: list[tuple[type, int]] = _unpickle(definition)
    kind = classes[0][0]
    snapshot = snapshot_of(kind) if kept is not None and kept.number == number else None
    for one, its_number in classes:
        if one in _received:
            _keep(one, its_number, definition, snapshot)
    return kind


def is_received(kind: type) -> bool:
    """Return True if this process has the class from a pickle."""
    return kind in _received


def watch(kinds: Sequence[type]) -> tuple[list[Snapshot | None], Callable[[], list[Snapshot | None]]]:
    """Return snapshots of classes that were received with a number, and what restores the classes and returns new snapshots."""
    ids = [cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS[kind] for kind in kinds]

    def restore() -> list[Snapshot | None]:
        for class_id in ids:
            if class_id in _kept:
                load_class(class_id, _kept[class_id].number, _kept[class_id].definition)
        return snapshots()

    def snapshots() -> list[Snapshot | None]:
        return [_kept[class_id].snapshot for class_id in ids if class_id in _kept]

    for class_id in ids:
        kept = _kept.get(class_id)
        if kept is not None and kept.snapshot is None:
            _kept[class_id] = kept._replace(snapshot=snapshot_of(kept.kind))
    return snapshots(), restore


def _unpickle(definition: bytes) -> list[tuple[type, int]]:
    """Unpickle a class with all classes that it refers to, and their numbers.

    Args:
        definition: `CLASSES_MARK` and the pickle; compressed, as it is seldom needed.
    """
    return pickle.loads(zlib.decompress(memoryview(definition)[len(CLASSES_MARK) :]))  # type: ignore[no-any-return]


def snapshot_of(value: Any) -> Snapshot | None:
    """Return a snapshot of a function or class that was received; None if it could change unseen."""
    try:
        return Analysis(value, is_received=True).snapshot
    except Exception:  # NotCacheable, or what user code raises here and not in the master: it is unpickled each time
        return None


def find_class(class_id: str, definition: bytes) -> type:
    """Return the class of a result: that of this id if there is one.

    Args:
        class_id: The class id.
        definition: See `_unpickle`.
    """
    reference = _KNOWN.get(class_id)
    kind: type | None = None if reference is None else reference()
    if kind is not None and not (_unfinished and _is_unfinished(kind)):
        return kind
    classes: list[tuple[type, int]] = _unpickle(definition)
    return classes[0][0]


def _keep(kind: type, number: int, definition: bytes, snapshot: Snapshot | None) -> None:
    class_id = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS[kind]
    if snapshot is None and _is_kept(class_id, number):
        return
    while len(_kept) >= KEPT_MAX and class_id not in _kept:
        del _kept[next(iter(_kept))]
    _kept[class_id] = Kept(kind, number, definition, snapshot)


def _is_kept(class_id: str, number: int) -> bool:
    """Return True if the class of this id has this version and is unchanged."""
    kept = _kept.get(class_id)
    return kept is not None and kept.number == number and kept.snapshot is not None and kept.snapshot.is_current()
