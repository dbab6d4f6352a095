"""The class of prefetch.pyx."""

from libc.stdint cimport int64_t, uint64_t


cdef struct SentCall:
    uint64_t id
    uint64_t function
    int64_t estimate_ns
    int64_t size_bytes  # with the functions that were sent for it


cdef struct RunTime:
    uint64_t function
    int64_t ns


cdef class Prefetch:
    cdef SentCall *calls             # a circle
    cdef int first
    cdef readonly int count
    cdef int64_t in_flight_ns        # estimate for all of them
    cdef int64_t prefetched_bytes
    cdef int64_t function_bytes      # of the functions that were sent before the next call
    cdef int64_t progress_ns         # when the running call became the first in flight
    cdef RunTime *run_times          # of functions, by the last digits of their numbers
    cdef public bint takes_no_more   # the worker is about to exit by itself
    cdef public bint recall_requested

    cdef SentCall *call(self, int number) noexcept
    cdef int64_t estimate(self, uint64_t function) noexcept
    cdef void update_estimate(self, uint64_t function, int64_t run_ns) noexcept
    cpdef bint has_room(self) noexcept
    cpdef bint may_send(self, int kind, uint64_t function, int64_t size_bytes) noexcept
    cpdef sent(self, int kind, uint64_t id, uint64_t function, int64_t size_bytes)
    cdef bint is_first(self, uint64_t id) noexcept
    cpdef ended(self, uint64_t id, int64_t run_ns)
    cpdef int64_t recall_due_ns(self, bint is_one_held) noexcept
