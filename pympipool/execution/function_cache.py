"""When a function may travel once.

Pickling a function by value takes longer than most small calls, and a worker that has it need not get it again. But a
function is more than its code: notebooks redefine the functions and the numbers that it refers to, and what runs must
be what fresh pickling would send. So a function gets a number, and travels once, only when all that its pickle
depends on can be compared with a snapshot, by identity, in a fraction of a microsecond at every call:

    FunctionTable.lookup(function)
      known, and all that it refers to is the very same still ─► its number
      seen for the first time ─► none: many lambdas are called only once
      else, what does it refer to? (FunctionAnalysis)
        an importable function or class ─► pickled by reference: its module and name
        a function of __main__, a closure ─► pickled by value: its code, defaults, attributes, cells and
                                              globals, and those of the functions among them
        anything that can change unseen ─► none
      ─► snapshot, pickle, next number

A function without number is pickled with each call, which is always right. What a numbered one may refer to: numbers,
strings, bytes and tuples of such; modules, importable functions and classes; and functions of which the same holds.
Lists, dicts, arrays and instances can change and still be the same object. And what a call leaves behind in a
function that stays in the worker, a function pickled afresh would not show: functions that write globals or closure
cells, that reach into namespaces or into other functions, get no number either.

Not seen, by design: annotations (they are not what runs); a file that changes after its module was imported (as with
all pickling by reference: importlib.reload in the master does not reload in the workers); attributes that library code
in the worker writes onto a function that it is given.
"""

from __future__ import annotations

import dis
import functools
import operator
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import cloudpickle

from pympipool._util.reprs import callable_name
from pympipool.serialization.by_value import dump as dump_in_band

__all__ = ["FUNCTION_CACHE_SIZE", "Function", "FunctionTable"]

FUNCTION_CACHE_SIZE = 256
"""Functions that worker and master hold at a time: number n lies in slot n modulo FUNCTION_CACHE_SIZE."""

LARGEST_CONSTANT = 1 << 20
"""Longer strings and tuples that a function refers to are not kept alive for its sake."""

_MISSING: Any = object()

Reference: TypeAlias = "tuple[Callable[[str, Any], Any], str, Any]"
"""The `get` of a namespace, a name, and the object that it names (`_MISSING`: none)."""

Body: TypeAlias = "tuple[types.FunctionType, types.CodeType, tuple[Any, ...] | None, FunctionAttributes | None]"
"""A function that is pickled by value, its code, its defaults, and what more it has that matters."""

Items: TypeAlias = "tuple[tuple[str, Any], ...]"


class Function:
    """A function that travels once, as `FunctionTable.lookup` gives it.

    Attributes:
        number: From 1, never used again; tells workers which function to call.
        payload: The function's pickle.
        name: What to call it in messages.
    """

    __slots__ = (
        "_bodies",
        "_cells",
        "_references",
        "_registry",
        "_submodules",
        "function",
        "name",
        "number",
        "payload",
    )

    def __init__(self, function: Any, survey: FunctionAnalysis, payload: bytes) -> None:
        self.number = 0
        self.payload = payload
        self.name = callable_name(function)
        self.function = function  # kept alive, so that no other object gets its id
        self._bodies = tuple(survey.bodies)
        self._references = tuple(survey.references)
        self._cells = tuple(survey.cells)
        self._registry = survey.registry if survey.is_by_reference else None
        self._submodules = _Submodules(survey.packages, survey.names) if survey.packages else None

    def __repr__(self) -> str:
        return f"<Function {self.number}: {self.name}, {len(self.payload)} bytes>"

    def is_current(self) -> bool:
        """Whether the payload is still what pickling the function would give. On the way of every call."""
        for function, code, defaults, decoration in self._bodies:
            if function.__code__ is not code or function.__defaults__ is not defaults:
                return False
            if decoration is None:
                if function.__kwdefaults__ or function.__dict__:
                    return False
            elif not decoration.is_current(function):
                return False
        for get, name, value in self._references:
            if get(name, _MISSING) is not value:
                return False
        for cell, value in self._cells:
            if _content(cell) is not value:
                return False
        if self._registry is not None and self._registry != cloudpickle.list_registry_pickle_by_value():
            return False
        return self._submodules is None or self._submodules.are_same()


class FunctionTable:
    """The functions of one executor that travel once: at most `FUNCTION_CACHE_SIZE` at a time. Any thread may ask it.

    Examples:
        >>> table = FunctionTable()
        >>> [table.lookup(sum) for _ in range(3)]
        [None, <Function 1: sum, 31 bytes>, <Function 1: sum, 31 bytes>]
        >>> table.lookup([].append) is None
        True
    """

    def __init__(self) -> None:
        self._known: dict[int, Function] = {}  # by id(function)
        self._slots: list[Function | None] = [None] * FUNCTION_CACHE_SIZE
        self._seen: dict[int, weakref.ref[Any]] = {}  # once, by id(function)
        self._refused: dict[int, weakref.ref[Any]] = {}  # by id(function)
        self._number = 0
        self._lock = threading.Lock()

    def lookup(self, function: Callable[..., Any]) -> Function | None:
        """The function with its number; None when it has to be pickled with this call.

        None for one that is seen for the first time. One that changed, or refers to something that did, gets a new
        number. One that was refused stays refused, which is never wrong.
        """
        known = self._known.get(id(function))
        if known is not None and known.is_current():
            return known
        if isinstance(function, (types.MethodType, functools.partial)) or _is_among(self._refused, function):
            return None
        if known is None and not _is_among(self._seen, function) and self._remember(self._seen, function):
            return None
        return self._survey(function)

    def _survey(self, function: Callable[..., Any]) -> Function | None:
        try:
            survey = FunctionAnalysis(function)
            found = Function(function, survey, dump_in_band(function))
        except Exception:  # also what cannot be pickled: pickling the call will say so, in better words
            self._refuse(function)
            return None
        if not found.is_current():  # another thread is just redefining something
            return None
        self._add(found)
        return found

    def _add(self, found: Function) -> None:
        with self._lock:
            self._number += 1
            found.number = self._number
            slot = found.number % FUNCTION_CACHE_SIZE
            displaced = self._slots[slot]
            if displaced is not None and self._known.get(id(displaced.function)) is displaced:
                del self._known[id(displaced.function)]
            self._slots[slot] = found
            self._known[id(found.function)] = found

    def _refuse(self, function: Callable[..., Any]) -> None:
        """Remembers that a function gets no number."""
        with self._lock:
            known = self._known.pop(id(function), None)
            if known is not None:
                self._slots[known.number % FUNCTION_CACHE_SIZE] = None
        self._remember(self._refused, function)

    def _remember(self, some: dict[int, weakref.ref[Any]], function: Callable[..., Any]) -> bool:
        """Remembers a function without keeping it, and the data in its closure, alive. False where that cannot be."""
        try:
            reference = weakref.ref(function)
        except TypeError:
            return False
        with self._lock:
            if len(some) >= FUNCTION_CACHE_SIZE:
                some.clear()
            some[id(function)] = reference
        return True


def _is_among(some: dict[int, weakref.ref[Any]], function: Callable[..., Any]) -> bool:
    reference = some.get(id(function))
    return reference is not None and reference() is function


# ---- what a function refers to ----


class _Refused(Exception):
    """The function refers to something that could change unseen."""


class FunctionAnalysis:
    """Everything that the pickle of a function depends on.

    Raises:
        _Refused: Some of it could change unseen.
    """

    def __init__(self, function: Any) -> None:
        self.cells: list[tuple[types.CellType, Any]] = []
        self.packages: set[str] = set()
        self.names: set[str] = set()  # every name in the code
        self.is_by_reference = False  # whether the pickle refers to a module
        self.registry = cloudpickle.list_registry_pickle_by_value()
        self._bodies: dict[
            int, tuple[types.FunctionType, types.CodeType, Any, FunctionAttributes]
        ] = {}  # by id(function)
        self._references: dict[tuple[int, str], Reference] = {}  # by id of the namespace, and name
        self._handles_functions = False  # whether code gets hold of a function that is pickled by value
        self._changes_objects = False
        if not self._locate(function):
            if type(function) is not types.FunctionType:
                raise _Refused("neither importable nor a function")
            self._add_function(function)
        if self._handles_functions and self._changes_objects:
            raise _Refused("it may change a function that stays in the worker")

    @property
    def references(self) -> Iterable[Reference]:
        return self._references.values()

    @property
    def bodies(self) -> Iterator[Body]:
        asks_for_names = not self.names.isdisjoint(_DESCRIPTIVE_NAMES)
        for function, code, defaults, decoration in self._bodies.values():
            yield function, code, defaults, decoration if asks_for_names or not decoration.is_bare() else None

    def _add_reference(self, namespace: Mapping[str, Any], name: str, value: Any) -> None:
        self._references[id(namespace), name] = (namespace.get, name, value)

    def _add_value(self, value: Any) -> None:
        """Something that a function refers to; the reference itself is recorded by the caller."""
        kind = type(value)
        if kind in _CONSTANTS:
            if kind in (str, bytes) and len(value) > LARGEST_CONSTANT:
                raise _Refused("a long string")
        elif kind is tuple or kind is frozenset:
            if len(value) > LARGEST_CONSTANT:
                raise _Refused("a long tuple")
            for item in value:
                self._add_value(item)
        elif kind is types.ModuleType:
            self._add_module(value)
        elif not self._locate(value):
            if kind is not types.FunctionType:
                raise _Refused(f"an object of type {kind.__name__}")
            self._handles_functions = True
            self._add_function(value)

    def _add_function(self, function: types.FunctionType) -> None:
        if id(function) in self._bodies:
            return
        code, defaults, decoration = function.__code__, function.__defaults__, FunctionAttributes(function)
        self._bodies[id(function)] = (function, code, defaults, decoration)
        uses = _uses_of(code)
        if uses.refusal:
            raise _Refused(uses.refusal)
        if type(function.__globals__) is not dict:
            raise _Refused("globals of a kind of their own")
        self.names |= uses.names
        self.is_by_reference |= function.__module__ != "__main__"
        self._changes_objects |= uses.changes_objects
        for name in uses.globals:
            value = function.__globals__.get(name, _MISSING)
            self._add_reference(function.__globals__, name, value)
            if value is not _MISSING:  # missing: a builtin, or not defined yet
                self._add_value(value)
        for value in (*(defaults or ()), *decoration.values()):
            self._add_value(value)
        for cell in function.__closure__ or ():
            self._add_cell(cell)

    def _add_cell(self, cell: types.CellType) -> None:
        content = _content(cell)
        if content is _MISSING:
            raise _Refused("an empty closure cell")
        self.cells.append((cell, content))
        self._add_value(content)

    def _add_module(self, module: types.ModuleType) -> None:
        name = module.__name__
        if name == "__main__" or sys.modules.get(name) is not module or self._is_registered(name):
            raise _Refused(f"the module {name}, which is pickled by value")
        self.is_by_reference = True
        self._add_reference(sys.modules, name, module)
        if module.__package__:
            self.packages.add(name)

    def _locate(self, value: Any) -> bool:
        """Whether a value is pickled as nothing but its name in a module; then the way to it is recorded."""
        module_name = getattr(value, "__module__", None)
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
        if type(module_name) is not str or type(name) is not str or module_name == "__main__":
            return False
        path = resolve_qualname(module_name, name)
        if not path or path[-1][2] is not value:
            return False
        if dump_in_band(value) != _pickled_reference(module_name, name):
            return False  # its module travels by value, or it has a way of its own, as the functions of numba have
        self.is_by_reference = True
        for step in path:
            self._add_reference(*step)
        return True

    def _is_registered(self, module_name: str) -> bool:
        """Whether the user has asked cloudpickle to pickle the module, or a package around it, by value."""
        return any(module_name == name or module_name.startswith(name + ".") for name in self.registry)


_CONSTANTS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented)})


def resolve_qualname(module_name: str, qualified_name: str) -> list[tuple[Mapping[str, Any], str, Any]]:
    """The steps from `sys.modules` to an object: namespace, name, what is there. Empty when its name leads nowhere."""
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
    """The pickle of an object that is nothing but a name in a module."""
    names = [text.encode() for text in (module_name, qualified_name)]
    if max(map(len, names)) > 255:
        return b""
    first, second = (pickle.SHORT_BINUNICODE + bytes([len(text)]) + text + pickle.MEMOIZE for text in names)
    frame = first + second + pickle.STACK_GLOBAL + pickle.MEMOIZE + pickle.STOP
    return pickle.PROTO + b"\x05" + pickle.FRAME + len(frame).to_bytes(8, "little") + frame


class FunctionAttributes:
    """What a function has besides code and defaults: keyword defaults, attributes, and names."""

    __slots__ = ("_attributes", "_description", "_kwdefaults")

    def __init__(self, function: types.FunctionType) -> None:
        self._kwdefaults: Items = tuple((function.__kwdefaults__ or {}).items())
        self._attributes: Items = tuple(function.__dict__.items())
        self._description = _description_of(function)

    def is_bare(self) -> bool:
        """Whether there are only names, which matter where code asks for them."""
        return not self._kwdefaults and not self._attributes

    def values(self) -> list[Any]:
        return [value for _, value in self._kwdefaults + self._attributes]

    def is_current(self, function: types.FunctionType) -> bool:
        return (
            _are_items(function.__kwdefaults__ or {}, self._kwdefaults)
            and _are_items(function.__dict__, self._attributes)
            and all(map(operator.is_, _description_of(function), self._description))
        )


_DESCRIPTIVE_NAMES = frozenset({"__name__", "__qualname__", "__module__", "__doc__"})
_description_of = operator.attrgetter(*sorted(_DESCRIPTIVE_NAMES))


class _Submodules:
    """The imported submodules that a function can reach through its packages: cloudpickle has workers import them.

    `import scipy` and, later, `import scipy.linalg` leave the global `scipy` the same object.
    """

    __slots__ = ("_count", "_names", "_prefixes", "_reached")

    def __init__(self, packages: Iterable[str], names: Iterable[str]) -> None:
        self._prefixes = tuple(package + "." for package in packages)
        self._names = frozenset(names)
        self._count = len(sys.modules)
        self._reached = self._find()

    def are_same(self) -> bool:
        count = len(sys.modules)
        if count == self._count:
            return True
        if self._find() != self._reached:
            return False
        self._count = count
        return True

    def _find(self) -> frozenset[str]:
        """Submodules all of whose names are names in the code: those cloudpickle finds, and some more."""
        modules = [name for name in list(sys.modules) if name.startswith(self._prefixes)]
        return frozenset(
            name
            for name in modules
            for prefix in self._prefixes
            if name.startswith(prefix) and self._names.issuperset(name[len(prefix) :].split("."))
        )


# ---- what code does ----


class CodeUsage(NamedTuple):
    """What code, and the code inside it, refers to."""

    globals: frozenset[str]
    names: frozenset[str]
    changes_objects: bool
    refusal: str


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NAMESPACE_NAMES = _words(
    "globals vars exec eval __globals__ __closure__ __builtins__ cell_contents _getframe _getframemodulename "
    "currentframe f_globals f_builtins f_back f_locals gi_frame cr_frame ag_frame tb_frame"
)
"""Names by which code gets at namespaces that would stay in the worker."""

_OBJECT_NAMES = _words(
    "setattr delattr __setattr__ __delattr__ __dict__ __code__ __defaults__ __kwdefaults__ update_wrapper"
)
"""Names by which code changes the attributes of objects, functions among them."""


@functools.lru_cache(maxsize=1024)
def _uses_of(code: types.CodeType) -> CodeUsage:
    """Reads code, once.

    Instructions have other names in each version of Python, so they are known by parts of their names here.
    """
    referred: set[str] = set()
    names: set[str] = set()
    refusal = ""
    changes_objects = False
    for part in _with_nested(code):
        names.update(part.co_names)
        for instruction in dis.get_instructions(part):
            operation, name = instruction.opname, instruction.argval
            writes = operation.startswith(("STORE_", "DELETE_"))
            if "GLOBAL" in operation or operation == "LOAD_NAME":  # LOAD_NAME: in the body of a class
                referred.add(name)
                if writes:
                    refusal = f"it writes the global {name}"
            elif writes and "DEREF" in operation and name in code.co_freevars:
                refusal = f"it writes {name}, a variable of the function around it"
            elif writes and "ATTR" in operation:
                changes_objects = True
    if names & _NAMESPACE_NAMES:
        refusal = f"it reaches into namespaces by {min(names & _NAMESPACE_NAMES)}"
    return CodeUsage(frozenset(referred), frozenset(names), changes_objects or bool(names & _OBJECT_NAMES), refusal)


def _with_nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _with_nested(constant)


def _are_items(mapping: Mapping[str, Any], items: Items) -> bool:
    """Whether a mapping holds just these keys with the very same values."""
    if len(mapping) != len(items):
        return False
    for key, value in items:
        if mapping.get(key, _MISSING) is not value:
            return False
    return True


def _content(cell: types.CellType) -> Any:
    """What is in a closure cell; `_MISSING` when it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING
