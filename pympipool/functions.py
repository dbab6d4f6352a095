"""When a function may travel once.

Pickling a function by value takes longer than most small calls, and a worker that has it need not get it again. But a
function is more than its code: notebooks redefine the functions and the numbers that it refers to, and what runs must
be what fresh pickling would send. So a function gets a number, and travels once, only when all that its pickle
depends on can be compared with a snapshot, by identity, in a fraction of a microsecond at every call:

    FunctionTable.lookup(function)
      known: is all that it refers to the very same still?  -> its number
      else _Survey: what does it refer to?
        an importable function or class    pickled by reference: its module and name
        a function of __main__, a closure  pickled by value: its code, defaults, attributes, cells and globals, and
                                           those of the functions among them
        anything that can change unseen    no number: pickled with each call
      -> snapshot, pickle, next number

What may be referred to: numbers, strings, bytes and tuples of such; modules, importable functions and classes; and
functions of which the same holds. Lists, dicts, arrays and instances can change and still be the same object. And what
a call leaves behind in a function that stays in the worker, a function pickled afresh would not show: functions
that write globals or closure cells, that reach into namespaces or into other functions, get no number either.

Not seen, by design: annotations (they are not what runs); a file that changes after its module was imported
(no pickle by reference sees that: importlib.reload in the master does not reload in the workers); attributes that library code, in the
worker, writes onto a function it is given.
"""

from __future__ import annotations

import dis
import functools
import operator
import pickletools
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import cloudpickle

from pympipool.serialization import callable_name, dump_in_band

__all__ = ["SLOTS", "Function", "FunctionTable"]

SLOTS = 256
"""Functions that worker and master hold at a time: number n lies in slot n modulo SLOTS."""

LARGEST_CONSTANT = 1 << 20
"""Longer strings and tuples that a function refers to are not kept alive for its sake."""

_MISSING: Any = object()

Reference: TypeAlias = "tuple[Callable[[str, Any], Any], str, Any]"
"""The `get` of a namespace, a name, and the object that it names (`_MISSING`: none)."""

Items: TypeAlias = "tuple[tuple[str, Any], ...]"


Body: TypeAlias = "tuple[types.FunctionType, types.CodeType, tuple[Any, ...] | None]"
"""A function that is pickled by value, with its code and its defaults."""


class Function:
    """A function that travels once, as `FunctionTable.lookup` gives it.

    Attributes:
        number: From 1, never used again; tells workers which function to call.
        payload: The function's pickle.
        name: What to call it in messages.
    """

    __slots__ = ("_bodies", "_details", "_function", "_references", "name", "number", "payload")

    def __init__(self, function: Any, survey: _Survey, payload: bytes) -> None:
        self.number = 0
        self.payload = payload
        self.name = callable_name(function)
        self._function = function  # kept alive, so that no other object gets its id
        self._bodies = tuple(survey.bodies.values())
        self._references = tuple(survey.references)
        self._details = _Details.of(survey)

    def __repr__(self) -> str:
        return f"<Function {self.number}: {self.name}, {len(self.payload)} bytes>"

    def is_current(self) -> bool:
        """Whether the payload is still what pickling the function would give. On the way of every call."""
        details = self._details
        for function, code, defaults in self._bodies:
            if function.__code__ is not code or function.__defaults__ is not defaults:
                return False
            if details is None and (function.__kwdefaults__ or function.__dict__):
                return False
        for get, name, value in self._references:
            if get(name, _MISSING) is not value:
                return False
        return details is None or details.are_current()


class FunctionTable:
    """The functions of one executor that travel once: at most `SLOTS` at a time. Any thread may ask it.

    Examples:
        >>> table = FunctionTable()
        >>> table.lookup(sum).number
        1
        >>> table.lookup(sum).number
        1
        >>> table.lookup([].append) is None
        True
    """

    def __init__(self) -> None:
        self._known: dict[int, Function] = {}  # by id(function)
        self._slots: list[Function | None] = [None] * SLOTS
        self._refused: dict[int, weakref.ref[Any]] = {}  # by id(function)
        self._number = 0
        self._lock = threading.Lock()

    def lookup(self, function: Callable[..., Any]) -> Function | None:
        """The function with its number; None when it has to be pickled with each call.

        A function that changed, or refers to something that did, gets a new number. One that was refused once stays
        refused, which is never wrong.
        """
        known = self._known.get(id(function))
        if known is not None and known.is_current():
            return known
        refused = self._refused.get(id(function))
        if refused is not None and refused() is function:
            return None
        return self._survey(function)

    def _survey(self, function: Callable[..., Any]) -> Function | None:
        kind = type(function)
        if kind is types.MethodType or kind is functools.partial:
            return None
        try:
            survey = _Survey(function)
            payload = dump_in_band(function)
            if (not survey.bodies) is not _is_reference(payload):
                raise _Refused("pickle has its own way with it")
        except Exception:  # also what cannot be pickled: pickling the call will say so, in better words
            self._refuse(function)
            return None
        found = Function(function, survey, payload)
        if not found.is_current():  # another thread is just redefining something
            return None
        self._add(found)
        return found

    def _add(self, found: Function) -> None:
        with self._lock:
            self._number += 1
            found.number = self._number
            slot = found.number % SLOTS
            displaced = self._slots[slot]
            if displaced is not None and self._known.get(id(displaced._function)) is displaced:
                del self._known[id(displaced._function)]
            self._slots[slot] = found
            self._known[id(found._function)] = found

    def _refuse(self, function: Callable[..., Any]) -> None:
        """Remembers that a function gets no number, without keeping it (and the data in its closure) alive."""
        with self._lock:
            known = self._known.pop(id(function), None)
            if known is not None:
                self._slots[known.number % SLOTS] = None
            if len(self._refused) >= SLOTS:
                self._refused.clear()
            try:
                self._refused[id(function)] = weakref.ref(function)
            except TypeError:  # there are callables without weak references
                pass


class _Details:
    """The rarer part of what a numbered function depends on."""

    __slots__ = ("_bodies", "_cells", "_registry", "_submodules")

    def __init__(self, survey: _Survey) -> None:
        self._bodies = tuple((body[0], *_decoration(body[0], survey.is_described)) for body in survey.bodies.values())
        self._cells = tuple(survey.cells)
        self._registry = survey.registry if survey.is_by_reference else None
        self._submodules = _Submodules(survey.packages, survey.names) if survey.packages else None

    @staticmethod
    def of(survey: _Survey) -> _Details | None:
        """None for a function that has none and shall have none."""
        bare = all(_decoration(body[0], survey.is_described) == ((), (), ()) for body in survey.bodies.values())
        return None if bare and not survey.cells and not survey.is_by_reference else _Details(survey)

    def are_current(self) -> bool:
        for function, kwdefaults, attributes, description in self._bodies:
            if not _are_items(function.__kwdefaults__ or {}, kwdefaults) or not _are_items(function.__dict__, attributes):
                return False
            if description and not all(map(operator.is_, _description(function), description)):
                return False
        for cell, value in self._cells:
            if _content(cell) is not value:
                return False
        if self._registry is not None and self._registry != cloudpickle.list_registry_pickle_by_value():
            return False
        return self._submodules is None or self._submodules.are_same()


def _decoration(function: types.FunctionType, described: bool) -> tuple[Items, Items, tuple[Any, ...]]:
    """A function's keyword defaults, its attributes, and how it describes itself where code asks for that."""
    kwdefaults = tuple((function.__kwdefaults__ or {}).items())
    return kwdefaults, tuple(function.__dict__.items()), _description(function) if described else ()


_description = operator.attrgetter("__name__", "__qualname__", "__module__", "__doc__")


class _Refused(Exception):
    """The function refers to something that could change unseen."""


class _Survey:
    """Everything that the pickle of a function depends on.

    Raises:
        _Refused: Some of it could change unseen.
    """

    def __init__(self, function: Any) -> None:
        self.bodies: dict[int, Body] = {}  # by id(function)
        self.references: list[Reference] = []
        self.cells: list[tuple[types.CellType, Any]] = []
        self.packages: set[str] = set()
        self.names: set[str] = set()  # every name in the code
        self.is_by_reference = False  # whether the pickle refers to a module
        self.is_described = False  # whether code asks functions for their names
        self.registry = cloudpickle.list_registry_pickle_by_value()
        self._handles_functions = False  # whether a function can get hold of a function that is pickled by value
        self._changes_objects = False
        self._seen: set[int] = set()
        if not self._locate(function):
            if type(function) is not types.FunctionType:
                raise _Refused("neither importable nor a function")
            self._add_function(function)
        if self._handles_functions and self._changes_objects:
            raise _Refused("it may change a function that stays in the worker")

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
        if id(function) in self.bodies:
            return
        self.bodies[id(function)] = (function, function.__code__, function.__defaults__)
        self._add_code(function.__code__, function.__globals__)
        kwdefaults, attributes, _ = _decoration(function, False)
        for value in function.__defaults__ or ():
            self._add_value(value)
        for _, value in kwdefaults + attributes:
            self._add_value(value)
        for cell in function.__closure__ or ():
            content = _content(cell)
            if content is _MISSING:
                raise _Refused("an empty closure cell")
            self.cells.append((cell, content))
            self._add_value(content)

    def _add_code(self, code: types.CodeType, namespace: dict[str, Any]) -> None:
        uses = _uses_of(code)
        if uses.refusal:
            raise _Refused(uses.refusal)
        self.names |= uses.names
        self._changes_objects |= uses.changes_objects
        self.is_described |= not uses.names.isdisjoint(_DESCRIPTION_NAMES)
        for name in uses.globals:
            value = namespace.get(name, _MISSING)
            self.references.append((namespace.get, name, value))
            if value is not _MISSING:  # missing: a builtin, or not defined yet
                self._add_value(value)

    def _add_module(self, module: types.ModuleType) -> None:
        name = module.__name__
        if name == "__main__" or sys.modules.get(name) is not module or self._is_registered(name):
            raise _Refused(f"the module {name}, which is pickled by value")
        self.is_by_reference = True
        self.references.append((sys.modules.get, name, module))
        if module.__package__:
            self.packages.add(name)

    def _locate(self, value: Any) -> bool:
        """Whether a value is pickled as nothing but the name of its place in a module."""
        if id(value) in self._seen:
            return True
        module_name = getattr(value, "__module__", None)
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
        if type(module_name) is not str or type(name) is not str or module_name == "__main__":
            return False
        path = _references_along(module_name, name)
        if not path or path[-1][2] is not value or self._is_registered(module_name):
            return False
        if not _is_reference(dump_in_band(value)):
            return False
        self.is_by_reference = True
        self.references += path
        self._seen.add(id(value))
        return True

    def _is_registered(self, module_name: str) -> bool:
        """Whether the user has asked cloudpickle to pickle the module, or a package around it, by value."""
        return any(module_name == name or module_name.startswith(name + ".") for name in self.registry)


class _Submodules:
    """The imported submodules that a function can reach through its packages: cloudpickle has workers import them.

    `import scipy` and, later, `import scipy.linalg` leave the global `scipy` the same object."""

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
        return frozenset(
            name
            for name in list(sys.modules)
            for prefix in self._prefixes
            if name.startswith(prefix) and self._names.issuperset(name[len(prefix) :].split("."))
        )


class _Uses(NamedTuple):
    """What code, and the code inside it, refers to."""

    globals: frozenset[str]
    names: frozenset[str]
    changes_objects: bool
    refusal: str


_CONSTANTS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, types.EllipsisType, types.NotImplementedType}
)

_NAMESPACE_NAMES = frozenset(
    "globals vars exec eval __globals__ __closure__ __builtins__ cell_contents "
    "_getframe _getframemodulename currentframe f_globals f_builtins f_back f_locals gi_frame cr_frame ag_frame tb_frame".split()
)
"""Names by which code gets at namespaces that would stay in the worker."""

_OBJECT_NAMES = frozenset(
    "setattr delattr __setattr__ __delattr__ __dict__ __code__ __defaults__ __kwdefaults__ update_wrapper".split()
)
"""Names by which code changes the attributes of objects, functions among them."""


_DESCRIPTION_NAMES = frozenset("__name__ __qualname__ __module__ __doc__".split())


@functools.lru_cache(maxsize=1024)
def _uses_of(code: types.CodeType) -> _Uses:
    """Reads code once. The names of instructions differ between Python versions, so they are taken by their parts."""
    globals_: set[str] = set()
    names: set[str] = set()
    refusal = ""
    changes_objects = False
    for part in _with_nested(code):
        names.update(part.co_names)
        for instruction in dis.get_instructions(part):
            operation, name = instruction.opname, instruction.argval
            writes = operation.startswith(("STORE_", "DELETE_"))
            if "GLOBAL" in operation or operation.endswith("_NAME") and operation != "IMPORT_NAME":
                if writes and "GLOBAL" in operation:
                    refusal = f"it writes the global {name}"
                globals_.add(name)
            elif writes and "DEREF" in operation and name in code.co_freevars:
                refusal = f"it writes {name} of the function around it"
            elif writes and "ATTR" in operation:
                changes_objects = True
    if names & _NAMESPACE_NAMES:
        refusal = f"it may reach into namespaces: {min(names & _NAMESPACE_NAMES)}"
    changes_objects = changes_objects or not names.isdisjoint(_OBJECT_NAMES)
    return _Uses(frozenset(globals_), frozenset(names), changes_objects, refusal)


def _with_nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _with_nested(constant)


def _references_along(module_name: str, qualified_name: str) -> list[Reference]:
    """The way from `sys.modules` to an object; empty when its name leads nowhere."""
    module = sys.modules.get(module_name)
    if type(module) is not types.ModuleType:
        return []
    path: list[Reference] = [(sys.modules.get, module_name, module)]
    owner: Any = module
    for name in qualified_name.split("."):
        namespace = getattr(owner, "__dict__", {})
        if name not in namespace:
            return []
        owner = namespace[name]
        path.append((namespace.get, name, owner))
    return path


def _is_reference(pickled: bytes) -> bool:
    """Whether a pickle consists of one module and one name in it, and nothing else."""
    if len(pickled) > 1000:
        return False
    operations = [operation.name for operation, _, _ in pickletools.genops(pickled)]
    return operations.count("STACK_GLOBAL") == 1 and _REFERENCE_OPERATIONS.issuperset(operations)


_REFERENCE_OPERATIONS = frozenset("PROTO FRAME SHORT_BINUNICODE BINUNICODE MEMOIZE STACK_GLOBAL STOP".split())


def _are_items(mapping: Mapping[str, Any], items: Items) -> bool:
    """Whether a mapping holds just these keys with the very same values."""
    if len(mapping) != len(items):
        return False
    return all(mapping.get(key, _MISSING) is value for key, value in items)


def _content(cell: types.CellType) -> Any:
    """What is in a closure cell; `_MISSING` when it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING
