"""Arguments that calls do not pass: from `init_function`, and the worker's id.

    init_function() -> {"j": 4, "k": 3, "l": 2}         def calc(i, j, k): ...
    submit(calc, 2, j=5)                                runs calc(2, j=5, k=3)

They are passed to functions that have parameters of these names and were not given them. The parameters of a function are looked
up once for each function, not for each call. A function that has none of these parameters is called directly, without a wrapper.
"""

from __future__ import annotations

from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

WORKER_ID_NAMES = ("worker_id", "executorlib_worker_id")
"""Parameters that get the worker's id. The second is executorlib's name."""

_KEYWORD_ONLY_POSITION = 1 << 62  # larger than any number of positional arguments

_WRAPPERS_MAX = 100
"""Wrappers around a function that are looked through. An object may refer to itself as what it wraps."""


def inject_arguments(
    function: Callable[..., Any], init_values: Mapping[str, Any], worker_id: int = 0
) -> Callable[..., Any]:
    """Return a function that gets arguments from init_values. Explicit arguments override them, defaults do not.

    Args:
        function: Any callable. If it has no signature, as some builtins, it gets nothing.
        init_values: Values by name. They go to parameters of that name only, never to `**kwargs`.
        worker_id: The value of parameters with a name of `WORKER_ID_NAMES`, unless init_values has one.

    Examples:
        >>> def calc(i, j, k=0, **kwargs): return i, j, k, kwargs
        >>> inject_arguments(calc, {"j": 4, "k": 3, "l": 2})(2, j=5)
        (2, 5, 3, {})
        >>> inject_arguments(lambda i, worker_id: (i, worker_id), {}, 3)(2)
        (2, 3)
    """
    ids = {name: worker_id for name in WORKER_ID_NAMES if takes_parameter(function, name)}
    if not init_values and not ids:
        return function
    values = {**ids, **init_values}
    injected = [(name, position, values[name]) for name, position in _parameters(function) if name in values]
    if not injected:
        return function

    def call(*args: Any, **kwargs: Any) -> Any:
        for name, position, value in injected:
            if position >= len(args) and name not in kwargs:
                kwargs[name] = value
        return function(*args, **kwargs)

    return call


def takes_parameter(fn: Any, name: str) -> bool:
    """Return True if a function has a parameter of this name that is not given yet.

    Reads code objects only: `inspect.signature` takes fifty times as long.
    """
    for _ in range(_WRAPPERS_MAX):
        if fn is None:
            return False
        if isinstance(fn, partial):
            if name in fn.keywords:
                return False  # the partial function has its value already
            fn = fn.func
        code = getattr(_called(fn), "__code__", None)
        if code is not None and name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
            return True
        fn = getattr(fn, "__wrapped__", None)
    return False


def _called(fn: Any) -> Any:
    """Return the function that runs when fn is called: fn, the `__init__` of a class, or an instance's `__call__`."""
    if isinstance(fn, type):
        return getattr(fn, "__init__", None)
    return fn if hasattr(fn, "__code__") else getattr(type(fn), "__call__", None)  # noqa: B004  its code is wanted


def _parameters(function: Callable[..., Any]) -> Iterator[tuple[str, int]]:
    """Yield the parameters that can be passed by name, each with the number of positional parameters before it."""
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # it has no signature
        return
    bound = function.keywords if isinstance(function, partial) else {}
    for position, parameter in enumerate(parameters):
        if parameter.name in bound:
            continue
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            yield parameter.name, position
        elif parameter.kind is parameter.KEYWORD_ONLY:
            yield parameter.name, _KEYWORD_ONLY_POSITION
