# cython: language_level=3, boundscheck=False, wraparound=False
"""Recognize small plain values, in a fraction of a microsecond: they need neither a search for futures nor cloudpickle."""

from cpython.dict cimport PyDict_Next
from cpython.ref cimport PyObject

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    PyObject *Py_TYPE(object value)
    int PySet_Contains(object kinds, object kind) except -1

cdef enum:
    ITEMS_MAX = 256
    DEPTH_MAX = 16


# Runs no Python code of others, so no container changes meanwhile.
cdef bint _consists_of(value, kinds, Py_ssize_t bytes_below, int depth, Py_ssize_t *items_left) except -1:
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
            if not _consists_of(element, kinds, bytes_below, depth + 1, items_left):
                return False
        return True
    if kind is list:
        for element in <list>value:
            if not _consists_of(element, kinds, bytes_below, depth + 1, items_left):
                return False
        return True
    if kind is dict:
        while PyDict_Next(value, &position, &key, &item):
            if not _consists_of(<object>key, kinds, bytes_below, depth + 1, items_left):
                return False
            if not _consists_of(<object>item, kinds, bytes_below, depth + 1, items_left):
                return False
        return True
    if kind is set or kind is frozenset:
        for element in value:
            if not _consists_of(element, kinds, bytes_below, depth + 1, items_left):
                return False
        return True
    if kind is bytes and len(<bytes>value) >= bytes_below:
        return False
    # The hash of a class with a metaclass may be Python code.
    return Py_TYPE(kind) == <PyObject *>type and PySet_Contains(kinds, kind)


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
    return _consists_of(value, kinds, bytes_below, 0, &items_left)
