"""Arguments from `init_function`: passed to functions that have parameters of these names and were not given them.

    init_function() -> {"j": 4, "k": 3, "l": 2}         def calc(i, j, k): ...
    submit(calc, 2, j=5)                                runs calc(2, j=5, k=3)

The parameters of a function are looked up once for each function, not for each call. A function that has none of these
parameters is called directly, without a wrapper.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

_KEYWORD_ONLY_POSITION = 1 << 62  # larger than any number of positional arguments


def inject_arguments(function: Callable[..., Any], init_values: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a function that gets arguments from init_values. Explicit arguments override them, defaults do not.

    Args:
        function: Any callable. If it has no signature, as some builtins, it gets nothing.
        init_values: Values by name. They go to parameters of that name only, never to `**kwargs`.

    Examples:
        >>> def calc(i, j, k=0, **kwargs): return i, j, k, kwargs
        >>> inject_arguments(calc, {"j": 4, "k": 3, "l": 2})(2, j=5)
        (2, 5, 3, {})
    """
    if not init_values:
        return function
    injected = [(name, position, init_values[name]) for name, position in _parameters(function) if name in init_values]
    if not injected:
        return function

    def call(*args: Any, **kwargs: Any) -> Any:
        for name, position, value in injected:
            if position >= len(args) and name not in kwargs:
                kwargs[name] = value
        return function(*args, **kwargs)

    return call


def _parameters(function: Callable[..., Any]) -> Iterator[tuple[str, int]]:
    """Yield the parameters that can be passed by name, each with the number of positional parameters before it."""
    import functools
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # it has no signature
        return
    bound = function.keywords if isinstance(function, functools.partial) else {}
    for position, parameter in enumerate(parameters):
        if parameter.name in bound:
            continue
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            yield parameter.name, position
        elif parameter.kind is parameter.KEYWORD_ONLY:
            yield parameter.name, _KEYWORD_ONLY_POSITION
