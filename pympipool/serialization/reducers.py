"""Reducers for objects of a script that pickle stores by name, or not at all, but that have no name in a worker.

    by_value._reducer_of ─► SCRIPT_REDUCERS   objects of the standard library and of numpy, by their type
    by_value._Pickler ─► ScriptPickler        functions of functools.singledispatch, locks of the script,
                                              names in annotations that are strings

An object that can be imported in a worker is still pickled by name. This module is imported only together with
`by_value`, never at the start of a worker.
"""

from __future__ import annotations

import ast
import builtins
import copyreg
import dataclasses
import enum
import functools
import gc
import queue
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import cloudpickle

from pympipool.serialization import _define_class, _define_function
from pympipool.serialization.analysis import CONSTANTS
from pympipool.serialization.annotations import (
    NAMESPACE_CELL,
    annotations_of,
    evaluate_annotations,
    has_annotations,
    with_text_annotations,
)
from pympipool.serialization.code_usage import DISPATCHER_CODE, OWN_ATTRIBUTES
from pympipool.serialization.references import REDUCERS as REDUCERS_OF_REFERENCES
from pympipool.serialization.reloads import SPAWNED_SCRIPT
from pympipool.serialization.skeletons import reduce_skeleton

__all__ = ["SCRIPT_REDUCERS", "ScriptPickler", "reducer_of_library"]

Reduced: TypeAlias = "str | tuple[Any, ...]"

Reducer: TypeAlias = "Callable[[Any], Reduced]"


def _is_importable(value: Any) -> bool:
    """Return True if a value is pickled as its name in a module: it is found there, and the module is not by value."""
    found: Any = sys.modules.get(value.__module__)
    names = [value.__module__.partition(".")[0], value.__module__]
    if (
        found is None
        or names[1] in ("__main__", SPAWNED_SCRIPT)
        or not cloudpickle.list_registry_pickle_by_value().isdisjoint(names)
    ):
        return False
    for name in getattr(value, "__qualname__", value.__name__).split("."):
        found = getattr(found, name, None)
    return found is value


# ---- decorated functions ----


def _reduce_lru_cache(wrapper: Any) -> Reduced:
    """Reduce what `functools.lru_cache` or `functools.cache` returned: the function and its parameters, no results."""
    if _is_importable(wrapper):
        name: str = wrapper.__qualname__
        return name
    return _make_lru_cache, (wrapper.__wrapped__, wrapper.cache_parameters()), _attributes_of(wrapper)


def _make_lru_cache(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _attributes_of(wrapper: Any) -> dict[str, Any]:
    """Return the attributes that the user or another decorator has set on a wrapper of functools."""
    return {name: value for name, value in vars(wrapper).items() if name not in OWN_ATTRIBUTES}


def _reduce_dispatcher(dispatcher: Any) -> Reduced:
    """Reduce a function that `functools.singledispatch` returned: the function and its implementations."""
    state = (list(dispatcher.registry.items()), _attributes_of(dispatcher))
    return functools.singledispatch, (dispatcher.__wrapped__,), state, None, None, _register_all


def _register_all(dispatcher: Any, state: tuple[list[tuple[type, Callable[..., Any]]], dict[str, Any]]) -> None:
    registry, attributes = state
    for kind, function in registry:
        dispatcher.register(kind, function)
    vars(dispatcher).update(attributes)


def _reduce_dispatch_method(value: Any) -> Reduced:
    """Reduce a `functools.singledispatchmethod` without its cache of methods, which it has in Python 3.13."""
    return type(value), (value.func,), {"dispatcher": value.dispatcher}


def _reduce_cached_property(value: Any) -> Reduced:
    """Reduce a `functools.cached_property` without its lock, which it has before Python 3.12."""
    return type(value), (value.func,), {name: item for name, item in vars(value).items() if name != "lock"}


def _reduce_partial_method(value: Any) -> Reduced:
    """Reduce a `functools.partialmethod`, which pickle cannot make without its function since Python 3.14."""
    return _make_partial_method, (type(value), value.func, value.args, value.keywords)


def _make_partial_method(kind: Any, function: Any, arguments: Any, keywords: Any) -> Any:
    return kind(function, *arguments, **keywords)


def _reduce_ufunc(ufunc: Any) -> Reduced:
    """Reduce a ufunc as numpy does; one of `numpy.frompyfunc` by the Python function in it."""
    if not ufunc.__name__.endswith(" (vectorized)"):
        return copyreg.dispatch_table[type(ufunc)](ufunc)
    functions = [value for value in gc.get_referents(ufunc) if callable(value)]
    if len(functions) != 1:
        raise TypeError(f"{ufunc!r} does not tell which function is in it; define it in a module, or inside the call")
    return _make_ufunc, (functions[0], ufunc.nin, ufunc.nout, ufunc.identity)


def _make_ufunc(function: Callable[..., Any], inputs: int, outputs: int, identity: Any) -> Any:
    import numpy

    more = {} if identity is None else {"identity": identity}
    return numpy.frompyfunc(function, inputs, outputs, **more)


# ---- names of the typing module ----


def _by_name_or(make: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any], Reduced]:
    """Return a reducer that pickles importable objects by name, and others by their parts."""

    def reduce(value: Any) -> Reduced:
        if _is_importable(value):
            name: str = getattr(value, "__qualname__", value.__name__)
            return name
        return make(value)

    return reduce


def _new_type_parts(value: Any) -> tuple[Any, ...]:
    state = {"__module__": value.__module__, "__qualname__": value.__qualname__}
    return typing.NewType, (value.__name__, value.__supertype__), state


def _param_spec_parts(value: Any) -> tuple[Any, ...]:
    return _make_param_spec, (value.__name__, value.__bound__, value.__covariant__, value.__contravariant__)


def _make_param_spec(name: str, bound: Any, covariant: bool, contravariant: bool) -> Any:
    return typing.ParamSpec(name, bound=bound, covariant=covariant, contravariant=contravariant)


def _type_var_tuple_parts(value: Any) -> tuple[Any, ...]:
    return type(value), (value.__name__,)


def _type_alias_parts(value: Any) -> tuple[Any, ...]:
    if value.__type_params__:
        parts = type(value), value.__name__, value.__value__, value.__type_params__
        return _make_generic_alias, (*parts, value.__module__)
    return _make_lazy_alias, (value.__name__, value.__module__), value.__value__, None, None, _set_alias


_lazy_aliases: dict[int, dict[str, Any]] = {}
"""The globals of aliases whose value is not set yet, by id of the alias."""


def _make_generic_alias(kind: Any, name: str, value: Any, parameters: tuple[Any, ...], module: str) -> Any:
    """Return a type alias. It takes the module of the code that makes it."""
    namespace = {"__name__": module, "kind": kind, "name": name, "value": value, "parameters": parameters}
    return eval("kind(name, value, type_params=parameters)", namespace)


def _make_lazy_alias(name: str, module: str) -> Any:
    """Return a type alias without its value, which may contain the alias itself."""
    namespace: dict[str, Any] = {"__name__": module}
    exec(f"type {name} = __value__", namespace)
    _lazy_aliases[id(namespace[name])] = namespace
    return namespace[name]


def _set_alias(alias: Any, value: Any) -> None:
    _lazy_aliases.pop(id(alias))["__value__"] = value


# ---- sentinels ----


def _sentinels(module: types.ModuleType, names: Iterable[str]) -> Iterator[tuple[type, Reducer]]:
    """Yield reducers for objects that exist once, in a module, and that are compared with `is`.

    Since Python 3.15 most have one type, which pickles them by name.
    """
    for name in names:
        if hasattr(module, name) and not hasattr(builtins, "sentinel"):
            yield type(getattr(module, name)), functools.partial(_name_of_sentinel, name)


def _name_of_sentinel(name: str, _sentinel: object) -> Reduced:
    return name


# ---- all types ----


def _typing_reducers() -> Iterator[tuple[type, Reducer]]:
    for name, parts in (
        ("NewType", _new_type_parts),
        ("ParamSpec", _param_spec_parts),
        ("TypeVarTuple", _type_var_tuple_parts),
        ("TypeAliasType", _type_alias_parts),
    ):
        if hasattr(typing, name):
            yield getattr(typing, name), _by_name_or(parts)


SCRIPT_REDUCERS: dict[type, Reducer] = {
    functools._lru_cache_wrapper: _reduce_lru_cache,
    functools.cached_property: _reduce_cached_property,
    functools.singledispatchmethod: _reduce_dispatch_method,
    functools.partialmethod: _reduce_partial_method,
    **REDUCERS_OF_REFERENCES,
    **dict(_typing_reducers()),
    **dict(_sentinels(dataclasses, ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY"))),
}
"""Reducers of the standard library's types, by the exact type."""

_LIBRARY_REDUCERS: dict[tuple[str, str], Reducer] = {("numpy", "ufunc"): _reduce_ufunc}
"""Reducers of types of libraries that this module does not import, in place of those that the library registered."""


def reducer_of_library(kind: type) -> Reducer | None:
    """Return the reducer that replaces the one that a library has registered for its type, or None."""
    return _LIBRARY_REDUCERS.get((kind.__module__, kind.__qualname__))


# ---- locks ----

_HOLD_LOCKS = frozenset(
    {
        threading.Event,
        threading.Semaphore,
        threading.BoundedSemaphore,
        threading.Barrier,
        queue.Queue,
        queue.LifoQueue,
        queue.PriorityQueue,
    }
)
_RLOCK = type(threading.RLock())
_OF_LOCKS = frozenset({type(threading.Lock()), _RLOCK, threading.Condition, threading.local, *_HOLD_LOCKS})


class _NewLock:
    """Takes the place of a lock of the script in a pickle: the worker gets a new one that no thread holds.

    Locks, conditions and objects of `threading.local` arrive new. Events, semaphores, barriers and queues arrive as they
    are, with new locks in them.
    """

    def __init__(self, lock: Any, stand_in: Callable[[Any], Any]) -> None:
        self.reduced: tuple[Any, ...]
        if type(lock) is threading.Condition:
            self.reduced = threading.Condition, (stand_in(lock._lock),)  # type: ignore[attr-defined]
        elif type(lock) in _HOLD_LOCKS:
            state = {name: stand_in(value) for name, value in vars(lock).items()}
            self.reduced = _make_empty, (type(lock),), state
        elif type(lock) is threading.local:
            self.reduced = type(lock), ()
        else:
            self.reduced = threading.RLock if type(lock) is _RLOCK else threading.Lock, ()

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def _make_empty(kind: Any) -> Any:
    """Return an object without its attributes."""
    return kind.__new__(kind)


# ---- functions and classes ----


def names_in_annotations(function: types.FunctionType) -> dict[str, Any]:
    """Return the classes, modules and types that string annotations of a function name, for `typing.get_type_hints`."""
    found: dict[str, Any] = {}
    for annotation in annotations_of(function).values():
        if type(annotation) is str:
            for name in _names_in(annotation):
                value = function.__globals__.get(name)
                if isinstance(value, (type, types.ModuleType)) or type(value).__module__ in ("typing", "types"):
                    found[name] = value
    return found


@functools.lru_cache(maxsize=1024)
def _names_in(annotation: str) -> frozenset[str]:
    try:
        tree = ast.parse(annotation.strip(), mode="eval")
    except SyntaxError:
        return frozenset()
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


_DERIVED = frozenset(
    {
        *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__slots__"),
        *("__firstlineno__", "__static_attributes__", "__abstractmethods__", "_abc_impl"),
    }
)
"""Attributes that a class statement makes."""


def _overrides(kind: type) -> dict[str, Any]:
    """Return the attributes that a base class has, too, with the same value: cloudpickle takes them for inherited ones.

    The base class may get another value later. An object that can change stays one object only if the base class, too, travels by
    value.
    """
    if isinstance(kind, enum.EnumMeta):
        return {}
    return {
        name: value
        for name, value in vars(kind).items()
        if name not in _DERIVED
        and any(
            vars(base).get(name, vars) is value and (type(value) in CONSTANTS or not _is_importable(base))
            for base in kind.__bases__
        )
    }


class ScriptPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """cloudpickle's pickler, which also pickles what functions and classes of a script commonly refer to.

    Locks that are attributes of a class or globals of a function arrive as new locks, as in a process that imports the
    script. A lock in an argument or a closure still raises an error: the caller may rely on it, and a copy locks nothing.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._stand_ins: dict[int, Any] = {}  # by id of the lock

    def reducer_override(self, value: Any) -> Any:
        try:
            reduced = super().reducer_override(value)
        except Exception:
            if type(value) is not types.FunctionType or has_annotations(value):
                raise
            reduced = self._dynamic_function_reduce(with_text_annotations(value))
        if type(reduced) is not tuple or len(reduced) != 6:  # not by value
            return reduced
        if type(value) is types.FunctionType:
            if value.__code__ is DISPATCHER_CODE:
                return _reduce_dispatcher(value)
            _, slots = reduced[2]
            slots["__globals__"].update(names_in_annotations(value))
            self._replace_locks(slots["__globals__"])
            return (*reduced[:5], _define_function)
        reduced[2][0].update(_overrides(value), **evaluate_annotations(value))
        reduced[2][0].pop(NAMESPACE_CELL, None)
        self._replace_locks(reduced[2][0])
        if reduced[5] is cloudpickle.cloudpickle._class_setstate:
            reduced = (*reduced[:5], _define_class)
        return reduce_skeleton(value, reduced)

    def _replace_locks(self, namespace: dict[str, Any]) -> None:
        for name, value in namespace.items():
            if type(value) in _OF_LOCKS:
                namespace[name] = self._stand_in(value)

    def _stand_in(self, value: Any) -> Any:
        """Return what takes the place of a value in the pickle: always the same for the same lock."""
        if type(value) not in _OF_LOCKS:
            return value
        if id(value) not in self._stand_ins:
            self._stand_ins[id(value)] = _NewLock(value, self._stand_in)
        return self._stand_ins[id(value)]
