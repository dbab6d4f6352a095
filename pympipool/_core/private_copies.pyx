# cython: language_level=3
"""Copies of shared memory that a call may write: mapped copy-on-write, or copied at once where much of them is used.

    own_copy        of what many calls get: it is copied where that takes less time
    private_part    of what all ranks of a worker get: it is copied where most of it is written, and takes memory anyway
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from pympipool._core.ring cimport (
    PMP_COPY_ON_WRITE, Buffer, pmp_map, pmp_pages_used, pmp_read, pmp_shm, pmp_shm_attach_private, pmp_shm_close_descriptor,
    pmp_unmap, raise_errno,
)
from pympipool._core.shared_memory cimport Mapping

from pympipool._core.ring import new_buffer

cdef enum:
    SAMPLED = 64  # pages that are looked at when a call ends
    PROBED = 32  # after so many copies, the next call shows if they are still needed


cdef class Usage:
    """How much of the views of some shared data was used."""

    cdef unsigned long views
    cdef bint is_high
    cdef bint of_writing  # only pages that were written count

    def __init__(self, bint of_writing=False):
        self.of_writing = of_writing

    cdef bint copies_next(self) noexcept:
        """Return True if the next view is to be copied at once; sometimes it is not, to see if that is still needed."""
        self.views += 1
        return self.is_high and self.views % PROBED != 0


@cython.no_gc_clear  # __dealloc__ needs the attribute
cdef class PrivateMapping:
    """Memory of shared data that one call may write."""

    cdef void *address
    cdef size_t size_bytes
    cdef Usage usage

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.address, self.size_bytes, 0, flags)

    cdef bint is_much_used(self) noexcept:
        """Return True if more than a quarter of the pages were used, or written, by a sample of them."""
        return pmp_pages_used(self.address, self.size_bytes, SAMPLED, self.usage.of_writing) * 4 > SAMPLED

    def __dealloc__(self):
        if self.address != NULL:
            self.usage.is_high = self.is_much_used()
            pmp_unmap(self.address, self.size_bytes)


def own_copy(Mapping mapping not None, Usage usage not None):
    """Return a view of the only part of shared data that may be written. What is written is in this view alone.

    Its pages are copied when they are written, which is cheap for few pages. All at once are cheaper if many are used.

    Args:
        mapping: The memory of the data; its descriptor is open.
        usage: How much of such views was used.

    Raises:
        MemoryError: There is no memory for a copy.
        OSError: There is no room for the mapping, or the descriptor is closed.
    """
    (part,) = mapping.parts()
    cdef size_t begin = mapping.first_part() - <char *>mapping.shm.address
    cdef PrivateMapping private = PrivateMapping.__new__(PrivateMapping)
    cdef Buffer buffer
    if usage.copies_next():
        buffer = new_buffer(part.nbytes)
        with nogil:
            memcpy(buffer.data, <char *>mapping.shm.address + begin, buffer.size)
        return memoryview(buffer)
    private.usage = usage
    code = pmp_map(&private.address, mapping.shm.descriptor, mapping.shm.size_bytes, PMP_COPY_ON_WRITE)
    if code < 0:
        raise_errno(code, f"no room to map {mapping.shm.size_bytes} bytes of shared data")
    private.size_bytes = mapping.shm.size_bytes
    return memoryview(private)[begin:begin + part.nbytes]


def private_part(int descriptor, uint64_t size_bytes, Usage usage not None):
    """Return memory with the contents of a segment that the caller may write: no other process sees that.

    Args:
        descriptor: Of the segment. It is not used any more afterwards.
        size_bytes: Of its contents.
        usage: How much of such memory was written.

    Raises:
        MemoryError: There is no memory for a copy.
        OSError: The descriptor is none of a segment of this size.
    """
    cdef pmp_shm segment
    cdef PrivateMapping private
    if usage.copies_next() or pmp_shm_attach_private(&segment, descriptor) < 0:  # as where there is no /proc
        return memoryview(copy_of(descriptor, size_bytes))
    pmp_shm_close_descriptor(&segment)
    private = PrivateMapping.__new__(PrivateMapping)
    private.address, private.size_bytes, private.usage = segment.address, segment.size_bytes, usage
    if size_bytes > segment.size_bytes:
        raise OSError(f"the segment has {segment.size_bytes} bytes, not {size_bytes}")
    return memoryview(private)[:size_bytes]


cdef Buffer copy_of(int descriptor, uint64_t size_bytes):
    """Read the contents of a segment."""
    cdef Buffer buffer = new_buffer(size_bytes)
    cdef uint64_t offset = 0
    cdef int64_t count = 1
    while offset < size_bytes and count > 0:
        with nogil:
            count = pmp_read(descriptor, <char *>buffer.data + offset, size_bytes - offset, offset)
        if count > 0:
            offset += count
    if offset < size_bytes:
        raise OSError(f"the segment has {offset} bytes, not {size_bytes}")
    return buffer
