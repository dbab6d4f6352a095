"""An initializer as the standard library, joblib and loky have it, in the form of an `init_function`.

This module imports little, so that the environment is set before the initializer imports a numerical library: such a
library reads its number of threads when it is imported.
"""

from __future__ import annotations

import os

from pympipool.serialization.payload import dump, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def pickled_initializer(initializer: Callable[..., Any] | None, arguments: tuple[Any, ...]) -> list[bytes]:
    """Pickle an initializer with its arguments, for `run_initializer`.

    Raises:
        TypeError: The initializer is not callable.
        SerializationError: It cannot be pickled, or one of its arguments cannot.
    """
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer is {initializer!r}; it must be callable")
    return [bytes(part) for part in dump((initializer, tuple(arguments)), "the initializer and its arguments")]


def run_initializer(environment: Mapping[str, str], pickled: list[bytes]) -> dict[str, Any]:
    """Set environment variables and run an initializer. Return no arguments for calls.

    Args:
        environment: The variables; they override those that the worker has.
        pickled: As from `pickled_initializer`.

    Examples:
        >>> run_initializer({}, pickled_initializer(print, ("ready",)))
        ready
        {}
    """
    os.environ.update(environment)
    initializer, arguments = load(pickled, "the initializer")
    if initializer is not None:
        initializer(*arguments)
    return {}
