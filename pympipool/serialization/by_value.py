"""Pickle any value; by value what cannot be imported elsewhere, such as functions and classes of `__main__`.

This is cloudpickle's pickler, with faster answers to two questions (`_core/reductions.pyx`): does this type have a reducer of its
own, and can this function or class be imported? Where the answer is not certain, cloudpickle decides.

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
from pympipool._core.reductions import Reductions, reducer_override
from pympipool.serialization import HANDLE_MARK
from pympipool.serialization.classes import find_class, load_class, reduce_class
from pympipool.serialization.definitions import make_definition
from pympipool.serialization.exception_forms import reduce_without_init, refuses_attributes
from pympipool.serialization.reducers import SCRIPT_REDUCERS, ScriptPickler, reducer_of_library
from pympipool.serialization.reloads import SPAWNED_SCRIPT, SPECS, notice_reload

PROTOCOL = 5


def dump(value: object, *, is_result: bool = False) -> bytes:
    """Pickle any value that cloudpickle can pickle into one bytes object. Raises the pickler's own exceptions.

    Args:
        value: The value.
        is_result: It is an exception. It leaves the classes of the process that loads it unchanged, and keeps no shared memory.
    """
    pickled: bytes = instances.dump(value, _ExceptionPickler if is_result else _Pickler, is_result, False)[0]
    return pickled


def dump_parts(value: object, is_result: bool, files_by_name: bool) -> list[Any]:
    """Pickle any value that cloudpickle can pickle. Return the pickle and its out-of-band buffers.

    Args:
        value: The value.
        is_result: As for `dump`.
        files_by_name: Large `numpy.memmap` objects travel as file names.
    """
    pickler = _ResultPickler if is_result else _CallPickler if files_by_name else _Pickler
    try:
        return instances.dump(value, pickler, is_result, True)
    except RecursionError as error:
        raise pickle.PicklingError("it is nested so deeply that it exceeds the limit of recursion") from error


def dump_for_start(value: object) -> list[Any]:
    """Pickle what runs at the start of a worker: as a result, but handles of shared data give the objects, as in a call."""
    notice_reload(SPAWNED_SCRIPT)  # this pickler looks at no other module
    parts: list[Any] = instances.dump(value, _StartPickler, True, True)
    return parts


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


def dump_shared(value: object) -> list[Any]:
    """Pickle what calls will share. Return the pickle and its out-of-band buffers: all of them, also small ones."""
    file, buffers = io.BytesIO(), []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        buffers.append(view)
        return False

    _SharedPickler(file, PROTOCOL, buffer_callback=keep).dump(value)
    return [file.getbuffer(), *buffers]


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


def is_only_attributes(kind: type) -> bool:
    """Return True if a copy of an instance's `__dict__` is a copy of the instance, and no code of its class runs for it."""
    return _Pickler.reductions.is_inert(kind)  # type: ignore[no-any-return]  # there are no stubs of compiled modules


def is_inert(kind: type, is_result: bool, defines: bool) -> bool:
    """Return True if a copy of an instance's `__dict__` is a copy of the instance, and if its class needs not be pickled.

    Args:
        kind: The class.
        is_result: The instance belongs to a result.
        defines: A class that is seen for the first time gets a definition.
    """
    reductions = (_ResultPickler if is_result else _Pickler).reductions
    if not reductions.is_inert(kind):
        return False
    if reductions.is_importable(kind) or find_definition(kind, is_result):
        return True
    if cloudpickle.cloudpickle._should_pickle_by_reference(kind):
        return False
    return make_definition(kind, is_result, at_once=defines) is not None


def _reducer_of(
    kind: type,
    registered: Any,
    *,
    is_result: bool = False,
    files_by_name: bool = False,
    in_band: bool = True,
    copies_shared: bool = False,
) -> Any:
    """Return the reducer for instances of a class; None if pickle's own way is right.

    Args:
        registered: The reducer that is registered for the class, or None.
        is_result: They belong to a result.
        files_by_name: Large `numpy.memmap` objects travel as file names.
        in_band: The data of small arrays may stay in the pickle.
        copies_shared: The data of shared arrays are pickled.
    """
    if kind.__module__ == _SHARED and is_result:
        return getattr(kind, "reduce_as_handle", None)
    if registered is not None:
        return reducer_of_library(kind) or registered
    if kind.__module__ in _MULTIPROCESSING:
        return _reducer_of_multiprocessing(kind)
    ctypes: Any = sys.modules.get("_ctypes")
    if ctypes is not None and issubclass(kind, ctypes._SimpleCData.__base__):
        return _reduce_ctypes
    if refuses_attributes(kind):
        return reduce_without_init
    array_type: type | None = getattr(sys.modules.get("numpy"), "ndarray", None)
    if array_type is not None and issubclass(kind, array_type):
        from pympipool.serialization import arrays

        if arrays.has_plain_pickle(kind):
            if is_result or not in_band:
                options = {"in_band": in_band, "is_result": is_result, "copies_shared": copies_shared}
                return functools.partial(arrays.reduce_array, **options)
            return arrays.reduce_array_or_file if files_by_name else arrays.reduce_array
    return None


_SHARED = HANDLE_MARK.decode()

_MULTIPROCESSING = ("multiprocessing.connection", "multiprocessing.heap")
"""Modules whose objects have descriptors, and are pickled with reducers that only multiprocessing's own pickler knows."""


def _reducer_of_multiprocessing(kind: type) -> Any:
    from multiprocessing.reduction import ForkingPickler

    return ForkingPickler._extra_reducers.get(kind)  # type: ignore[attr-defined]  # there is no public way


def _reduce_ctypes(value: Any) -> Any:
    """Reduce a value of ctypes: to the memory that it shares with other processes, or to its content."""
    if not hasattr(value, "_wrapper"):
        return value.__reduce_ex__(PROTOCOL)
    from multiprocessing.sharedctypes import reduce_ctype  # type: ignore[attr-defined]  # ForkingPickler calls it

    return reduce_ctype(value)


def _reductions(
    is_result: bool = False,
    files_by_name: bool = False,
    for_start: bool = False,
    in_band: bool = True,
    copies_shared: bool = False,
) -> Reductions:
    own: dict[Any, Any] = {types.CodeType: _reduce_code, types.ModuleType: _reduce_module, **SCRIPT_REDUCERS}
    tables: Any = (own, *cloudpickle.Pickler.dispatch_table.maps)
    find_reducer = functools.partial(
        _reducer_of,
        is_result=is_result and not for_start,
        files_by_name=files_by_name,
        in_band=in_band,
        copies_shared=copies_shared,
    )
    return Reductions(
        tables, find_reducer, cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES, None if is_result else SPECS
    )


class _Pickler(ScriptPickler):
    """cloudpickle's pickler, with faster answers to what most objects ask.

    What cloudpickle and `ScriptPickler` keep for each pickle is created when it is needed.
    """

    __init__ = pickle.Pickler.__init__
    dump = pickle.Pickler.dump
    reducer_override = reducer_override
    dispatch_table: Mapping[type, Any] = {}  # see `_reductions`
    reductions: Reductions
    is_result = False
    proto = PROTOCOL

    @functools.cached_property
    def globals_ref(self) -> dict[int, dict[str, Any]]:
        return {}

    @functools.cached_property
    def _stand_ins(self) -> dict[int, Any]:  # type: ignore[override]  # ScriptPickler sets it
        return {}

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
        reduced = super().reducer_override(kind)
        if type(reduced) is not tuple or len(reduced) != 6:  # not by value
            return reduced
        definition = None if define is None else define(kind, is_result)
        return definition or reduce_class(kind, reduced, is_result, number)


class _ResultPickler(_Pickler):
    """The pickler for results."""

    is_result = True


class _ExceptionPickler(_ResultPickler):
    """The pickler for exceptions."""


class _StartPickler(_ResultPickler):
    """The pickler for what runs at the start of a worker."""


class _SharedPickler(_Pickler):
    """The pickler for shared objects: the data of all arrays are buffers, which arrive read-only."""


class _CallPickler(_Pickler):
    """The pickler for calls to workers that see the files of this process."""


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


_Pickler.reductions = _reductions()
_ResultPickler.reductions = _reductions(is_result=True)
_ExceptionPickler.reductions = _reductions(is_result=True, copies_shared=True)
_StartPickler.reductions = _reductions(is_result=True, for_start=True)
_SharedPickler.reductions = _reductions(in_band=False)
_CallPickler.reductions = _reductions(files_by_name=True)
