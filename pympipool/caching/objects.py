"""Digest instances of any class: by what pickle would store of them, which has no addresses."""

from __future__ import annotations

import copyreg
import pickle
import sys
from concurrent.futures import Future
from typing import Any

from pympipool._util.reprs import error_message, type_name
from pympipool.caching.functions import add_class, add_special
from pympipool.caching.modules import add_module_named, sees_memory
from pympipool.caching.values import Hasher, KeylessFutureError, UnhashableError
from pympipool.serialization.analysis import resolve_qualname
from pympipool.serialization.inputs import entry_and_origin
from pympipool.serialization.reducers import reducer_of_library

__all__ = ["add_object", "add_reduced"]

_SET_REDUCERS = (set.__reduce__, frozenset.__reduce__)


def add_object(hasher: Hasher, value: Any) -> None:
    """Add an object that the hasher has not met before.

    Raises:
        UnhashableError: It has no digest.
    """
    kind = type(value)
    if issubclass(kind, type):
        meets = hasher.scope.meets_function
        add_class(hasher, value)
        hasher.scope.meets_function = meets  # a worker has each class once, whatever has brought it
    elif isinstance(value, Future):
        _add_future(hasher, value)
    elif issubclass(kind, (set, frozenset)) and kind.__reduce__ in _SET_REDUCERS:
        hasher.add(kind)
        hasher.add_unordered(b"set", value)
        hasher.add(value.__reduce__()[2])  # its attributes
    elif issubclass(kind, getattr(sys.modules.get("numpy"), "ndarray", ())):
        from pympipool.caching import numpy_values

        numpy_values.add_any_array(hasher, value)
    elif kind.__module__ == "pympipool.serialization.shared":  # its key is another one in each session
        hasher.add(value.value)
    elif not add_special(hasher, value):
        add_reduced(hasher, value)


def _add_future(hasher: Hasher, future: Future[Any]) -> None:
    """Add the key of a call in place of its result: it is known before the result is, and without reading it."""
    entry, origin = entry_and_origin(future)
    if entry is None or not hasher.scope.takes_futures:
        raise KeylessFutureError("a future whose call has no key")
    hasher.scope.inputs.append(entry)
    hasher.add_all(b"future", origin)
    hasher.is_new(entry)  # else its number is added: items of one result may be one object


def add_reduced(hasher: Hasher, value: Any) -> None:
    """Add what pickle would store of an object."""
    kind = type(value)
    try:
        reduce = reducer_of_library(kind) or copyreg.dispatch_table.get(kind)
        reduced = reduce(value) if reduce is not None else value.__reduce_ex__(5)
    except Exception as error:  # any class may raise anything
        raise UnhashableError(
            f"an object of type {type_name(kind)}, which pickle refuses ({error_message(error)})"
        ) from None
    if isinstance(reduced, str):
        _add_global(hasher, value, reduced)
        return
    stored: list[Any] = [*reduced, None, None, None, None]
    function, arguments, state, items, pairs, set_state = stored[:6]
    hasher.feed(b"object")
    try:
        hasher.add(function)
        hasher.add_all(b"arguments", arguments)
        hasher.add_all(b"state", (state, set_state))
        hasher.add_all(b"items", () if items is None else items)
        hasher.add_all(b"pairs", () if pairs is None else pairs)
    except KeylessFutureError:
        raise
    except UnhashableError as error:
        raise UnhashableError(f"an object of type {type_name(kind)} that holds {error}") from None


def _add_global(hasher: Hasher, value: Any, name: str) -> None:
    """Add an object that pickle stores as its name in a module, such as a compiled function, and the module."""
    module = _module_of(value, name)
    path = resolve_qualname(module, name)
    if type(value).__module__ != "typing" and (not path or path[-1][2] is not value):
        raise UnhashableError(f"{name!r} of type {type_name(type(value))}, which its module does not have")
    hasher.text(b"global", name)
    if module != "__main__":
        add_module_named(hasher, module)
    if module == "__main__" or sees_memory(hasher, module):
        hasher.add_all(b"instance", (type(value), getattr(value, "__dict__", None)))


def _module_of(value: Any, name: str) -> str:
    """Return the module in which pickle finds an object; numpy for its functions, which modules of the user's may have, too."""
    numpy: Any = sys.modules.get("numpy")
    if type(value) is getattr(numpy, "ufunc", None) and vars(numpy).get(name) is value:
        return "numpy"
    module: str = pickle.whichmodule(value, name)  # type: ignore[attr-defined]
    return module
