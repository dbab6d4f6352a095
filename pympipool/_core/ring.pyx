# cython: language_level=3
"""csrc as Python objects: segments, buffers, and the parts of messages.

    master                                                     worker
    Segment, link_segment() -- descriptors over a socket -->   Segment.attach()
    dispatcher.pyx          <-- rings and doorbells in them --> channel.pyx

A message is sent as parts (objects with the buffer protocol) and received as parts: bytes, or a private, writable
`Buffer` for each part that is large or out of band.
"""

from cpython.buffer cimport (
    PyBUF_CONTIG_RO, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

import os

CALL = PMP_CALL
FUNCTION = PMP_FUNCTION
END = PMP_END
RESULT = PMP_RESULT
ERROR = PMP_ERROR
RECALLED = PMP_RECALLED
TRACED = PMP_TRACED
CACHED = PMP_CACHED

RANKS_MAX = PMP_RANKS_MAX
"""Largest number of ranks that a link may have."""

PARTS_MAX = PMP_PARTS_MAX
"""Largest number of parts of one message, the pickle included."""

FUNCTION_CACHE_SIZE = PMP_FUNCTION_CACHE_SIZE
"""Number of functions that a worker keeps: function number n lies in slot n modulo FUNCTION_CACHE_SIZE."""

PREFETCH_NS = PMP_PREFETCH_NS
"""Estimated run time of the calls that are sent ahead to a worker, ns."""

OVERDUE_NS = PMP_OVERDUE_NS
"""Time that a call may run, at least, before no other call should wait behind it, ns."""

RING_CAPACITY = 1 << 19
"""Bytes of each of the two rings of a link. Measured: larger rings are not faster, smaller ones are slower."""

RANKS_RING_CAPACITY = 1 << 20
"""The same for a link of several ranks. Where they need more cores than there are, sender and receiver alternate once for what a
ring holds. Measured with 1 and 3 MB to 2 ranks and back, on 2 cores that others need too: 1.5 times as fast as with half of it."""

SPIN_NS = 100_000  # longest spinning before a sleep; about the cost of a round trip in which both sides sleep


cdef enum:
    SHORT_SPIN_NS = 6_000  # about the cost of sleeping and waking on one core


cdef void init_short_spinner(pmp_spinner *spinner, int64_t limit_ns) noexcept nogil:
    """Initialize a spinner for waits in which the one that is waited for needs this core: it yields at once, and not for long."""
    pmp_spinner_init(spinner, min(<int64_t>SHORT_SPIN_NS, limit_ns))
    spinner.min_ns = spinner.max_ns
    spinner.polls_with_pause = 0


cdef int raise_errno(int code, str what) except -1:
    """Raise the OSError for a negative errno from csrc."""
    raise OSError(-code, f"{what}: {os.strerror(-code)}")


cdef int usable_cores() except -1:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


cdef class Segment:
    """Memory that two processes of one host share.

    Args:
        size_bytes: The smallest size; rounded up to whole pages.
        posix: Use POSIX shared memory (limited by /dev/shm) even where there is memfd.

    Raises:
        OSError: ENOSPC or ENOMEM if there is not enough memory for all pages of the segment.
    """

    def __cinit__(self, Py_ssize_t size_bytes, *, bint posix=False):
        self.shm.descriptor = -1
        if size_bytes == -1:
            return
        if size_bytes < 1:
            raise ValueError(f"size_bytes is {size_bytes}; it must be at least 1")
        code = pmp_shm_create(&self.shm, size_bytes, PMP_SHM_POSIX if posix else PMP_SHM_BEST)
        if code < 0:
            raise_errno(code, f"no shared memory of {size_bytes} bytes")

    @staticmethod
    def attach(int descriptor):
        """Map the segment of a descriptor. The segment owns the descriptor afterwards."""
        cdef Segment segment = Segment.__new__(Segment, -1)
        code = pmp_shm_attach(&segment.shm, descriptor)
        if code < 0:
            raise_errno(code, f"descriptor {descriptor} is no segment")
        return segment

    @property
    def size_bytes(self):
        return self.shm.size_bytes

    def fileno(self):
        return self.shm.descriptor

    def close_descriptor(self):
        """Close the descriptor; the memory stays mapped."""
        pmp_shm_close_descriptor(&self.shm)

    def __dealloc__(self):
        pmp_shm_close(&self.shm)

    cdef void *memory(self) except NULL:
        if self.shm.address == NULL:
            raise ValueError("the segment is closed")
        return self.shm.address


def default_capacity(uint32_t ranks):
    """Return the bytes of each ring of a link with so many ranks."""
    return RING_CAPACITY if ranks <= 1 else RANKS_RING_CAPACITY


def link_segment(capacity=None, uint32_t ranks=1):
    """Return a new segment that holds a link: a ring for calls, and a ring for the results of each rank.

    Args:
        capacity: Bytes of each ring, a power of two. Default: `default_capacity`.
        ranks: The number of ranks.
    """
    if capacity is None:
        capacity = default_capacity(ranks)
    if not 1 <= ranks <= PMP_RANKS_MAX:
        raise ValueError(f"ranks is {ranks}; it must be between 1 and {PMP_RANKS_MAX}")
    cdef Segment segment = Segment(pmp_link_footprint(capacity, ranks))
    code = pmp_link_init(segment.memory(), segment.shm.size_bytes, capacity, ranks)
    if code < 0:
        raise_errno(code, f"no link with rings of {capacity} bytes")
    return segment


def doorbell_segment():
    """Return a new segment for what all workers of a master see.

    It has the master's two doorbells, its notices, and what is new of each worker; and for the relay a doorbell, and what is new
    for each of the workers behind it that share this doorbell.
    """
    return Segment(3 * sizeof(pmp_doorbell) + sizeof(pmp_notices) + 2 * sizeof(pmp_news))


cdef pmp_notices *notices_in(Segment doorbells) except NULL:
    """Return the notices in the segment with the master's doorbells."""
    return <pmp_notices *>(<pmp_doorbell *>doorbells.memory() + 2)


cdef pmp_news *news_in(Segment doorbells) except NULL:
    """Return the news of all workers in the segment with the master's doorbells."""
    return <pmp_news *>(notices_in(doorbells) + 1)


cdef pmp_doorbell *relay_bell_in(Segment doorbells) except NULL:
    """Return the relay's doorbell in the segment with those of the master."""
    return <pmp_doorbell *>(news_in(doorbells) + 1)


cdef pmp_news *relay_news_in(Segment doorbells) except NULL:
    """Return the relay's news: what the master has done on links that share the relay's doorbell."""
    return <pmp_news *>(relay_bell_in(doorbells) + 1)


def start_watchdog(int descriptor):
    """Start the thread that ends this process (SIGKILL) as soon as the peer of this socket is gone."""
    code = pmp_watchdog_start(descriptor)
    if code < 0:
        raise_errno(code, "the watchdog did not start")


def end_with_parent(int parent_pid):
    """Have this forked process killed when its parent ends; raise ProcessLookupError if that has happened already."""
    code = pmp_end_with_parent(parent_pid)
    if code < 0:
        raise_errno(code, "the parent has ended")


cdef pmp_buffer_pool *buffer_pool = pmp_buffer_pool_create()


cdef pmp_buffer_pool *process_buffer_pool() noexcept nogil:
    """Return the buffer pool that all channels of this process share. It keeps the memory of large messages warm."""
    return buffer_pool


cdef class Buffer:
    def __dealloc__(self):
        pmp_buffer_free(self.data)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 0, flags)

    def __len__(self):
        return self.size


def new_buffer(Py_ssize_t size_bytes):
    """Return a Buffer with undefined contents, in warm memory if possible.

    Raises:
        MemoryError: There is no memory for it.
    """
    cdef Buffer buffer = Buffer.__new__(Buffer)
    buffer.size = size_bytes
    buffer.data = pmp_buffer_new(buffer_pool, size_bytes)
    if buffer.data == NULL:
        raise MemoryError(f"no {size_bytes} bytes for a buffer")
    return buffer


def retain_malloc_memory():
    """Make malloc keep freed memory for the next message. Only for workers, since it affects the whole process."""
    pmp_malloc_retain()


cdef object part_to_object(pmp_part *part, bint owned, bint as_bytes):
    """Return a received part as a Python object.

    An owned part becomes a Buffer that takes the part's memory over. Any other part is copied, into bytes or a Buffer.
    """
    cdef Buffer buffer
    if as_bytes and not owned:
        return PyBytes_FromStringAndSize(<char *>part.data, part.size_bytes)
    buffer = Buffer.__new__(Buffer)
    buffer.size = part.size_bytes
    if owned:
        buffer.data = part.data
        part.data = NULL
        return buffer
    buffer.data = pmp_buffer_new(buffer_pool, part.size_bytes)
    if buffer.data == NULL:
        raise MemoryError(f"no {part.size_bytes} bytes for a buffer")
    memcpy(buffer.data, part.data, part.size_bytes)
    return buffer


cdef uint64_t message_bytes(pmp_receiver *receiver) noexcept nogil:
    """Return the size of all parts of the message that was received."""
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(receiver.head.part_count):
        total += receiver.parts[i].size_bytes & ~PMP_STORED
    return total


cdef class Parts:
    """The buffers of a message's parts, exported until this object is deallocated.

    Raises:
        ValueError: There is no part, or more than PARTS_MAX.
        TypeError, BufferError: A part has no contiguous memory.
    """

    def __cinit__(self, parts):
        cdef Py_ssize_t count = len(parts)
        if not 1 <= count <= PMP_PARTS_MAX:
            raise ValueError(f"a message of {count} parts; 1 to {PMP_PARTS_MAX} can be sent")
        self.views = <Py_buffer *>malloc(count * sizeof(Py_buffer) + (count + 1) * sizeof(pmp_part))
        if self.views == NULL:
            raise MemoryError()
        self.parts = <pmp_part *>(self.views + count)
        for part in parts:
            PyObject_GetBuffer(part, &self.views[self.count], PyBUF_CONTIG_RO)
            self.view_count += 1
            self.append(self.views[self.count].buf, self.views[self.count].len)

    cdef void append(self, void *data, uint64_t size_bytes) noexcept:
        self.parts[self.count].data = data
        self.parts[self.count].size_bytes = size_bytes
        self.count += 1

    def __dealloc__(self):
        for i in range(self.view_count):
            PyBuffer_Release(&self.views[i])
        free(self.views)
