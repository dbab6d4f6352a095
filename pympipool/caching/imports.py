"""Find the modules that code imports, without running it."""

from __future__ import annotations

import ast
import dis
import functools
import types
from collections.abc import Iterator
from importlib import util

from pympipool.serialization.code_usage import nested_code

__all__ = ["imports_of", "imports_of_tree"]

_IMPORTERS = frozenset({"import_module", "__import__"})
"""Functions that import modules. Those are seen whose names are constants."""


@functools.lru_cache(maxsize=1024)
def imports_of(code: types.CodeType, package: str) -> tuple[str, ...]:
    """Return the names of the modules that code imports, and of what may be modules."""
    names: set[str] = set()
    for part in nested_code(code):
        imported, level, previous = "", 0, None
        for instruction in dis.get_instructions(part):
            if instruction.opname == "EXTENDED_ARG":
                continue
            if instruction.opname == "IMPORT_NAME":  # the level is loaded, then the names, then this
                imported = _absolute(instruction.argval, level, package)
                names.add(imported)
            elif instruction.opname == "IMPORT_FROM" and imported:
                names.add(f"{imported}.{instruction.argval}")
            level, previous = previous if type(previous) is int else 0, instruction.argval
        if _IMPORTERS.intersection(part.co_names):
            names.update(_named(constant, package) for constant in part.co_consts if type(constant) is str)
    return tuple(sorted(names - {""}))


def _absolute(name: str, level: int, package: str) -> str:
    """Return the name of a module for `import`; "" if a relative one leads out of the package."""
    if not level:
        return name
    try:
        return util.resolve_name("." * level + name, package)
    except ImportError:
        return ""


def _named(text: str, package: str) -> str:
    """Return the name of a module that a text stands for, with dots before it as for `import_module`; "" if for none."""
    name = text.lstrip(".")
    is_name = all(part.isidentifier() for part in name.split("."))
    return _absolute(name, len(text) - len(name), package) if is_name else ""


def imports_of_tree(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the names of modules that code imports; those of `from` may also be names in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, package)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            if called in _IMPORTERS and type(node.args[0].value) is str:
                yield _named(node.args[0].value, package)
