"""Send classes by value so that a process never changes a class of its own.

cloudpickle pickles a class that cannot be imported as an empty class and its state, and gives it an id. A process that
already has the class of this id applies the state to it. For a worker that is right: a call sees the class as it is in
the master. For the master it is wrong: a result that contains an instance would set the attributes and methods of the
script's class back to what they were when the call was submitted. So the state arrives here first:

    the class               in a call          in a result
    was made here           is left alone      is left alone
    was received before     gets the state     is left alone
    is not known yet        is built           is built
"""

from __future__ import annotations

import enum
import weakref
from collections.abc import Callable
from typing import Any

from cloudpickle import cloudpickle

from pympipool.serialization.enums import reduce_enum

_received: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes that this process has built from pickles."""

_unfinished: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes of `_received` that have no state yet."""


def reduce_class(kind: type, reduced: tuple[Any, ...], is_result: bool) -> tuple[Any, ...]:
    """Return the reduction of a class that travels by value.

    Args:
        kind: The class.
        reduced: cloudpickle's reduction of the class: constructor, arguments, state, two times None, state setter.
        is_result: The class belongs to a result or an exception.
    """
    if issubclass(kind, enum.Enum):
        reduced = reduce_enum(kind, reduced)
    make, arguments, state, _, _, set_state = reduced
    return _make, (make, *arguments), (set_state, state), None, None, _complete if is_result else _update


def _make(make: Callable[..., type], *arguments: Any) -> type:
    """Return the class of the id in the arguments; if it is not known yet, a new class without its state."""
    *_, class_id, _ = arguments
    known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(class_id)
    if known is not None:
        return known  # type: ignore[no-any-return]  # cloudpickle has no types
    kind = make(*arguments)
    _received.add(kind)
    _unfinished.add(kind)
    return kind


def _complete(kind: type, state: tuple[Callable[..., Any], Any]) -> None:
    """Set the state of a class that arrived in a result, if the class is a new one."""
    if kind in _unfinished:
        set_state, values = state
        set_state(kind, values)
        _unfinished.discard(kind)


def _update(kind: type, state: tuple[Callable[..., Any], Any]) -> None:
    """Set the state of a class that arrived in a call, unless the class was made in this process."""
    if kind in _received:
        set_state, values = state
        set_state(kind, values)
        _unfinished.discard(kind)
