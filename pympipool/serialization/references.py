"""Reducers for what refers to objects of one process: weak references and context variables.

An object that only a weak reference of the script refers to is dead as soon as the pickle has been loaded.
"""

from __future__ import annotations

import contextvars
import itertools
import os
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["REDUCERS"]


def _reduce_reference(reference: weakref.ref[Any]) -> tuple[Any, ...]:
    target = reference()
    return (_dead_reference, ()) if target is None else (weakref.ref, (target,))


class _Target:
    """Something that a weak reference can refer to."""


def _dead_reference() -> weakref.ref[Any]:
    return weakref.ref(_Target())


def _reduce_method(reference: weakref.WeakMethod[Any]) -> tuple[Any, ...]:
    method = reference()
    return (_dead_reference, ()) if method is None else (weakref.WeakMethod, (method,))


def _reduce_mapping(mapping: Any) -> tuple[Any, ...]:
    return type(mapping), (), None, None, iter(list(mapping.items()))


# ---- context variables ----

_numbers = itertools.count()

VARIABLES_MAX = 1024
"""Number of context variables that are kept. One that was dropped arrives as another object."""

_variables: dict[tuple[int, int], contextvars.ContextVar[Any]] = {}
"""Context variables that this process has pickled or received, by the process that made them and a number."""

_keys: dict[contextvars.ContextVar[Any], tuple[int, int]] = {}

_tokens: dict[contextvars.ContextVar[Any], contextvars.Token[Any]] = {}
"""For each received variable that has a value: what restores the state without one."""


def _reduce_variable(variable: contextvars.ContextVar[Any]) -> tuple[Any, ...]:
    """Reduce a context variable: by its name, its default and the value that it has."""
    if variable not in _keys:
        _keep((os.getpid(), next(_numbers)), variable)
    default = contextvars.Context().run(_value_of, variable)
    return _find_variable, (_keys[variable], variable.name, default), _value_of(variable), None, None, _set_variable


def _value_of(variable: contextvars.ContextVar[Any]) -> tuple[Any, ...]:
    """Return a tuple with the value of a variable; an empty one if it has none."""
    try:
        return (variable.get(),)
    except LookupError:
        return ()


def _find_variable(key: tuple[int, int], name: str, default: tuple[Any, ...]) -> contextvars.ContextVar[Any]:
    known = _variables.get(key)
    if known is not None:
        return known
    made = contextvars.ContextVar(name, default=default[0]) if default else contextvars.ContextVar(name)
    _keep(key, made)
    return made


def _keep(key: tuple[int, int], variable: contextvars.ContextVar[Any]) -> None:
    while len(_variables) >= VARIABLES_MAX:
        dropped = _variables.pop(next(iter(_variables)))
        _keys.pop(dropped, None)
        _tokens.pop(dropped, None)
    _variables[key], _keys[variable] = variable, key


def _set_variable(variable: contextvars.ContextVar[Any], value: tuple[Any, ...]) -> None:
    """Set a variable in the process that has received it, not in the one that made it."""
    if variable not in _keys or _keys[variable][0] == os.getpid():
        return
    token = _tokens.pop(variable, None)
    if token is not None:
        variable.reset(token)  # what an earlier call has received, or has set itself
    if value:
        _tokens[variable] = variable.set(*value)


REDUCERS: dict[type, Callable[[Any], Any]] = {
    weakref.ref: _reduce_reference,
    weakref.WeakMethod: _reduce_method,
    weakref.WeakValueDictionary: _reduce_mapping,
    weakref.WeakKeyDictionary: _reduce_mapping,
    contextvars.ContextVar: _reduce_variable,
}
"""The reducers, by the exact type."""
