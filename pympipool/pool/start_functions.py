"""The user's functions that run at the start of a worker, as they are sent there: `initializer` and `init_function`.

    pickles ── large parts ──► shared memory, once for all workers of a host
            └─ the rest, with the keys of these ──► settings of each worker

The worker runs them in `pympipool.worker.initializer`.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from pympipool.errors import SerializationError
from pympipool.pool.inheritance import Inheritance
from pympipool.serialization import shared_objects
from pympipool.serialization.by_value import dump as dump_by_value
from pympipool.serialization.payload import dump, dump_for_start

if TYPE_CHECKING:
    from pympipool._options import Options

LOGGER = logging.getLogger("pympipool.pool")

INIT_FUNCTION_MAX_BYTES = 60 << 20
"""Size limit of a pickled init_function and an initializer with its arguments, together, but for what lies in shared memory. They
are sent in a frame of the control connection, with other settings."""

SHARED_MIN_BYTES = 1 << 20
"""Size from which a part of them lies in shared memory. It takes a descriptor, and each worker asks for it, which takes as long as
to receive half of that."""


def pickled_start_functions(options: Options, *, inherits: bool) -> dict[str, Any]:
    """Return the functions that run at the start of a worker as they are sent there (see `pickled_initializer`).

    Args:
        inherits: The workers are processes of this machine, which can inherit objects of multiprocessing.

    Returns:
        Their pickles, and what is not sent but kept as long as workers start: "inheritance", and "shared", the shared objects.

    Raises:
        TypeError, SerializationError: See there.
        ValueError: There is an init_function without block allocation, or both together are too large.
    """
    inheritance = Inheritance(options.initargs) if inherits and options.initargs else None
    initializer = pickled_initializer(options.initializer, options.initargs, inheritance)
    init_function = pickled_init_function(options.init_function, options.block_allocation)
    kept = shared_objects([one for one in (initializer and initializer[0], init_function) if one is not None])
    if initializer is not None:
        initializer = _with_shared_parts(initializer, kept)
    if init_function is not None:
        (init_function,) = _with_shared_parts([init_function], kept)
    sizes = {
        f"initializer {options.initializer!r} with its initargs": sum(map(len, initializer or ())),
        f"init_function {options.init_function!r} with all it refers to": len(init_function or b""),
    }
    if sum(sizes.values()) > INIT_FUNCTION_MAX_BYTES:
        listed = " and ".join(f"{name} has {size} bytes when pickled" for name, size in sizes.items() if size)
        raise ValueError(f"{listed}; at most {INIT_FUNCTION_MAX_BYTES} can be sent: let it load the data itself")
    return {
        "initializer": initializer,
        "inheritance": inheritance,
        "init_function": init_function,
        "shared": kept,
    }


def _with_shared_parts(parts: list[bytes], kept: list[Any]) -> list[bytes]:
    """Return a pickle whose large parts lie in shared memory, if there is room for them.

    Args:
        parts: The pickle.
        kept: Gets what must be kept as long as the pickle is used.
    """
    if all(len(part) < SHARED_MIN_BYTES for part in parts):
        return parts
    from pympipool.serialization.memory_copies import replace_large

    try:
        replaced, copies = replace_large(parts, SHARED_MIN_BYTES)
    except (MemoryError, OSError) as error:  # no descriptor is free, for example
        LOGGER.warning("the initializer or init_function is sent to each worker, since it cannot be shared: %s", error)
        return parts
    kept += copies
    return list(map(bytes, replaced))


def pickled_initializer(
    initializer: Any, arguments: tuple[Any, ...], inheritance: Inheritance | None = None
) -> list[bytes] | None:
    """Return an initializer with its arguments as they are sent to workers; None if there is none.

    Args:
        inheritance: Collects what the workers must inherit for objects of multiprocessing among the arguments; None: such
            objects are an error.

    Raises:
        TypeError: It is not callable.
        SerializationError: It cannot be pickled, or one of its arguments cannot.
    """
    if initializer is None:
        return None
    if not callable(initializer):
        raise TypeError(f"initializer is {initializer!r}; it must be callable")
    try:
        with contextlib.nullcontext() if inheritance is None else inheritance.pickling():
            parts = list(map(bytes, dump_for_start((initializer, arguments), "the initializer and its arguments")))
    except SerializationError as error:
        raise _named(error, arguments, inheritance) from error.__cause__
    return parts


def _named(
    error: SerializationError, arguments: tuple[Any, ...], inheritance: Inheritance | None
) -> SerializationError:
    """Return an error that names the object of multiprocessing that cannot be sent; the same error if there is none."""
    for number, argument in enumerate(arguments):
        if not type(argument).__module__.startswith("multiprocessing."):
            continue
        remedy = "make it with multiprocessing.Manager()"
        if inheritance is None:
            return SerializationError(
                f"initargs[{number}] is {argument!r}, which only processes of this machine can inherit: {remedy}"
            )
        try:
            with inheritance.pickling():
                dump(argument)
        except SerializationError:
            return SerializationError(
                f"initargs[{number}] is {argument!r}, which workers cannot inherit: {error.__cause__}. Make it with"
                f" multiprocessing.get_context('spawn'), or {remedy}"
            )
    return error


def pickled_init_function(init_function: Any, block_allocation: bool) -> bytes | None:
    """Return the init_function as it is sent to workers.

    Raises:
        TypeError: It is not callable.
        ValueError: There is no block allocation.
        SerializationError: It cannot be pickled.
    """
    if init_function is None:
        return None
    if not callable(init_function):
        raise TypeError(f"init_function is {init_function!r}; it must be a function that returns a dict")
    if not block_allocation:
        raise ValueError(
            "init_function is only for block_allocation=True: without it each call has a process of its own, into which"
            " nothing can be loaded before"
        )
    try:
        return dump_by_value(init_function)
    except Exception as error:
        raise SerializationError(f"init_function {init_function!r} cannot be pickled: {error}") from error
