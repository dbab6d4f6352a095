"""Checks of single values.

Each check takes the name and the value of a parameter, and returns the value in the form in which it is kept.
"""

from __future__ import annotations

import importlib.util
import math
import operator
import os
import sys
from collections.abc import Callable
from typing import Any

START_METHODS = ("spawn", "forkserver", "fork")
"""The start methods of multiprocessing."""


def count(least: int) -> Callable[[str, Any], int]:
    """Return a check for integers of at least `least`. It accepts numpy's integers, and refuses bools."""

    def check(name: str, value: Any) -> int:
        if is_bool(value):
            raise TypeError(f"{name} is {value!r}; it must be an integer, not a bool")
        try:
            count = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be an integer") from None
        if count < least:
            raise ValueError(f"{name} is {count}; it must be at least {least}")
        return count

    return check


def optional_count(name: str, value: Any) -> int | None:
    """Check an integer of at least 1; None is allowed."""
    return None if value is None else count(1)(name, value)


def is_bool(value: Any) -> bool:
    """Return True for a bool of Python or of numpy. The name of numpy's class depends on the version of numpy."""
    return type(value).__name__ in ("bool", "bool_")


def flag(name: str, value: Any) -> bool:
    """Check a bool."""
    if is_bool(value):
        return bool(value)
    raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be True or False")


def optional_flag(name: str, value: Any) -> bool:
    """Check a bool; None stands for False."""
    return False if value is None else flag(name, value)


def optional_text(name: str, value: Any) -> str | None:
    """Check a text that is not empty; None is allowed."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be a str")
    if not value:
        raise ValueError(f"{name} is ''; it must not be empty")
    return str(value)


def existing_folder(name: str, value: Any) -> str | None:
    """Check a directory, which must exist; None is allowed. Return its absolute path."""
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be a path (str or Path) or None")
    if not os.path.isdir(path):
        problem = "is not a directory" if os.path.exists(path) else "does not exist"
        raise ValueError(f"{name} is {path!r}, which {problem} (looked for in {os.getcwd()}); create it first")
    return os.path.abspath(path)


def writable_file(name: str, value: Any) -> str | None:
    """Check a file that will be written; None is allowed. Return its absolute path."""
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be a path (str or Path) or None")
    path = os.path.abspath(path)
    if os.path.isdir(path):
        raise ValueError(f"{name} is {path!r}, which is a directory; it must be a file")
    folder = os.path.dirname(path)
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        problem = "cannot be written" if os.path.isdir(folder) else f"cannot be made: {folder} does not exist"
        raise ValueError(f"{name} is {path!r}, which {problem}")
    return path


def positive_seconds(name: str, value: Any, otherwise: str = "") -> float:
    """Check a duration.

    Args:
        name: The name of the parameter.
        value: The value that the user gave.
        otherwise: What else is allowed, for the error message.
    """
    try:
        seconds = math.nan if is_bool(value) or isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if math.isnan(seconds):
        kind = type(value).__name__
        raise TypeError(f"{name} is {value!r}, of type {kind}; it must be a number of seconds{otherwise}")
    if not 0 < seconds < math.inf:
        raise ValueError(f"{name} is {value!r}; it must be a positive, finite number of seconds{otherwise}")
    return seconds


def optional_seconds(name: str, value: Any) -> float | None:
    """Check a duration; None is allowed."""
    return None if value is None else positive_seconds(name, value, ", or None for no limit")


def seconds_or_zero(name: str, value: Any) -> float:
    """Check a duration; 0 is allowed."""
    return 0.0 if not is_bool(value) and value == 0 else positive_seconds(name, value, ", or 0")


def exception_types(name: str, value: Any) -> tuple[type[BaseException], ...]:
    """Check one exception type, or a list or tuple of them. Return a tuple."""
    types = (value,) if isinstance(value, type) else value
    if not isinstance(types, (list, tuple)) or not all(
        isinstance(one, type) and issubclass(one, BaseException) for one in types
    ):
        raise TypeError(
            f"{name} is {value!r}; it must be an exception type, such as OSError, or a tuple of exception types"
        )
    return tuple(types)


def string_tuple(name: str, value: Any) -> tuple[str, ...]:
    """Check a list or tuple of strings. Return a tuple."""
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be a list of str")


def one_of(*values: str) -> Callable[[str, Any], str]:
    """Return a check for a word that is one of these."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in values:
            raise (ValueError if isinstance(value, str) else TypeError)(
                f"{name} is {value!r}; it must be {' or '.join(map(repr, values))}"
            )
        return value

    return check


def optional_name(example: str) -> Callable[[str, Any], str | None]:
    """Return a check for a name whose meaning only the backend knows; None is allowed."""

    def check(name: str, value: Any) -> str | None:
        if value is None or (isinstance(value, str) and value):
            return value
        raise (ValueError if value == "" else TypeError)(
            f"{name} is {value!r}; it must be a word like {example!r}, or None"
        )

    return check


def unchecked(name: str, value: Any) -> Any:  # noqa: ARG001
    """Return the value as it is. The backend that takes the value checks it."""
    return value


def optional_start_method(name: str, value: Any) -> str | None:
    """Check a start method of multiprocessing, or one of its contexts. Return the method; None is allowed."""
    method = value
    if value is not None and not isinstance(value, str):
        try:
            method = value.get_start_method()
        except Exception:  # it is something else
            raise TypeError(
                f"{name} is {value!r}; it must be a context of multiprocessing, such as multiprocessing.get_context('spawn')"
            ) from None
    if method not in (None, *START_METHODS):
        raise ValueError(f"{name} is {method!r}; it can be {', '.join(map(repr, START_METHODS))}")
    return method  # type: ignore[no-any-return]  # it is one of the above


def module_names(name: str, value: Any) -> tuple[str, ...] | None:
    """Check names of modules that can be imported, without importing them; None is allowed."""
    if value is None:
        return None
    names = string_tuple(name, value)
    for module in names:
        package = module.partition(".")[0]
        if package == "mpi4py":
            raise ValueError(f"{name} names {module!r}: MPI cannot be started before a fork; leave it to the calls")
        if not package.isidentifier() or (package not in sys.modules and importlib.util.find_spec(package) is None):
            raise ValueError(f"{name} names {module!r}, but there is no module {package!r} in sys.path")
    return names
