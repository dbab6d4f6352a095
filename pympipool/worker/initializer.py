"""Runs what users let run at the start of a worker: an `initializer` as the standard library has it, and an `init_function`.

An importable function sets the globals of its module. The globals of a function that travelled by value, such as one of the
script, are its own: other functions of the script arrive with globals as the script has them. So what it has set there is kept,
and each function of the same module that arrives later gets it (`serialization._define_function`).

This module imports little, so that the environment is set before an initializer imports a numerical library: such a library
reads its number of threads when it is imported.
"""

from __future__ import annotations

import os
import sys

from pympipool._util.cmodules import pickle
from pympipool.serialization import WORKER_MARK
from pympipool.serialization.payload import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def run_initializer(pickled: list[bytes]) -> None:
    """Run an initializer.

    Args:
        pickled: The function and its arguments, as from `pool.start_functions.pickled_initializer`.
    """
    initializer, arguments = load(pickled, "the initializer")
    call_and_keep_globals(initializer, *arguments)


def set_environment(environment: Mapping[str, str], pickled: list[bytes] | None) -> None:
    """Set environment variables, which override those that the worker has, and then run an initializer, if there is one."""
    os.environ.update(environment)
    if pickled is not None:
        run_initializer(pickled)


def call_and_keep_globals(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function, and let functions that arrive later have the globals that it sets."""
    inner = getattr(function, "func", function)  # of a partial function
    inner = getattr(inner, "__func__", inner)  # of a method
    namespace = getattr(inner, "__globals__", None)
    module = getattr(inner, "__module__", None)
    names = sys.modules["__main__"].__dict__
    if namespace is None or WORKER_MARK not in names or vars(sys.modules.get(str(module), object)) is namespace:
        return function(*args)
    before = {name: (value, _content(value)) for name, value in namespace.items()}
    result = function(*args)
    for name, value in namespace.items():
        if name not in before or before[name][0] is not value or before[name][1] != _content(value):
            names[WORKER_MARK][2].setdefault(module, {})[name] = value
    return result


def _content(value: Any) -> Any:
    """Return the pickle of a value that may change. What cannot be pickled counts as changed: its content equals nothing."""
    if isinstance(value, (type, type(sys), type(_content), type(len), str, bytes, int, float, type(None))):
        return None
    try:
        return pickle.dumps(value, 5)
    except Exception:  # user code may raise anything
        return object()
