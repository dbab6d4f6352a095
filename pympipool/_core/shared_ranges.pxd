"""Know which memory of this process belongs to shared arrays; see shared_ranges.pyx."""


from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    KEY_BYTES = 16  # of shared data: see `serialization/shared.py`


cdef bint find_place(array, uint8_t *key, uint64_t *position) noexcept
cdef bint is_in_shared_array(array) noexcept
cdef int add_shared_range(const void *begin, size_t size_bytes, bytes key) except -1
cdef void remove_shared_range(const void *begin) noexcept
