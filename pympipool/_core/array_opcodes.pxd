"""What other modules use of `array_opcodes.pyx`."""

from pympipool._core.opcodes cimport Pickle

cdef bint is_array_of_numbers(value)
cdef bint write_array(Pickle *pickle, array, list parts) except -1
cdef bint write_scalar(Pickle *pickle, value) except -1
cdef bint write_view(Pickle *pickle, value) except -1
cdef bytes write_arrays(list arrays, list parts)
cdef int show_memory(list parts) except -1
