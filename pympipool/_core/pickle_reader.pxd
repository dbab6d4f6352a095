"""Unpickles small values of builtin types; see pickle_reader.pyx."""

from libc.stdint cimport uint8_t

cdef enum:
    SMALL_BYTES_MAX = 512  # of larger pickles, the unpickler takes a small part of the time

cdef object read_value(object pickle)
cdef object read_bytes(const uint8_t *begin, size_t size)
