"""Records of calls; see trace_buffer.pyx."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum Outcome:
    UNFINISHED
    RETURNED
    RAISED
    CANCELLED
    FAILED  # without an answer: its worker died, an input failed, it could not be pickled


cdef struct Times:
    # What a call carries along until it ends. Clock: pmp_now_ns.
    int64_t submitted_ns  # also names the call: no two are alike; 0: the call is not traced
    int64_t ready_ns      # its inputs were there, and it was pickled
    int64_t sent_ns
    uint32_t name         # of the function, see Recorder
    uint32_t size         # calls that it stands for


cdef struct Record:
    # As it is handed to Python: RECORD_FORMAT.
    Times times
    int64_t started_ns    # by the worker's clock; 0: it was not, or nobody knows when
    int64_t ended_ns
    int64_t received_ns   # when the master knew of its end
    uint64_t worker       # 0: none
    uint32_t outcome
    uint32_t stamp_count  # further times that its worker told, in the order of the records


cdef struct Chunk


cdef struct Recording:
    Chunk *first
    Chunk *last
    uint64_t count
    uint64_t limit
    uint64_t dropped      # records beyond the limit, or without memory
    int64_t *stamps
    size_t stamp_count
    size_t stamp_room


cdef int64_t unique_now_ns() noexcept
cdef void record(Recording *recording, const Record *what, const int64_t *stamps) noexcept nogil


cdef class Recorder:
    cdef Recording recording
    cdef dict numbers
    cdef object last_name     # it is nearly always the same as before
    cdef uint32_t last_number
    cdef readonly dict workers
    cdef readonly dict inputs

    cdef uint32_t index_of_name(self, object name) except? 0
