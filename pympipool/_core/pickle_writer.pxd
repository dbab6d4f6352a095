"""What other modules use of `pickle_writer.pyx`."""

from pympipool._core.opcodes cimport Pickle

cdef enum:
    ITEMS_MAX = 256  # in all containers of a pickle

cdef bint write_call(Pickle *pickle, tuple args, dict kwargs, kinds, list parts) except -1
cdef bint write_plain(Pickle *pickle, value, kinds, list parts) except -1
cdef list write_plain_value(value, kinds)
