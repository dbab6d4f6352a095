"""Calls that are tried again after a failure; see attempts.pyx."""

from pympipool._core.completion cimport Completion


cdef class Attempts(Completion):
    pass
