"""Find everything that the pickle of a function or class depends on.

    Analysis(value)
      an importable function or class ─► pickled by reference: its module and name
      a function of __main__, a closure ─► pickled by value: its code, defaults, attributes, closure cells and globals,
                                            and those of the functions among them
      a class of __main__ ─► pickled by value: its attributes, base classes and metaclass (class_analysis.py)
      an object that can change unseen ─► NotCacheable

A function or class can be cached if it refers only to numbers, strings, bytes and tuples of these; to modules, importable
functions and classes; and to functions and classes for which the same holds. Lists, dicts, arrays and instances can change
and still be the same object, so a comparison by identity does not show the change. Those that are attributes of classes are
compared item by item. Functions that write globals or closure
cells, or that reach into namespaces or into other functions, are refused too: in a worker that keeps the function, later
calls would find what an earlier call left behind, which a freshly pickled function would not show. Attributes of classes
may be written: a worker compares the classes that it keeps with a snapshot of its own.

Not seen, by design: annotations of functions (they do not affect what runs); a module that was edited and reloaded and that
the function reaches only through other modules; attributes that library code in the worker writes onto a function that it
is given; that a function which two classes share is one object.
"""

from __future__ import annotations

import functools
import operator
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import cloudpickle

from pympipool._core.snapshot import MISSING, FunctionState, Snapshot, is_heap_type
from pympipool.serialization import empty_cache
from pympipool.serialization.code_usage import DISPATCHER_CODE, OWN_ATTRIBUTES, code_usage, nested_code
from pympipool.serialization.reloads import notice_reload

__all__ = ["CONSTANTS", "Analysis", "NotCacheable"]

LARGEST_CONSTANT = 1 << 20
"""Length limit of the strings, bytes and tuples that a cached function may refer to: the cache keeps them alive."""


class NotCacheable(Exception):
    """The function or class cannot be cached: something it refers to could change unseen."""


class Analysis:
    """Everything that the pickle of a function or class depends on.

    Args:
        value: The function or class.
        is_received: This process has received the value and only keeps it.

    Attributes:
        snapshot: Compares all this with what it is now.
        classes: The classes that the pickle contains by value; the value is the first if it is one.

    Raises:
        NotCacheable: The value refers to something that could change unseen.
    """

    def __init__(self, value: Any, *, is_received: bool = False) -> None:
        self.snapshot = Snapshot()
        self.classes: list[type] = []
        self._is_received = is_received
        self._packages: set[str] = set()
        self._names: set[str] = set()  # all names in the code
        self._stored: set[str] = set()  # attributes that the code sets on any object
        self._stored_on: set[int] = set()  # ids of objects on which the code sets attributes
        self._is_by_reference = False  # True if the pickle refers to a module
        self._registry = cloudpickle.list_registry_pickle_by_value()  # modules that cloudpickle pickles by value
        self._functions: dict[int, FunctionState] = {}  # functions that are pickled by value, by id
        self._names_in: set[tuple[int, str]] = set()  # ids of namespaces, and names, that are compared
        self._seen: set[int] = set()  # ids of modules and of classes by value
        self._located: set[int] = set()  # ids of importable objects
        self._handles_functions = False  # True if the code refers to a function that is pickled by value
        self._dispatches = False  # True if there is a function of functools.singledispatch
        self._changes_objects = False
        self._calls_setattr = False
        self._refusal = ""  # why a function cannot be cached if the worker does not compare it
        if not self._locate(value):
            if isinstance(value, type):
                self._add_class(value)
            elif type(value) is types.FunctionType:
                self._add_function(value)
            elif type(value) is functools._lru_cache_wrapper:
                self._add_wrapper(value)
            else:
                raise NotCacheable("neither importable nor a function or class")
        if not self.classes and self._refusal:
            raise NotCacheable(self._refusal)
        if self._handles_functions and self._may_change_functions():
            raise NotCacheable("it may change a function that stays in the worker")
        if self._dispatches and "register" in self._names:
            raise NotCacheable("it may register an implementation that stays in the worker")
        self._finish()

    def _may_change_functions(self) -> bool:
        """Return True if the code may set an attribute of a function that is pickled by value.

        Methods set attributes of their instances. So with classes it counts which attributes are set, and on what.
        """
        if not self.classes:
            return self._changes_objects
        if self._calls_setattr or not self._stored_on.isdisjoint(self._functions):
            return True
        return any(not self._stored.isdisjoint(state.attributes) for state in self._functions.values())

    def _finish(self) -> None:
        """Add to the snapshot what is known only at the end."""
        asks_for_names = not self._names.isdisjoint(_DESCRIPTIVE_NAMES)
        for state in self._functions.values():
            state.compares_names = asks_for_names or bool(state.kwdefaults or state.attributes)
        if self._is_received:
            return
        if self._is_by_reference:
            self.snapshot.add_check(functools.partial(operator.eq, _REGISTRY, self._registry))
        if self._packages:
            self.snapshot.add_check(ReachableSubmodules(self._packages, self._names).are_current)

    def add_value(self, value: Any) -> None:
        """Check an object that a function or class refers to. The caller records the reference itself."""
        kind = type(value)
        if kind in CONSTANTS:
            if kind in (str, bytes) and len(value) > LARGEST_CONSTANT:
                raise NotCacheable("a long string")
        elif kind is tuple or kind is frozenset:
            if len(value) > LARGEST_CONSTANT:
                raise NotCacheable("a long tuple")
            for item in value:
                self.add_value(item)
        elif kind is types.ModuleType:
            self._add_module(value)
        elif not self._locate(value):
            if kind is types.FunctionType:
                self._handles_functions = True
                self._add_function(value)
            elif kind is functools._lru_cache_wrapper:
                self._add_wrapper(value)
            elif issubclass(kind, type):
                self._add_class(value)
            else:
                from pympipool.serialization.class_analysis import add_object

                add_object(self, value)

    def _add_name(self, namespace: Mapping[str, Any], name: str, value: Any) -> None:
        if (id(namespace), name) not in self._names_in:
            self._names_in.add((id(namespace), name))
            self.snapshot.add_name(namespace, name, value)

    def _add_class(self, kind: type) -> None:
        from pympipool.serialization.class_analysis import add_class

        if id(kind) not in self._seen and is_heap_type(kind):  # others never change, NoneType for one
            self._seen.add(id(kind))
            self.classes.append(kind)
            add_class(self, kind)

    def is_known(self, value: object) -> bool:
        """Return True for an object for which `is_new` was called."""
        return id(value) in self._seen

    def is_new(self, value: object) -> bool:
        """Return True at the first time for an object that the snapshot keeps alive."""
        if id(value) in self._seen:
            return False
        self._seen.add(id(value))
        return True

    def add_method(self, function: Any) -> None:
        """Check a function that is an attribute of a class."""
        if type(function) is types.FunctionType and not self._locate(function):
            self._add_function(function)
        elif type(function) is not types.FunctionType:
            self.add_value(function)

    def _add_function(self, function: types.FunctionType) -> None:
        if id(function) in self._functions:
            return
        if function.__code__ is DISPATCHER_CODE:
            self._add_dispatcher(function)
            return
        state = self.snapshot.add_function(function)
        self._functions[id(function)] = state
        uses = code_usage(state.code)
        if uses.refusal:
            raise NotCacheable(uses.refusal)
        namespace = function.__globals__
        if type(namespace) is not dict:
            raise NotCacheable("its globals are not a plain dict")
        self._refusal = self._refusal or uses.function_refusal
        self._names |= uses.names
        self._stored |= uses.stored
        self._is_by_reference |= function.__module__ != "__main__"
        self._changes_objects |= uses.changes_objects
        self._calls_setattr |= uses.calls_setattr
        add_value = self._adder_for(function)
        for name in uses.globals:
            value = namespace.get(name, MISSING)
            self._add_name(namespace, name, value)
            if name in uses.stored_on:
                self._stored_on.add(id(value))
            if value is not MISSING:  # else it is a builtin, or not defined yet
                add_value(value)
        for value in (*(state.defaults or ()), *state.kwdefaults.values(), *state.attributes.values()):
            self.add_value(value)
        for name, cell in zip(state.code.co_freevars, function.__closure__ or (), strict=False):
            content = self._add_cell(cell, add_value, is_constant=_is_constant(name, state.code))
            if name in uses.stored_on:
                self._stored_on.add(id(content))

    def _add_dispatcher(self, dispatcher: Any) -> None:
        """Check what `functools.singledispatch` returned: its implementations and their types. Its cache does not travel."""
        if id(dispatcher) in self._seen:
            return
        self._seen.add(id(dispatcher))
        self._dispatches = True
        registry: Mapping[Any, Any] = dispatcher.registry
        implementations = dict(registry)
        self.snapshot.add_dict(registry, implementations)
        for kind, function in implementations.items():
            self.add_value(kind)
            self.add_method(function)
        self._add_wrapper(dispatcher)

    def _add_wrapper(self, wrapper: Any) -> None:
        """Check a wrapper of functools with the function in it.

        The cache of `functools.lru_cache` does not travel: each call starts with an empty one.
        """
        attributes = dict(vars(wrapper))
        self.snapshot.add_dict(vars(wrapper), attributes)
        if self._is_received and type(wrapper) is functools._lru_cache_wrapper:
            self.snapshot.add_check(functools.partial(empty_cache, wrapper))
        for name in attributes.keys() - {"__annotations__", *OWN_ATTRIBUTES} | {"__wrapped__"}:
            self.add_method(attributes[name])

    def _adder_for(self, function: types.FunctionType) -> Callable[[Any], None]:
        """Return the method that adds what a function refers to."""
        if self.classes:
            from pympipool.serialization.class_analysis import add_content, is_of_attrs

            if is_of_attrs(function):
                return functools.partial(add_content, self)
        return self.add_value

    def _add_cell(self, cell: types.CellType, add_value: Callable[[Any], None], is_constant: bool) -> Any:
        try:
            content = cell.cell_contents
        except ValueError:
            raise NotCacheable("an empty closure cell") from None
        self.snapshot.add_cell(cell, content)
        if not is_constant:
            add_value(content)
        return content

    def _add_module(self, module: types.ModuleType) -> None:
        if id(module) in self._seen:
            return
        name = module.__name__
        if (
            name == "__main__"
            or sys.modules.get(name) is not module
            or self._is_registered(name)
            or notice_reload(name)
        ):
            raise NotCacheable(f"the module {name}, which is pickled by value")
        self._seen.add(id(module))
        self._is_by_reference = True
        self._add_name(sys.modules, name, module)
        # importlib.reload sets a new one
        self._add_name(vars(module), "__spec__", vars(module).get("__spec__", MISSING))
        if module.__package__:
            self._packages.add(name)

    def _locate(self, value: Any) -> bool:
        """Return True if a value is pickled as its name in a module only. Record the steps that lead to it."""
        module_name = getattr(value, "__module__", None)
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
        if type(module_name) is not str or type(name) is not str or module_name == "__main__":
            return False
        path = resolve_qualname(module_name, name)
        if not path or path[-1][2] is not value:
            return False
        if id(value) in self._located:
            return True
        from pympipool.serialization.by_value import dump_in_full

        if dump_in_full(value) != _pickled_reference(module_name, name):
            return False  # its module is pickled by value, or it has its own reducer, as the functions of numba have
        self._is_by_reference = True
        self._located.add(id(value))
        for step in path:
            self._add_name(*step)
        return True

    def _is_registered(self, module_name: str) -> bool:
        """Return True if the user told cloudpickle to pickle the module, or a package that contains it, by value."""
        return any(module_name == name or module_name.startswith(name + ".") for name in self._registry)


_REGISTRY: set[str] = cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES
"""The modules that cloudpickle pickles by value, as it keeps them itself."""

CONSTANTS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented)})
"""Types whose values cannot change."""


def resolve_qualname(module_name: str, qualified_name: str) -> list[tuple[Mapping[str, Any], str, Any]]:
    """Return the steps from `sys.modules` to an object.

    Returns:
        (namespace, name, value) for each step; an empty list if the name leads nowhere.
    """
    steps: list[tuple[Mapping[str, Any], str, Any]] = []
    namespace: Mapping[str, Any] = sys.modules
    for name in (module_name, *qualified_name.split(".")):
        if name not in namespace:
            return []
        found = namespace[name]
        steps.append((namespace, name, found))
        namespace = getattr(found, "__dict__", {})
    return steps


def _pickled_reference(module_name: str, qualified_name: str) -> bytes:
    """Return the pickle of an object that is pickled as its module and name only."""
    names = [text.encode() for text in (module_name, qualified_name)]
    if max(map(len, names)) > 255:
        return b""
    first, second = (pickle.SHORT_BINUNICODE + bytes([len(text)]) + text + pickle.MEMOIZE for text in names)
    frame = first + second + pickle.STACK_GLOBAL + pickle.MEMOIZE + pickle.STOP
    return pickle.PROTO + b"\x05" + pickle.FRAME + len(frame).to_bytes(8, "little") + frame


_DESCRIPTIVE_NAMES = frozenset({"__name__", "__qualname__", "__module__", "__doc__"})
"""Attributes that describe a function without changing what it computes."""


class ReachableSubmodules:
    """The imported submodules that a function can reach through the packages it refers to.

    cloudpickle has workers import these submodules. An `import scipy.linalg` after an `import scipy` leaves the global
    `scipy` the same object, so a comparison of globals does not show it.
    """

    __slots__ = ("_count", "_names", "_prefixes", "_reached")

    def __init__(self, packages: Iterable[str], names: Iterable[str]) -> None:
        self._prefixes = tuple(package + "." for package in packages)
        self._names = frozenset(names)
        self._count = len(sys.modules)
        self._reached = self._find()

    def are_current(self) -> bool:
        """Return True if the function still reaches the same submodules."""
        count = len(sys.modules)
        if count == self._count:
            return True
        if self._find() != self._reached:
            return False
        self._count = count
        return True

    def _find(self) -> frozenset[str]:
        """Return the submodules all of whose name parts occur in the code: those cloudpickle finds, and some more."""
        modules = [name for name in list(sys.modules) if name.startswith(self._prefixes)]
        return frozenset(
            name
            for name in modules
            for prefix in self._prefixes
            if name.startswith(prefix) and self._names.issuperset(name[len(prefix) :].split("."))
        )


def _is_constant(variable: str, code: types.CodeType) -> bool:
    """Return True for a closure variable whose content stays as it is, although its type does not tell.

    `__classdict__` is the namespace of a class that is being made, for the annotations of the class since Python 3.14.
    """
    return variable == "__classdict__" or (variable == "repr_running" and code in _GUARDED_REPRS)


def _guarded_reprs() -> frozenset[types.CodeType]:
    import dataclasses
    import reprlib

    outer = [getattr(dataclasses, "_recursive_repr", None), reprlib.recursive_repr]
    codes = [code for function in outer if function is not None for code in nested_code(function.__code__)]
    return frozenset(code for code in codes if "repr_running" in code.co_freevars)


_GUARDED_REPRS = _guarded_reprs()
"""The code of `__repr__` of dataclasses. Its closure has a set of the calls under way."""
