"""Checks of what users say: each takes the parameter's name and value, and returns the value as it is kept."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable
from typing import Any


def count(least: int) -> Callable[[str, Any], int]:
    """A check for whole numbers of at least `least`; numpy's integers are welcome, bools are not."""

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


def is_bool(value: Any) -> bool:
    """Whether a value is a bool of Python's or, by either of its names, of numpy's."""
    return type(value).__name__ in ("bool", "bool_")


def flag(name: str, value: Any) -> bool:
    """A check for bools."""
    if is_bool(value):
        return bool(value)
    raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be True or False")


def optional_flag(name: str, value: Any) -> bool:
    """A check for bools; None is False."""
    return False if value is None else flag(name, value)


def folder(name: str, value: Any) -> str | None:
    """A check for directories, which must be there; None is allowed. Absolute when kept."""
    if value is None:
        return None
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be a path (str or Path) or None")
    if not os.path.isdir(path):
        problem = "is not a directory" if os.path.exists(path) else "does not exist"
        raise ValueError(f"{name} is {path!r}, which {problem} (looked for in {os.getcwd()}); create it first")
    return os.path.abspath(path)


def file_to_write(name: str, value: Any) -> str | None:
    """A check for files that will be written; None is allowed. Absolute when kept."""
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
    """A check for durations.

    Args:
        name: What the user calls the parameter.
        value: What the user said.
        otherwise: What else is allowed, for the message.
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


def seconds_or_none(name: str, value: Any) -> float | None:
    """A check for durations; None is allowed."""
    return None if value is None else positive_seconds(name, value, ", or None for no limit")


def texts(name: str, value: Any) -> tuple[str, ...]:
    """A check for lists of texts."""
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be a list of str, one per argument")


def optional_name(name: str, value: Any) -> str | None:
    """A check for names of modes that somebody else knows; None is allowed."""
    if value is None or (isinstance(value, str) and value):
        return value
    raise (ValueError if value == "" else TypeError)(f"{name} is {value!r}; it must be a word like 'pmix', or None")


def anything(name: str, value: Any) -> Any:  # noqa: ARG001
    """No check: the backend that takes the value checks it."""
    return value
