"""Digest functions and classes by all that determines what they do.

    importable              ─► the module, with its contents (modules.py), and the name there;
                               if the call runs in this process, also all that follows, as this process has it
    of a script, a notebook,
    or another function     ─► code, defaults, attributes, closure, and the values of the globals that the code names:
                               functions and classes among them in the same way
    a class of a script     ─► bases and all attributes

Not seen: annotations of functions, which do not run; what a function reads from files or the environment; attributes of modules
that the script has changed, since workers import the modules anew. Calls that run in this process see them: so there they count,
but for those of installed packages. Of a lock its type counts there.
"""

from __future__ import annotations

import abc
import functools
import sys
import types
from collections.abc import Iterable
from enum import EnumMeta
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any

from pympipool._core.snapshot import ADDED_TO_CLASSES, ADDED_TO_MEMBERS
from pympipool._util.reprs import callable_name
from pympipool.caching.code import add_code
from pympipool.caching.imports import imports_of
from pympipool.caching.modules import add_imports, add_module_named, is_by_value, sees_memory
from pympipool.caching.values import UnhashableError
from pympipool.serialization.analysis import resolve_qualname
from pympipool.serialization.annotations import NAMESPACE_CELL
from pympipool.serialization.code_usage import DISPATCHER_CODE, OWN_ATTRIBUTES, code_usage

if TYPE_CHECKING:
    from pympipool.caching.values import Hasher

__all__ = ["add_class", "add_function", "add_special"]

_NOT_OF_CLASSES = frozenset(
    {
        *("__dict__", "__weakref__", "__module__", "__firstlineno__", "__static_attributes__", "__annotations_cache__"),
        *("_abc_impl", "__abstractmethods__", "__slotnames__", NAMESPACE_CELL),
    }
)
"""Attributes of classes that do not tell what they do, or that follow from the others; some in an order of the session."""

_NOT_OF_ENUMS = frozenset(
    {"_member_map_", "_value2member_map_", "_hashable_values_", "_unhashable_values_", "_unhashable_values_map_"}
)
"""Attributes of enumerations that follow from their members, or get each combination of flags when it is first made."""

_NOT_OF_MEMBERS = ADDED_TO_MEMBERS | {"__objclass__"}

_NOT_OF_WRAPPERS = (OWN_ATTRIBUTES - {"__wrapped__"}) | {"__annotations__", "__annotate__", "__type_params__"}

_LOCKS = (type(Lock()), type(RLock()))


def add_function(hasher: Hasher, function: types.FunctionType) -> None:
    """Add a function.

    Raises:
        UnhashableError: It refers to something that has no digest.
    """
    if _add_located(hasher, function) and not sees_memory(hasher, function.__module__):
        return
    if function.__code__ is DISPATCHER_CODE:
        _add_wrapper(hasher, function, {"registry": dict(function.registry)})  # type: ignore[attr-defined]
        return
    name = callable_name(function)
    code = function.__code__
    hasher.add_all(b"function", (function.__name__, function.__qualname__, function.__doc__))
    add_code(hasher, code)
    defaults = function.__defaults__ or ()
    variables = code.co_varnames[: code.co_argcount][code.co_argcount - len(defaults) :]
    hasher.add_named(b"defaults", dict(zip(variables, defaults, strict=True)), f"the default of {{}} of {name}()")
    hasher.add_named(b"kwdefaults", function.__kwdefaults__ or {}, f"the default of {{}} of {name}()")
    hasher.add_named(b"attributes", vars(function), f"the attribute {{}} of {name}()", order_counts=True)
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=False))
    cells.pop("__classdict__", None)  # of a method: the class has the same
    hasher.add_named(b"closure", cells, f"the variable {{}} around {name}()")
    meets = hasher.scope.meets_function
    uses = code_usage(code)
    found = {key: function.__globals__[key] for key in uses.globals if key in function.__globals__}
    package = function.__globals__.get("__package__")
    add_imports(hasher, code, package)
    modules = [value.__name__ for value in found.values() if isinstance(value, types.ModuleType)]
    _add_submodules(hasher, modules, uses.names)
    if hasher.scope.runs_here:
        _add_memory(hasher, {*modules, *imports_of(code, package or "")}, uses.names)
    if hasher.is_new(function.__globals__):
        hasher.feed(b"namespace")
    hasher.add_named(b"globals", found, f"the global {{}} of {name}()")
    hasher.scope.meets_function = meets  # all code of a worker has the same globals, however it came there


def _add_memory(hasher: Hasher, modules: Iterable[str], names: frozenset[str]) -> None:
    """Add what this process has of modules, under the names that the code contains."""
    waiting, seen = sorted(modules), set()
    while waiting:
        module = waiting.pop()
        if module in seen or not sees_memory(hasher, module):
            continue
        seen.add(module)
        content = vars(sys.modules[module])
        found = {name: content[name] for name in names if name in content}
        hasher.text(b"memory", module)
        hasher.add_named(b"names", found, f"{{}} of the module {module}")
        waiting += sorted(value.__name__ for value in found.values() if isinstance(value, types.ModuleType))


def _add_submodules(hasher: Hasher, packages: Iterable[str], names: frozenset[str]) -> None:
    """Add submodules that code reaches through packages: `import a.b` makes only `a` a global."""
    for package in sorted(packages):
        reached = [] if is_by_value(package) else [package]
        while reached:
            module = reached.pop()
            for name in sorted(names):
                submodule = f"{module}.{name}"
                if submodule in sys.modules:
                    add_module_named(hasher, submodule)
                    reached.append(submodule)


def add_class(hasher: Hasher, kind: type) -> None:
    """Add a class.

    Raises:
        UnhashableError: It refers to something that has no digest.
    """
    if _add_located(hasher, kind) and not sees_memory(hasher, kind.__module__):
        return
    hasher.text(b"class", kind.__qualname__)
    hasher.add_all(b"bases", (type(kind), *kind.__bases__))
    attributes = {
        name: value
        for name, value in vars(kind).items()
        if name not in _NOT_OF_CLASSES and not (name in ADDED_TO_CLASSES and value in (None, {}))
    }
    if isinstance(kind, EnumMeta):
        members: dict[str, Any] = dict(kind.__members__)
        hasher.add(members)
        for member in members.values():
            of_member = {name: value for name, value in vars(member).items() if name not in _NOT_OF_MEMBERS}
            hasher.add_named(b"member", of_member, f"the attribute {{}} of {kind.__name__}.{member._name_}")
        attributes = {name: value for name, value in attributes.items() if name not in _NOT_OF_ENUMS}
    hasher.add_named(b"attributes", attributes, f"the attribute {{}} of the class {kind.__name__}", order_counts=True)
    if "_abc_impl" in vars(kind):
        registered = [reference() for reference in abc._get_dump(kind)[0]]  # type: ignore[attr-defined]
        hasher.add_unordered(b"registered", [one for one in registered if one is not None])


def add_special(hasher: Hasher, value: Any) -> bool:
    """Add an object that pickle cannot store, but that functions and classes have; return False for others."""
    if isinstance(value, (staticmethod, classmethod)):
        hasher.add_all(type(value).__name__.encode(), (value.__func__,))
    elif type(value) is property:
        hasher.add_all(b"property", (value.fget, value.fset, value.fdel))
    elif type(value) is functools.cached_property:  # it has a lock until Python 3.11
        hasher.add_all(b"property", (value.func,))
    elif type(value) is functools._lru_cache_wrapper:
        if not _add_located(hasher, value) or sees_memory(hasher, value.__module__):
            _add_wrapper(hasher, value, {})
    elif type(value) in (types.MemberDescriptorType, types.GetSetDescriptorType):
        hasher.text(b"member", value.__name__)
    elif type(value) is types.BuiltinFunctionType and isinstance(value.__self__, (types.ModuleType, type(None))):
        if not _add_located(hasher, value):
            raise UnhashableError(f"{value!r}, which its module does not have")
    elif type(value) is types.CellType:
        try:
            hasher.add_all(b"cell", (value.cell_contents,))
        except ValueError:
            hasher.feed(b"cell")
    elif type(value) in _LOCKS and hasher.scope.runs_here:  # it has no value
        hasher.text(b"lock", type(value).__name__)
    else:
        return False
    return True


def _add_wrapper(hasher: Hasher, wrapper: Any, content: dict[str, Any]) -> None:
    """Add a wrapper of functools, without its cache."""
    attributes = {name: value for name, value in vars(wrapper).items() if name not in _NOT_OF_WRAPPERS}
    hasher.text(b"wrapper", type(wrapper).__name__)
    parameters = getattr(wrapper, "cache_parameters", None)
    hasher.add(None if parameters is None else parameters())
    for kind, function in content.get("registry", {}).items():
        hasher.add(kind)
        hasher.add(function)
    hasher.add_named(b"attributes", attributes, f"the attribute {{}} of {callable_name(wrapper)}()")


def _add_located(hasher: Hasher, value: Any) -> bool:
    """Add a function or class as its module and its name there; return False if it is not found there, or pickled by value."""
    module_name = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if type(module_name) is not str or type(name) is not str or module_name == "__main__":
        return False
    path = resolve_qualname(module_name, name)
    if not path or path[-1][2] is not value or is_by_value(module_name):
        return False
    hasher.text(b"importable", name)
    add_module_named(hasher, module_name)
    return True
