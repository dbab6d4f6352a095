# cython: language_level=3
"""Files that are mapped into memory, without a descriptor that stays open: `mmap.mmap` keeps one for each mapping. And checksums.

The memory may be written; what is written stays in this process. A mapping lasts as long as there is a view of it, and the file
may be removed meanwhile.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint64_t

from pympipool._core.ring cimport pmp_map_file, pmp_unmap, raise_errno

cdef extern from "checksum.h" nogil:
    uint64_t pmp_checksum(uint64_t before, const void *data, size_t size_bytes)


def checksum(data, uint64_t before=0):
    """Return the checksum of some bytes that follow others.

    Args:
        before: The checksum of these.
    """
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            before = pmp_checksum(before, view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return before


@cython.no_gc_clear  # __dealloc__ needs the attributes
cdef class FileMapping:
    """The memory of a file, through the buffer protocol.

    Args:
        descriptor: Of the file; it may be closed afterwards.
        size_bytes: The size of the file, at least 1.

    Raises:
        OSError: There is no room for the mapping.
    """

    cdef void *address
    cdef size_t size_bytes

    def __cinit__(self, int descriptor, size_t size_bytes):
        cdef void *address
        cdef int code
        with nogil:
            code = pmp_map_file(&address, descriptor, size_bytes)
        if code < 0:
            raise_errno(code, f"no room to map a file of {size_bytes} bytes")
        self.address, self.size_bytes = address, size_bytes

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.address, self.size_bytes, 0, flags)

    def __dealloc__(self):
        if self.address != NULL:
            pmp_unmap(self.address, self.size_bytes)
