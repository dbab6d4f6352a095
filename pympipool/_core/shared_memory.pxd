"""Memory of shared data; see shared_memory.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from pympipool._core.ring cimport pmp_shm


cdef struct Header:
    uint8_t mark[8]
    uint32_t released
    uint32_t part_count
    uint32_t is_writable
    uint32_t reserved
    # uint64_t sizes[part_count] follow


cdef class Announcer:
    cdef void announce(self) noexcept


cdef class Mapping:
    cdef pmp_shm shm
    cdef uint8_t *populated  # of each page: 1 if it is mapped; NULL: unknown

    cdef Header *header(self) except NULL
    cdef char *first_part(self) noexcept
    cdef int allow_writing(self) except -1


cdef class Owner:
    cdef readonly Mapping mapping
    cdef tuple announcers  # not a list: the garbage collector would empty it before __dealloc__
    cdef int64_t pid
    cdef readonly bint handed_over  # another process owns the data
