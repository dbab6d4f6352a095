"""Recognize plain values, and what is none: arrays in shared memory; see plain_values.pyx."""


cdef int add_shared_range(const void *begin, size_t size_bytes, bytes key) except -1
cdef void remove_shared_range(const void *begin) noexcept
