"""The workers of a dispatcher; see workers.pyx."""

from libc.stdint cimport uint64_t

from pympipool._core.attempts cimport Attempts
from pympipool._core.ring cimport Segment
from pympipool._core.types cimport Worker


cdef void close_worker(Worker *worker) noexcept


cdef class Workers(Attempts):
    cdef dict segments  # number of a worker -> Segment: keeps its memory mapped

    cdef int open_worker(self, uint64_t number, Segment link, bint reserved) except -1
    cdef dict copy_states(self)
    cdef void free_worker(self, Worker *worker) noexcept
