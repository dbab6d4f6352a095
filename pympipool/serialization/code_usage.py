"""Find what code refers to, and what it may change."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["DISPATCHER_CODE", "OWN_ATTRIBUTES", "CodeUsage", "code_usage", "nested_code"]

DISPATCHER_CODE: types.CodeType = getattr(functools.singledispatch(iter), "__code__")  # noqa: B009
"""The code of all functions that `functools.singledispatch` returns."""

OWN_ATTRIBUTES = frozenset({"__wrapped__", "cache_parameters", "register", "dispatch", "registry", "_clear_cache"})
"""The attributes that functools gives its wrappers."""


class CodeUsage(NamedTuple):
    """Names that code and its nested code refer to, and what the code does with them.

    Attributes:
        globals: Global variables that it reads or writes.
        names: All names in the code.
        stored_on: Globals and closure variables on which it sets or deletes an attribute.
        stored: Names of the attributes that it sets or deletes on any object.
        changes_objects: It may set or delete attributes of objects, by a statement or by a function.
        calls_setattr: It may do so by setattr, or change what makes a function: its code and defaults.
        refusal: Reason why what contains this code cannot be cached; empty if there is none.
        function_refusal: Reason why a function with this code cannot be cached unless its worker compares it with a
            snapshot; empty if there is none.
    """

    globals: frozenset[str]
    names: frozenset[str]
    stored_on: frozenset[str]
    stored: frozenset[str]
    changes_objects: bool
    calls_setattr: bool
    refusal: str
    function_refusal: str


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NAMESPACE_NAMES = _names(
    "globals exec eval __globals__ __closure__ __builtins__ cell_contents _getframe _getframemodulename "
    "currentframe f_globals f_builtins f_back f_locals gi_frame cr_frame ag_frame tb_frame"
)
"""Names that give code access to namespaces that would stay in the worker."""

_OBJECT_NAMESPACE_NAMES = _names("vars")
"""Names that give code access to the namespaces of objects, modules among them."""

_SETATTR_NAMES = _names("setattr delattr __code__ __defaults__ __kwdefaults__ update_wrapper")
"""Names that let code change functions."""

_MUTATING_NAMES = _SETATTR_NAMES | _names("__setattr__ __delattr__ __dict__")
"""Names that let code change the attributes of objects, including functions."""


@functools.lru_cache(maxsize=4096)
def code_usage(code: types.CodeType) -> CodeUsage:
    """Disassemble code, once, and return what it uses.

    The names of instructions differ between versions of Python, so this function matches parts of the names.
    """
    global_names: set[str] = set()
    names: set[str] = set()
    stored_on: set[str] = set()
    stored: set[str] = set()
    refusal = ""
    for part in nested_code(code):
        names.update(part.co_names)
        loaded = ""  # the variable that the previous instruction has put on the stack
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
                stored.add(name)
                stored_on.add(loaded)
            is_variable = operation.startswith(("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_NAME"))
            loaded = name if is_variable else ""
    if names & _NAMESPACE_NAMES:
        refusal = f"it reaches into namespaces by {min(names & _NAMESPACE_NAMES)}"
    reached = names & _OBJECT_NAMESPACE_NAMES
    return CodeUsage(
        frozenset(global_names),
        frozenset(names),
        frozenset(stored_on),
        frozenset(stored),
        bool(stored or names & _MUTATING_NAMES),
        bool(names & _SETATTR_NAMES),
        refusal,
        refusal or (f"it reaches into namespaces by {min(reached)}" if reached else ""),
    )


def nested_code(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code and all code inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested_code(constant)
