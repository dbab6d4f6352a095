"""Pickle any value; by value what cannot be imported elsewhere, such as functions and classes of `__main__`.

This is cloudpickle's pickler, with faster answers to two questions: does this type have a reducer of its own, and can
this class be imported? Where the answer is not certain, cloudpickle decides.

This is a separate module because importing cloudpickle takes as long as everything else that a worker imports. It is
imported when the first value needs it.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import cloudpickle

from pympipool._core import instances
from pympipool._core.instances import find_definition
from pympipool.serialization.classes import find_class, load_class, reduce_class
from pympipool.serialization.definitions import make_definition
from pympipool.serialization.exceptions import reduce_without_init, refuses_attributes
from pympipool.serialization.reducers import SCRIPT_REDUCERS, ScriptPickler, reducer_of
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
    pickler = _ResultPickler if is_result else _CallPickler if files_by_name else _Pickler
    try:
        return instances.dump(value, pickler, buffer_callback, is_result)
    except RecursionError as error:
        raise pickle.PicklingError("it is nested so deeply that it exceeds the limit of recursion") from error


def dump_definition(value: object, numbers: Mapping[int, int], *, is_result: bool) -> bytes:
    """Pickle the definition of a class: in full, with all classes that it refers to.

    Args:
        value: Contains the class.
        numbers: The numbers of the definitions of these classes, by id. Annotations of functions may refer to further
            classes; these leave the classes of the process that loads them unchanged.
        is_result: The definition belongs to a result.
    """
    file = io.BytesIO()
    pickler = _DefinitionPickler(file, PROTOCOL)
    pickler.numbers, pickler.is_result = numbers, is_result
    pickler.dump(value)
    return file.getvalue()


def dump_function(function: object, classes: Iterable[type]) -> bytes:
    """Pickle a function that is sent once.

    Args:
        function: The function.
        classes: All classes that the function refers to and that are pickled by value.
    """
    file = io.BytesIO()
    pickler = _FunctionPickler(file, PROTOCOL)
    pickler.classes = {id(kind) for kind in classes}
    pickler.dump(function)
    return file.getvalue()


def dump_in_full(value: object) -> bytes:
    """Pickle a value without definitions of classes."""
    file = io.BytesIO()
    pickler = _DefinitionPickler(file, PROTOCOL)
    pickler.numbers, pickler.is_result = {}, True
    pickler.dump(value)
    return file.getvalue()


class _Reducers:
    """The current reducers of cloudpickle and `copyreg` by type.

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
        if refuses_attributes(kind):
            return reduce_without_init
        numpy = sys.modules.get("numpy")
        array_type: type | None = getattr(numpy, "ndarray", None)
        if array_type is not None and issubclass(kind, array_type):
            from pympipool.serialization import arrays

            if arrays.has_plain_pickle(kind):
                return arrays.reduce_array_or_file if self._files_by_name else arrays.reduce_array
        raise KeyError(kind)


class _Pickler(ScriptPickler):
    """cloudpickle's pickler, with faster answers to what most objects ask.

    What cloudpickle and `ScriptPickler` keep for each pickle is created when it is needed.
    """

    __init__ = pickle.Pickler.__init__
    dump = pickle.Pickler.dump
    reducer_override = instances.reducer_override
    dispatch_table: Mapping[type, Any] = {}  # see `reduce_registered`
    tables = (*cloudpickle.Pickler.dispatch_table.maps, SCRIPT_REDUCERS)
    reducers = _Reducers()
    is_result = False
    proto = PROTOCOL

    @functools.cached_property
    def globals_ref(self) -> dict[int, dict[str, Any]]:
        return {}

    @functools.cached_property
    def _stand_ins(self) -> dict[int, Any]:  # type: ignore[override]  # ScriptPickler sets it
        return {}

    def reduce_registered(self, value: Any) -> Any:
        """Reduce an object whose type has a reducer in one of the tables, an array, or an exception."""
        try:
            reduce = self.reducers[type(value)]
        except KeyError:
            return NotImplemented
        return reduce(value)

    def reduce_function(self, function: types.FunctionType) -> Any:
        if function is load_class or function is find_class:
            return NotImplemented
        if not self.is_result:
            notice_reload(function.__module__)
        return super().reducer_override(function)

    def reduce_class(self, kind: type) -> Any:
        """Reduce a class: by its definition, if it has one."""
        return find_definition(kind, self.is_result) or self._reduce_unknown_class(kind)

    def _reduce_unknown_class(self, kind: type) -> Any:
        if not self.is_result:
            notice_reload(kind.__module__)
        return self._reduce_in_full(kind, self.is_result, make_definition)

    def _reduce_in_full(
        self, kind: type, is_result: bool, define: Callable[..., Any] | None = None, number: int = 0
    ) -> Any:
        """Reduce a class with all that belongs to it.

        Args:
            is_result: The class leaves those of the process that loads it unchanged.
            define: Makes a definition of the class that is used instead, unless it returns None.
            number: The number of the definition that this is a part of.
        """
        if _is_importable_class(kind):
            return NotImplemented
        reduced = super().reducer_override(kind)
        if type(reduced) is not tuple or len(reduced) != 6:  # not by value
            return reduced
        definition = None if define is None else define(kind, is_result)
        return definition or reduce_class(kind, reduced, is_result, number)


class _ResultPickler(_Pickler):
    """The pickler for results and exceptions."""

    is_result = True


class _CallPickler(_Pickler):
    """The pickler for calls to workers that see the files of this process."""

    reducers = _Reducers(files_by_name=True)


class _DefinitionPickler(_Pickler):
    """The pickler for definitions of classes."""

    numbers: Mapping[int, int]

    def reduce_class(self, kind: type) -> Any:
        number = self.numbers.get(id(kind), 0)
        return self._reduce_in_full(kind, self.is_result or not number, number=number)


class _FunctionPickler(_Pickler):
    """The pickler for functions that are sent once."""

    classes: Set[int]

    def reduce_class(self, kind: type) -> Any:
        if id(kind) not in self.classes:
            return self._reduce_in_full(kind, is_result=True)
        definition = find_definition(kind, False) or make_definition(kind, False, at_once=True)
        if definition is None:
            raise pickle.PicklingError(f"{kind!r} has no definition")
        return definition


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
