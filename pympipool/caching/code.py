"""Digest code by what it does: without the file that it is in, and without line numbers.

The bytecode differs between the minor versions of Python, which are part of each key, and not between their patches.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pympipool.caching.values import Hasher

__all__ = ["add_code"]


def add_code(hasher: Hasher, code: types.CodeType) -> None:
    """Add code, with the code of functions inside of it. `co_code` is that of the compiler, whatever has run."""
    arguments = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    hasher.feed(b"code", code.co_code)
    hasher.feed(b"exceptions", getattr(code, "co_exceptiontable", b""))  # since Python 3.11
    hasher.add_all(b"names", (*arguments, *names))
    hasher.feed(b"constants", b"%d" % len(code.co_consts))
    for constant in code.co_consts:
        _add_constant(hasher, constant)


def _add_constant(hasher: Hasher, constant: Any) -> None:
    if isinstance(constant, types.CodeType):
        add_code(hasher, constant)
    else:
        hasher.add(constant)
