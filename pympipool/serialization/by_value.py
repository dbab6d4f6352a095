"""Pickles anything: what cannot be imported elsewhere, functions and classes of `__main__` among it, by its value.

cloudpickle's pickler, with faster answers to its two questions: has this type a reducer of its own, and can this class be
imported? What it does not know for certain it leaves to cloudpickle.

A module of its own because cloudpickle takes as long to import as everything else in a worker: it is imported when the
first value needs it.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle

PROTOCOL = 5


def dump(value: object, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """Pickles anything, with the pickler's own exceptions.

    Args:
        value: Anything that cloudpickle can pickle.
        buffer_callback: As of `pickle.Pickler`; None: all buffers stay inside the pickle.
    """
    file = io.BytesIO()
    _Pickler(file, PROTOCOL, buffer_callback).dump(value)
    return file.getvalue()


class _Reducers:
    """The reducers of cloudpickle and `copyreg` by type, as they are at that moment.

    cloudpickle's own table, a ChainMap, gives the same answers but takes 1 us more for each object without one.
    """

    def __getitem__(self, kind: type) -> Callable[..., Any]:
        for reducers in cloudpickle.Pickler.dispatch_table.maps:
            if kind in reducers:
                reducer: Callable[..., Any] = reducers[kind]
                return reducer
        raise KeyError(kind)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """cloudpickle's pickler, which knows importable classes faster."""

    dispatch_table = _Reducers()

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is types.FunctionType:
            return super().reducer_override(value)
        if not issubclass(kind, type) or _is_importable_class(value):
            return NotImplemented
        return super().reducer_override(value)


def _is_importable_class(kind: type) -> bool:
    """Whether a class can be stored by reference for certain; False where only cloudpickle knows."""
    name: object = kind.__module__  # whatever the class's author put there
    module = sys.modules.get(name) if isinstance(name, str) else None
    return (
        type(module) is types.ModuleType
        and name != "__main__"
        and module.__dict__.get(kind.__qualname__) is kind
        and not cloudpickle.list_registry_pickle_by_value()
    )
