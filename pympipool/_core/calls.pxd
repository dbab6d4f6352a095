"""Creation and release of calls and functions; see calls.pyx."""

from pympipool._core.types cimport Call, CallList, Function


cdef class FunctionHandle:
    cdef Function *function


cdef Call *new_call(list parts) except NULL
cdef void free_call(Call *call) noexcept
cdef void free_calls(CallList *calls) noexcept
cdef void take_futures(CallList *calls, list futures) noexcept
cdef object parts_of_result(Call *call)
