"""Calls that are tried again after a failure; see attempts.pyx."""

from pympipool._core.future_requests cimport FutureRequests


cdef class Attempts(FutureRequests):
    pass
