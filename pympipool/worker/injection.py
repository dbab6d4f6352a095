"""Parameters that come from `init_function`: given to functions that know them and were not given them.

    init_function() -> {"j": 4, "k": 3, "l": 2}         def calc(i, j, k): ...
    submit(calc, 2, j=5)                                runs calc(2, j=5, k=3)

What a function takes is looked up once for each function, not for each call, and functions that take nothing of it
are called as if there were no preset.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

_ALWAYS = 1 << 62  # position of a parameter that no positional argument can reach


def inject_arguments(function: Callable[..., Any], preset: Mapping[str, Any]) -> Callable[..., Any]:
    """A function that gets parameters from a preset, unless they are given; explicit arguments win, defaults do not.

    Args:
        function: Any callable. If it tells no signature, as some builtins, it gets nothing.
        preset: Values by name. Names are given to parameters of that name only, never to `**kwargs`.

    Examples:
        >>> def calc(i, j, k=0, **kwargs): return i, j, k, kwargs
        >>> inject_arguments(calc, {"j": 4, "k": 3, "l": 2})(2, j=5)
        (2, 5, 3, {})
    """
    if not preset:
        return function
    missing = [(name, position, preset[name]) for name, position in _parameters(function) if name in preset]
    if not missing:
        return function

    def call(*args: Any, **kwargs: Any) -> Any:
        for name, position, value in missing:
            if position >= len(args) and name not in kwargs:
                kwargs[name] = value
        return function(*args, **kwargs)

    return call


def _parameters(function: Callable[..., Any]) -> Iterator[tuple[str, int]]:
    """Names of parameters that can be given by name, each with the number of positional arguments before it."""
    import functools
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # it has none, or cannot tell
        return
    given = function.keywords if isinstance(function, functools.partial) else {}
    for position, parameter in enumerate(parameters):
        if parameter.name in given:
            continue
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            yield parameter.name, position
        elif parameter.kind is parameter.KEYWORD_ONLY:
            yield parameter.name, _ALWAYS
