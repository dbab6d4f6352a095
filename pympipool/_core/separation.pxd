"""What `copies.pyx` shares with `separation.pyx`: the base class of `Copier`."""

from cpython.object cimport PyObject

cdef extern from *:
    """
    /* A set of addresses. */
    typedef struct { void **slots; size_t size, used; } pmp_addresses;
    """
    ctypedef struct pmp_addresses:
        pass

cdef enum:
    WAY_NO_COPY
    WAY_COPY_DICT
    WAY_COPY_ARRAY
    DEPTH_MAX = 16  # deeper values are pickled


cdef class Separator:
    cdef set immutable
    cdef object find_way
    cdef dict ways
    cdef bint is_owned  # no other code has the values yet: numbers of references tell which are separate
    cdef pmp_addresses addresses
    cdef readonly set kinds

    cdef bint is_separate(self, PyObject *value, int depth) except -1
    cdef bint _claim(self, PyObject *one) except -1
    cdef bint _are_items_separate(self, PyObject *items, int depth) except -1
    cdef bint _is_instance_separate(self, PyObject *value, kind, int depth) except -1
    cdef bint are_immutable(self, items, int depth) except -1
    cdef bint is_immutable(self, value, int depth) except -1
    cdef int way_of(self, kind) except -1
    cdef int _learn(self, kind) except -1
