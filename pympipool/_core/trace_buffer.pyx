# cython: language_level=3
"""The trace buffer: a record of fixed size for each traced call that has ended, in memory of its own.

    FutureCore, Call ── Times ─► record() ─► chunks of records ─► Recorder.records() ─► pympipool.diagnostics.tracing
        (as they pass by)        (at the end of the call)          (at the end of the trace)

A dispatcher with an active trace points to a `Recording` and writes the records of its calls under its lock, without the
GIL. Without a trace that pointer is NULL, and checking it is all that a call costs.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from pympipool._core.mailbox cimport lock_state, unlock_state
from pympipool._core.ring cimport pmp_now_ns

RECORD_FORMAT = "=qqqIIqqqQQQHHI"
"""Format of a record, for `struct`.

The fields are: submitted, ready, sent, name, size, started, ended, received, worker, argument bytes, result bytes, outcome,
import count, stamp count.
"""

OUTCOMES = ("unfinished", "returned", "raised", "cancelled", "failed")

cdef enum:
    CHUNK_RECORDS = 8192

cdef struct Chunk:
    Chunk *next
    Py_ssize_t count
    Record records[CHUNK_RECORDS]


cdef int64_t latest_ns = 0


cdef int64_t unique_now_ns() noexcept:
    """Return the time, made unique in this process, so that it can identify a call. The caller holds the state lock."""
    global latest_ns
    latest_ns = max(pmp_now_ns(), latest_ns + 1)
    return latest_ns


cdef Chunk *new_chunk() noexcept nogil:
    cdef Chunk *chunk = <Chunk *>malloc(sizeof(Chunk))
    if chunk != NULL:
        chunk.next = NULL
        chunk.count = 0
    return chunk


cdef bint append_stamps(Recording *recording, const int64_t *stamps, size_t count) noexcept nogil:
    cdef size_t room = recording.stamp_room
    cdef void *grown
    if recording.stamp_count + count > room:
        room = 2 * (recording.stamp_count + count)
        grown = realloc(recording.stamps, room * sizeof(int64_t))
        if grown == NULL:
            return False
        recording.stamps = <int64_t *>grown
        recording.stamp_room = room
    memcpy(recording.stamps + recording.stamp_count, stamps, count * sizeof(int64_t))
    recording.stamp_count += count
    return True


cdef void record(Recording *recording, const Record *what, const int64_t *stamps) noexcept nogil:
    """Store a record with its what.stamp_count stamps; beyond the limit only count it. The caller holds the lock.

    A call that was submitted before belongs to an earlier trace, which has ended without it.
    """
    cdef Chunk *chunk = recording.last
    if what.times.submitted_ns < recording.since_ns:
        return
    if recording.count >= recording.limit:
        recording.dropped += 1
        return
    if chunk == NULL or chunk.count == CHUNK_RECORDS:
        chunk = new_chunk()
        if chunk == NULL:
            recording.dropped += 1
            return
        if recording.last == NULL:
            recording.first = chunk
        else:
            recording.last.next = chunk
        recording.last = chunk
    chunk.records[chunk.count] = what[0]
    if what.stamp_count != 0 and not append_stamps(recording, stamps, what.stamp_count):
        chunk.records[chunk.count].stamp_count = 0
    chunk.count += 1
    recording.count += 1


cdef class Recorder:
    """The records of one dispatcher.

    Args:
        limit: Largest number of calls that are recorded. Further calls are only counted.

    Attributes:
        workers: Metadata of each worker that served during the trace, by its number.
        inputs: For the id of a call (`Times.submitted_ns`), the ids of the calls that it waits for.
    """

    def __cinit__(self, uint64_t limit):
        self.recording.limit = limit
        lock_state()
        self.recording.since_ns = unique_now_ns()
        unlock_state()
        self.numbers = {}
        self.workers = {}
        self.inputs = {}
        self.recording.first = self.recording.last = new_chunk()

    def __dealloc__(self):
        cdef Chunk *chunk = self.recording.first
        cdef Chunk *next
        while chunk != NULL:
            next = chunk.next
            free(chunk)
            chunk = next
        free(self.recording.stamps)

    cdef uint32_t index_of_name(self, object name) except? 0:
        """Return the index of a function's name; add the name if it is new."""
        if name is not self.last_name or not self.numbers:
            self.last_number = self.numbers.setdefault(name, len(self.numbers))
            self.last_name = name
        return self.last_number

    @property
    def names(self):
        """Names of functions, by their index."""
        return list(self.numbers)

    @property
    def count(self):
        """Number of calls that were recorded."""
        return self.recording.count

    @property
    def dropped(self):
        """Number of calls that were not recorded."""
        return self.recording.dropped

    def records(self):
        """Return all records in RECORD_FORMAT. Call it only when no dispatcher writes to this recorder any more."""
        cdef Chunk *chunk = self.recording.first
        found = []
        while chunk != NULL:
            found.append(PyBytes_FromStringAndSize(<char *>chunk.records, chunk.count * sizeof(Record)))
            chunk = chunk.next
        return b"".join(found)

    def stamps(self):
        """Return all stamps (int64, ns) in the order of the records."""
        return PyBytes_FromStringAndSize(
            <char *>self.recording.stamps, self.recording.stamp_count * sizeof(int64_t))
