"""Pickle any value; by value what cannot be imported elsewhere, such as functions and classes of `__main__`.

This is cloudpickle's pickler, with faster answers to two questions: does this type have a reducer of its own, and can
this class be imported? Where the answer is not certain, cloudpickle decides.

This is a separate module because importing cloudpickle takes as long as everything else that a worker imports. It is
imported when the first value needs it.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle

from pympipool.serialization.classes import reduce_class
from pympipool.serialization.reducers import ScriptPickler, reducer_of
from pympipool.serialization.reloads import notice_reload

PROTOCOL = 5


def dump(
    value: object,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    *,
    is_result: bool = False,
    files_by_name: bool = False,
) -> bytes:
    """Pickle any value. Raises the pickler's own exceptions.

    Args:
        value: Any value that cloudpickle can pickle.
        buffer_callback: As for `pickle.Pickler`; None keeps all buffers inside the pickle.
        is_result: The value is a result or an exception. It leaves the classes of the process that loads it unchanged.
        files_by_name: Large `numpy.memmap` objects travel as file names.
    """
    file = io.BytesIO()
    pickler = _ResultPickler if is_result else _CallPickler if files_by_name else _Pickler
    pickler(file, PROTOCOL, buffer_callback).dump(value)
    return file.getvalue()


class _Reducers:
    """The current reducers of cloudpickle and `copyreg` by type.

    cloudpickle's own table, a ChainMap, gives the same answers but takes 1 us more for each object without a reducer.

    Args:
        files_by_name: Large `numpy.memmap` objects travel as file names.
    """

    def __init__(self, files_by_name: bool = False) -> None:
        self._files_by_name = files_by_name

    def __getitem__(self, kind: type) -> Callable[..., Any]:
        if kind is types.CodeType:
            return _reduce_code
        if kind is types.ModuleType:
            return _reduce_module
        own = reducer_of(kind)
        if own is not None:
            return own
        for reducers in cloudpickle.Pickler.dispatch_table.maps:
            if kind in reducers:
                return reducer_of(kind, reducers[kind])  # type: ignore[return-value]  # never None here
        numpy = sys.modules.get("numpy")
        array_type: type | None = getattr(numpy, "ndarray", None)
        if array_type is not None and issubclass(kind, array_type):
            from pympipool.serialization import arrays

            if arrays.has_plain_pickle(kind):
                return arrays.reduce_array_or_file if self._files_by_name else arrays.reduce_array
        raise KeyError(kind)


class _Pickler(ScriptPickler):
    """cloudpickle's pickler, with a faster check for importable classes."""

    dispatch_table = _Reducers()
    is_result = False

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is types.FunctionType:
            if not self.is_result:
                notice_reload(value.__module__)
            return super().reducer_override(value)
        if not issubclass(kind, type):
            return NotImplemented
        if not self.is_result:
            notice_reload(value.__module__)
        if _is_importable_class(value):
            return NotImplemented
        reduced = super().reducer_override(value)
        by_value = type(reduced) is tuple and len(reduced) == 6
        return reduce_class(value, reduced, self.is_result) if by_value else reduced


class _ResultPickler(_Pickler):
    """The pickler for results and exceptions."""

    is_result = True


class _CallPickler(_Pickler):
    """The pickler for calls to workers that see the files of this process."""

    dispatch_table = _Reducers(files_by_name=True)


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    """Reduce a code object as cloudpickle does, but with its file name, so that tracebacks show file and source line.

    cloudpickle 3.1.3 writes "<dynamic-code>" in place of each file name, which makes its pickles reproducible.
    """
    rebuild, arguments = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return rebuild, tuple(
        code.co_filename if isinstance(one, str) and one == "<dynamic-code>" else one for one in arguments
    )


def _reduce_module(module: types.ModuleType) -> Any:
    notice_reload(module.__name__)
    return cloudpickle.Pickler.dispatch_table[types.ModuleType](module)


def _is_importable_class(kind: type) -> bool:
    """Return True if a class can certainly be pickled by reference; False if cloudpickle has to decide."""
    name: object = kind.__module__  # the author of the class may have put anything there
    module = sys.modules.get(name) if isinstance(name, str) else None
    return (
        type(module) is types.ModuleType
        and name != "__main__"
        and module.__dict__.get(kind.__qualname__) is kind
        and not cloudpickle.list_registry_pickle_by_value()
    )
