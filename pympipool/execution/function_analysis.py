"""Find everything that the pickle of a function depends on.

    FunctionAnalysis(function)
      an importable function or class ─► pickled by reference: its module and name
      a function of __main__, a closure ─► pickled by value: its code, defaults, attributes, closure cells and globals,
                                            and those of the functions among them
      an object that can change unseen ─► NotCacheable

A function can be cached if it refers only to numbers, strings, bytes and tuples of these; to modules, importable
functions and classes; and to functions for which the same holds. Lists, dicts, arrays and instances can change and still
be the same object, so a comparison by identity does not show the change. Functions that write globals or closure cells, or
that reach into namespaces or into other functions, are refused too: in a worker that keeps the function, later calls
would find what an earlier call left behind, which a freshly pickled function would not show.

Not seen, by design: annotations (they do not affect what runs); a module that was edited and reloaded and that the
function reaches only through other modules; attributes that library code in the worker writes onto a function that it
is given.
"""

from __future__ import annotations

import dis
import functools
import operator
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import cloudpickle

from pympipool.serialization.by_value import dump as dump_in_band
from pympipool.serialization.reloads import notice_reload

__all__ = ["MISSING", "FunctionAnalysis", "NotCacheable", "ReachableSubmodules", "cell_content"]

LARGEST_CONSTANT = 1 << 20
"""Length limit of the strings, bytes and tuples that a cached function may refer to: the cache keeps them alive."""

MISSING: Any = object()
"""Marks a name that is not defined, and an empty closure cell."""

Reference: TypeAlias = "tuple[Callable[[str, Any], Any], str, Any]"
"""The `get` method of a namespace, a name, and the object that the name refers to (`MISSING` if it is not defined)."""

Body: TypeAlias = "tuple[types.FunctionType, types.CodeType, tuple[Any, ...] | None, FunctionAttributes | None]"
"""A function that is pickled by value, its code, its defaults, and its attributes where they matter."""

Items: TypeAlias = "tuple[tuple[str, Any], ...]"
"""The items of a dict, in their order."""


class NotCacheable(Exception):
    """The function cannot be cached: something it refers to could change unseen."""


class FunctionAnalysis:
    """Everything that the pickle of a function depends on.

    Attributes:
        cells: Closure cells with their contents.
        packages: Names of the packages that it refers to.
        names: All names in its code.
        is_by_reference: True if the pickle refers to a module.
        registry: Modules that cloudpickle pickles by value.

    Raises:
        NotCacheable: The function refers to something that could change unseen.
    """

    def __init__(self, function: Any) -> None:
        self.cells: list[tuple[types.CellType, Any]] = []
        self.packages: set[str] = set()
        self.names: set[str] = set()
        self.is_by_reference = False
        self.registry = cloudpickle.list_registry_pickle_by_value()
        # by id(function)
        self._bodies: dict[int, tuple[types.FunctionType, types.CodeType, Any, FunctionAttributes]] = {}
        self._references: dict[tuple[int, str], Reference] = {}  # by id of the namespace, and name
        self._handles_functions = False  # True if the code refers to a function that is pickled by value
        self._changes_objects = False
        if not self._locate(function):
            if type(function) is not types.FunctionType:
                raise NotCacheable("neither importable nor a function")
            self._add_function(function)
        if self._handles_functions and self._changes_objects:
            raise NotCacheable("it may change a function that stays in the worker")

    @property
    def references(self) -> Iterable[Reference]:
        """Names in namespaces that the pickle depends on."""
        return self._references.values()

    @property
    def bodies(self) -> Iterator[Body]:
        """Functions that the pickle contains by value."""
        asks_for_names = not self.names.isdisjoint(_DESCRIPTIVE_NAMES)
        for function, code, defaults, attributes in self._bodies.values():
            yield function, code, defaults, attributes if asks_for_names or not attributes.is_bare() else None

    def _add_reference(self, namespace: Mapping[str, Any], name: str, value: Any) -> None:
        self._references[id(namespace), name] = (namespace.get, name, value)

    def _add_value(self, value: Any) -> None:
        """Check an object that a function refers to. The caller records the reference itself."""
        kind = type(value)
        if kind in _CONSTANTS:
            if kind in (str, bytes) and len(value) > LARGEST_CONSTANT:
                raise NotCacheable("a long string")
        elif kind is tuple or kind is frozenset:
            if len(value) > LARGEST_CONSTANT:
                raise NotCacheable("a long tuple")
            for item in value:
                self._add_value(item)
        elif kind is types.ModuleType:
            self._add_module(value)
        elif not self._locate(value):
            if kind is not types.FunctionType:
                raise NotCacheable(f"an object of type {kind.__name__}")
            self._handles_functions = True
            self._add_function(value)

    def _add_function(self, function: types.FunctionType) -> None:
        if id(function) in self._bodies:
            return
        code, defaults, attributes = function.__code__, function.__defaults__, FunctionAttributes(function)
        self._bodies[id(function)] = (function, code, defaults, attributes)
        uses = code_usage(code)
        if uses.refusal:
            raise NotCacheable(uses.refusal)
        if type(function.__globals__) is not dict:
            raise NotCacheable("its globals are not a plain dict")
        self.names |= uses.names
        self.is_by_reference |= function.__module__ != "__main__"
        self._changes_objects |= uses.changes_objects
        for name in uses.globals:
            value = function.__globals__.get(name, MISSING)
            self._add_reference(function.__globals__, name, value)
            if value is not MISSING:  # else it is a builtin, or not defined yet
                self._add_value(value)
        for value in (*(defaults or ()), *attributes.values()):
            self._add_value(value)
        for cell in function.__closure__ or ():
            self._add_cell(cell)

    def _add_cell(self, cell: types.CellType) -> None:
        content = cell_content(cell)
        if content is MISSING:
            raise NotCacheable("an empty closure cell")
        self.cells.append((cell, content))
        self._add_value(content)

    def _add_module(self, module: types.ModuleType) -> None:
        name = module.__name__
        if (
            name == "__main__"
            or sys.modules.get(name) is not module
            or self._is_registered(name)
            or notice_reload(name)
        ):
            raise NotCacheable(f"the module {name}, which is pickled by value")
        self.is_by_reference = True
        self._add_reference(sys.modules, name, module)
        self._add_reference(vars(module), "__spec__", vars(module).get("__spec__", MISSING))  # importlib.reload sets it
        if module.__package__:
            self.packages.add(name)

    def _locate(self, value: Any) -> bool:
        """Return True if a value is pickled as its name in a module only. Record the steps that lead to it."""
        module_name = getattr(value, "__module__", None)
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
        if type(module_name) is not str or type(name) is not str or module_name == "__main__":
            return False
        path = resolve_qualname(module_name, name)
        if not path or path[-1][2] is not value:
            return False
        if dump_in_band(value) != _pickled_reference(module_name, name):
            return False  # its module is pickled by value, or it has its own reducer, as the functions of numba have
        self.is_by_reference = True
        for step in path:
            self._add_reference(*step)
        return True

    def _is_registered(self, module_name: str) -> bool:
        """Return True if the user told cloudpickle to pickle the module, or a package that contains it, by value."""
        return any(module_name == name or module_name.startswith(name + ".") for name in self.registry)


_CONSTANTS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented)})
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


class FunctionAttributes:
    """The keyword defaults, attributes and descriptive names of a function: what it has besides code and defaults."""

    __slots__ = ("_attributes", "_description", "_kwdefaults")

    def __init__(self, function: types.FunctionType) -> None:
        self._kwdefaults: Items = tuple((function.__kwdefaults__ or {}).items())
        self._attributes: Items = tuple(function.__dict__.items())
        self._description = _description_of(function)

    def is_bare(self) -> bool:
        """Return True if there are only descriptive names. These matter only where code asks for them."""
        return not self._kwdefaults and not self._attributes

    def values(self) -> list[Any]:
        return [value for _, value in self._kwdefaults + self._attributes]

    def is_current(self, function: types.FunctionType) -> bool:
        return (
            _holds_exactly(function.__kwdefaults__ or {}, self._kwdefaults)
            and _holds_exactly(function.__dict__, self._attributes)
            and all(map(operator.is_, _description_of(function), self._description))
        )


_DESCRIPTIVE_NAMES = frozenset({"__name__", "__qualname__", "__module__", "__doc__"})
"""Attributes that describe a function without changing what it computes."""

_description_of = operator.attrgetter(*sorted(_DESCRIPTIVE_NAMES))


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


# ---- what code does ----


class CodeUsage(NamedTuple):
    """Names that code and its nested code refer to, and what the code does with them.

    Attributes:
        globals: Global variables that it reads or writes.
        names: All names in the code.
        changes_objects: It may set or delete attributes of objects.
        refusal: Reason why a function with this code cannot be cached; empty if there is none.
    """

    globals: frozenset[str]
    names: frozenset[str]
    changes_objects: bool
    refusal: str


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NAMESPACE_NAMES = _names(
    "globals vars exec eval __globals__ __closure__ __builtins__ cell_contents _getframe _getframemodulename "
    "currentframe f_globals f_builtins f_back f_locals gi_frame cr_frame ag_frame tb_frame"
)
"""Names that give code access to namespaces that would stay in the worker."""

_MUTATING_NAMES = _names(
    "setattr delattr __setattr__ __delattr__ __dict__ __code__ __defaults__ __kwdefaults__ update_wrapper"
)
"""Names that let code change the attributes of objects, including functions."""


@functools.lru_cache(maxsize=1024)
def code_usage(code: types.CodeType) -> CodeUsage:
    """Disassemble code, once, and return what it uses.

    The names of instructions differ between versions of Python, so this function matches parts of the names.
    """
    global_names: set[str] = set()
    names: set[str] = set()
    refusal = ""
    changes_objects = False
    for part in _nested_code(code):
        names.update(part.co_names)
        for instruction in dis.get_instructions(part):
            operation, name = instruction.opname, instruction.argval
            writes = operation.startswith(("STORE_", "DELETE_"))
            if "GLOBAL" in operation or operation == "LOAD_NAME":  # LOAD_NAME: in the body of a class
                global_names.add(name)
                if writes:
                    refusal = f"it writes the global {name}"
            elif writes and "DEREF" in operation and name in code.co_freevars:
                refusal = f"it writes {name}, a variable of the function around it"
            elif writes and "ATTR" in operation:
                changes_objects = True
    if names & _NAMESPACE_NAMES:
        refusal = f"it reaches into namespaces by {min(names & _NAMESPACE_NAMES)}"
    return CodeUsage(
        frozenset(global_names), frozenset(names), changes_objects or bool(names & _MUTATING_NAMES), refusal
    )


def _nested_code(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code and all code inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested_code(constant)


def _holds_exactly(mapping: Mapping[str, Any], items: Items) -> bool:
    """Return True if a mapping has exactly these keys, each with the identical value."""
    if len(mapping) != len(items):
        return False
    for key, value in items:
        if mapping.get(key, MISSING) is not value:
            return False
    return True


def cell_content(cell: types.CellType) -> Any:
    """Return the content of a closure cell, or `MISSING` if the cell is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING
