# cython: language_level=3
"""Copies of shared memory that a call may write: mapped copy-on-write, or copied at once where much of them is used.

    own_copy        of what many calls get: it is copied where that takes less time
    private_part    of what all ranks of a worker get: it is copied where most of it is written, and takes memory anyway
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport errno
from libc.stdint cimport uint64_t, uintptr_t
from libc.string cimport memcpy

from pympipool._core.ring cimport (
    Buffer, pmp_shm, pmp_shm_attach_private, pmp_shm_close_descriptor, raise_errno,
)
from pympipool._core.shared_memory cimport Mapping

import os

from pympipool._core.ring import new_buffer

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t pread(int descriptor, void *to, size_t size, long offset)
    int close_file "close"(int descriptor)

cdef extern from "<fcntl.h>" nogil:
    int O_RDONLY, O_CLOEXEC
    int open_file "open"(const char *path, int flags)

cdef extern from "<sys/mman.h>" nogil:
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_NORESERVE
    void *MAP_FAILED
    void *mmap(void *address, size_t size, int protection, int flags, int descriptor, long offset)
    int munmap(void *address, size_t size)

cdef enum:
    SAMPLED = 64  # pages that are looked at when a call ends
    PROBED = 32  # after so many copies, the next call shows if they are still needed

cdef uint64_t os_page_bytes = os.sysconf("SC_PAGESIZE")


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
        cdef uint64_t page = os_page_bytes, pages = self.size_bytes // page, entry
        cdef int used = 0
        cdef int pagemap = open_file("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)
        if pagemap < 0:  # not on this system
            return False
        for i in range(SAMPLED):
            number = <uintptr_t>self.address // page + pages * i // SAMPLED
            if pread(pagemap, &entry, sizeof(entry), number * sizeof(entry)) == sizeof(entry) and entry >> 63 and (
                    not self.usage.of_writing or not entry >> 61 & 1):
                used += 1
        close_file(pagemap)
        return used * 4 > SAMPLED

    def __dealloc__(self):
        if self.address != NULL:
            self.usage.is_high = self.is_much_used()
            munmap(self.address, self.size_bytes)


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
    private.address = mmap(NULL, mapping.shm.size_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_NORESERVE, mapping.shm.descriptor, 0)
    if private.address == MAP_FAILED:
        private.address = NULL
        raise_errno(-errno, f"no room to map {mapping.shm.size_bytes} bytes of shared data")
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
    cdef Py_ssize_t count = 1
    while offset < size_bytes and count > 0:
        with nogil:
            count = pread(descriptor, <char *>buffer.data + offset, size_bytes - offset, offset)
        if count > 0:
            offset += count
    if offset < size_bytes:
        raise OSError(f"the segment has {offset} bytes, not {size_bytes}")
    return buffer
