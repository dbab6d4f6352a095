"""Unpickles single small values; see pickle_reader.pyx."""

from libc.stdint cimport uint8_t


cdef object read_scalar(const uint8_t *pickle, size_t size)
