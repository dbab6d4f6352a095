"""The pickles of values become that of their list; see joined_pickles.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef struct JoinedPickle:
    # The pickle of a list while it is written.
    uint8_t *data
    size_t size_bytes
    uint64_t memo_count  # entries that the unpickler's memo has then
    int64_t unpack_at    # the entry that is `_unpack`; -1: none yet


cdef size_t most_bytes(size_t pickle_bytes, uint32_t part_count) noexcept nogil
cdef size_t bytes_around() noexcept nogil
cdef void begin_list(JoinedPickle *joined, uint8_t *data) noexcept nogil
cdef bint add_value(JoinedPickle *joined, const uint8_t *pickle, size_t size_bytes, uint32_t part_count) noexcept nogil
cdef void end_list(JoinedPickle *joined) noexcept nogil
