"""Annotations of functions and classes that travel by value.

Since Python 3.14 a function computes them when they are first read (PEP 649). That function refers to the namespace of its
class, and does not travel: the annotations do. One that names something undefined, such as what is imported for type
checkers only, travels as a string.
"""

from __future__ import annotations

import sys
import types
from typing import Any

__all__ = [
    "CACHE",
    "NAMESPACE_CELL",
    "annotations_of",
    "evaluate_annotations",
    "has_annotations",
    "with_text_annotations",
]

CACHE = "__annotations_cache__"
"""The attribute in which a class has its annotations since Python 3.14, once they have been read."""

NAMESPACE_CELL = "__classdictcell__"
"""What a class statement hands to the metaclass for lazy annotations. `typing.NamedTuple` leaves it in the class."""

_ARE_LAZY = sys.version_info >= (3, 14)


def annotations_of(owner: Any) -> dict[str, Any]:
    """Return the annotations of a function or class; as strings if they cannot be evaluated."""
    try:
        return owner.__annotations__  # type: ignore[no-any-return]
    except Exception:  # from the expressions of the user
        import annotationlib  # type: ignore[import-not-found, unused-ignore]  # since Python 3.14

        return annotationlib.get_annotations(owner, format=annotationlib.Format.STRING)  # type: ignore[no-any-return, unused-ignore]


def evaluate_annotations(kind: type) -> dict[str, Any]:
    """Have a class keep its annotations among its attributes, where snapshots see changes of them.

    Returns:
        The attribute with which they travel, if Python evaluates them only when they are read.
    """
    if not _ARE_LAZY or (vars(kind).get("__annotate_func__") is None and CACHE not in vars(kind)):
        return {}
    return {CACHE: annotations_of(kind)}


def with_text_annotations(function: types.FunctionType) -> types.FunctionType:
    """Return a copy of a function that has its annotations as strings."""
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    copy.__module__ = function.__module__
    copy.__doc__ = function.__doc__
    copy.__annotations__ = annotations_of(function)
    copy.__dict__.update(function.__dict__)
    return copy


def has_annotations(function: types.FunctionType) -> bool:
    """Return True if the annotations of a function can be evaluated."""
    try:
        function.__annotations__  # noqa: B018
    except Exception:  # from the expressions of the user
        return False
    return True
