"""Records of traced calls; see trace_buffer.pyx."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cdef enum Outcome:
    UNFINISHED
    RETURNED
    RAISED
    CANCELLED
    FAILED  # without an answer: the worker died, an input failed, or the call could not be pickled


cdef struct Times:
    # The times of a call that has not ended. Clock: pmp_now_ns.
    int64_t submitted_ns  # unique, so it also identifies the call; 0: the call is not traced
    int64_t ready_ns      # all inputs had arrived and the call was pickled
    int64_t sent_ns
    uint32_t name         # index of the function's name, see Recorder
    uint32_t size         # number of calls that it stands for


cdef struct Record:
    # Python reads it with RECORD_FORMAT.
    Times times
    int64_t started_ns    # by the worker's clock; 0: the call did not start, or the time is unknown
    int64_t ended_ns      # by the worker's clock
    int64_t received_ns   # when the master received the result, or ended the call
    uint64_t worker       # 0: none
    uint64_t argument_bytes  # size of the pickled call: arguments, and the function unless it was sent before
    uint64_t result_bytes    # size of the pickled result
    uint16_t outcome
    uint16_t import_count    # number of packages that were imported; the stamps begin with IMPORT_STAMPS for each
    uint32_t stamp_count     # number of further numbers from the worker; these are stored in the order of the records


cpdef enum:
    IMPORT_STAMPS = 5  # the time of a package, and 32 bytes of its name


cdef struct Chunk


cdef struct Recording:
    Chunk *first
    Chunk *last
    int64_t since_ns
    uint64_t count
    uint64_t limit
    uint64_t dropped      # number of records beyond the limit, or for which there was no memory
    int64_t *stamps
    size_t stamp_count
    size_t stamp_room


cdef int64_t unique_now_ns() noexcept
cdef void record(Recording *recording, const Record *what, const int64_t *stamps) noexcept nogil


cdef class Recorder:
    cdef Recording recording
    cdef dict numbers
    cdef object last_name     # cached: nearly always the next name is the same
    cdef uint32_t last_number
    cdef readonly dict workers
    cdef readonly dict inputs

    cdef uint32_t index_of_name(self, object name) except? 0
