"""The workers of a dispatcher; see workers.pyx."""

from libc.stdint cimport uint64_t

from pympipool._core.attempts cimport Attempts
from pympipool._core.ring cimport Segment, pmp_notices
from pympipool._core.shared_memory cimport Announcer
from pympipool._core.types cimport Core, Worker


cdef void close_worker(Worker *worker) noexcept


cdef class Notices(Announcer):
    cdef Core *core          # NULL: the dispatcher is gone
    cdef pmp_notices *board  # in the segment with the master's doorbells


cdef class Workers(Attempts):
    cdef dict segments  # number of a worker -> Segment: keeps its memory mapped

    cdef int open_worker(self, uint64_t number, Segment link, bint reserved) except -1
    cdef dict copy_states(self)
    cdef void free_worker(self, Worker *worker) noexcept
