cdef class Snapshot:
    cdef list _functions, _names, _lookups, _cells, _classes, _dicts, _slots, _checks
    cpdef bint is_current(self) except -1
