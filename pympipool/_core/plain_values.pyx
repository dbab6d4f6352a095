# cython: language_level=3, boundscheck=False, wraparound=False
"""Recognize small plain values, in a fraction of a microsecond: they need neither a search for futures nor cloudpickle.

And pickle them, arrays of numbers in them included:

    a value ─► written opcode by opcode, as most are (see pickle_writer.pyx)
           └─► consists of scalars, small containers and arrays? ─► opcodes of each array, in front │ the rest, by pickle

The pickler is told that it has pickled the arrays in front already. So an array that a value contains twice arrives as one.
"""

cimport cython
from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject, PyTypeObject

from _io import BytesIO
from _pickle import Pickler, dumps

from pympipool._core.array_opcodes cimport is_array_of_numbers, write_arrays
from pympipool._core.pickle_writer cimport write_plain_value

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    PyTypeObject *Py_TYPE(object value)
    int PySet_Contains(object kinds, object kind) except -1

cdef enum:
    ITEMS_MAX = 256
    DEPTH_MAX = 16

cdef object _PROTOCOL = 5


cdef int _note_array(array, list arrays) except -1:
    """Append an array to arrays, unless it is there."""
    for other in arrays:
        if other is array:
            return 0
    arrays.append(array)
    return 0


# Runs no Python code of others, so no container changes meanwhile.
cdef bint _consists_of(value, kinds, Py_ssize_t bytes_below, int depth, Py_ssize_t *items_left, list arrays) except -1:
    cdef PyObject *key = NULL
    cdef PyObject *item = NULL
    cdef Py_ssize_t position = 0
    kind = type(value)
    if kind is tuple or kind is list or kind is dict or kind is set or kind is frozenset:
        items_left[0] -= len(value)
        if items_left[0] < 0 or depth == DEPTH_MAX:
            return False
    if kind is tuple:
        for element in <tuple>value:
            if not _consists_of(element, kinds, bytes_below, depth + 1, items_left, arrays):
                return False
        return True
    if kind is list:
        for element in <list>value:
            if not _consists_of(element, kinds, bytes_below, depth + 1, items_left, arrays):
                return False
        return True
    if kind is dict:
        with cython.critical_section(value):
            while PyDict_Next(value, &position, &key, &item):
                if not _consists_of(<object>key, kinds, bytes_below, depth + 1, items_left, arrays):
                    return False
                if not _consists_of(<object>item, kinds, bytes_below, depth + 1, items_left, arrays):
                    return False
        return True
    if kind is set or kind is frozenset:
        for element in value:
            if not _consists_of(element, kinds, bytes_below, depth + 1, items_left, arrays):
                return False
        return True
    if kind is bytes and len(<bytes>value) >= bytes_below:
        return False
    if arrays is not None and is_array_of_numbers(value):
        _note_array(value, arrays)
        return True
    # The hash of a class with a metaclass may be Python code.
    return <PyObject *>Py_TYPE(kind) == <PyObject *>type and PySet_Contains(kinds, kind)


def consists_of(value, kinds not None, Py_ssize_t bytes_below=PY_SSIZE_T_MAX):
    """Return True if a value, or all that it contains, is of these types: False also for large or deep containers.

    Args:
        value: Containers are tuples, lists, dicts, sets and frozensets, not instances of their subclasses.
        kinds: A set of types.
        bytes_below: Objects of type bytes of this size count as another type.

    Examples:
        >>> consists_of((1, [2, {"x": None}]), {int, str, type(None)}), consists_of([1, True], {int})
        (True, False)
        >>> consists_of(list(range(1000)), {int})
        False
    """
    cdef Py_ssize_t items_left = ITEMS_MAX
    return _consists_of(value, kinds, bytes_below, 0, &items_left, None)


def dump_plain_value(value, kinds not None, Py_ssize_t bytes_below=PY_SSIZE_T_MAX):
    """Pickle a value that consists of small containers, of these types and of arrays; return None for others.

    Args:
        value: As for `consists_of`. None, numbers, str and short bytes are always pickled.
        kinds: A set of types, whose values pickle stores without a reference to a class by value.
        bytes_below: Objects of type bytes of this size count as another type.

    Returns:
        The pickle, and the data of its large arrays as out-of-band buffers: views of the arrays' memory.

    Examples:
        >>> dump_plain_value([1, 2], {complex}), dump_plain_value(1j, {int})
        ([b'\\x80\\x05](K\\x01K\\x02e.'], None)
    """
    cdef Py_ssize_t items_left = ITEMS_MAX
    cdef list arrays = []
    parts = write_plain_value(value, kinds)
    if parts is not None:
        return parts
    if not _consists_of(value, kinds, bytes_below, 0, &items_left, arrays):
        return None
    return _dump_with_arrays(value, arrays) if arrays else [dumps(value, _PROTOCOL)]


cdef list _dump_with_arrays(value, list arrays):
    """Pickle a value that contains these arrays, and others; return None if one of them is empty, or not in C order."""
    cdef list parts = [None]
    opcodes = write_arrays(arrays, parts)
    if opcodes is None:
        return None
    file = BytesIO()
    pickler = Pickler(file, _PROTOCOL)
    pickler.memo = {id(array): (number, array) for number, array in enumerate(arrays)}
    pickler.dump(value)
    parts[0] = b"\x80\x05" + opcodes + file.getvalue()
    return parts
