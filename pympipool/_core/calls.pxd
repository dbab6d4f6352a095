"""Creation and release of calls and functions; see calls.pyx."""

from pympipool._core.snapshot cimport Snapshot
from pympipool._core.types cimport Call, CallList, Function

cdef enum:
    COPY_LIMIT = 1 << 16  # largest size of arguments that are copied at submit, bytes


cdef class FunctionHandle:
    cdef Function *function
    cdef readonly object callable
    cdef Snapshot snapshot
    cdef readonly str name

    cdef bint is_unchanged(self) except -1


cdef Call *new_call(list parts) except NULL
cdef Call *new_small_call(const void *pickle, size_t size) except NULL
cdef void free_call(Call *call) noexcept
cdef void free_calls(CallList *calls) noexcept
cdef void take_futures(CallList *calls, list futures) noexcept
cdef object parts_of_result(Call *call)
