# cython: language_level=3
"""Digests of memory, by which large data are recognized that have not changed.

csrc/digest.h says how sure they are.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint64_t, uintptr_t

cdef extern from "digest.h" nogil:
    enum:
        PMP_DIGEST_STATES
    void pmp_digest(const void *memory, size_t size_bytes, uint64_t *states)


def digest(data):
    """Return the digest of an object's memory. Other threads run meanwhile.

    Raises:
        BufferError: The memory is not contiguous.

    Examples:
        >>> digest(b"abc") == digest(bytearray(b"abc"))
        True
        >>> digest(bytes(10**6)) == digest(bytes(10**6 - 1) + b"x")
        False
    """
    cdef Py_buffer view
    cdef uint64_t states[PMP_DIGEST_STATES]
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            pmp_digest(view.buf, view.len, states)
    finally:
        PyBuffer_Release(&view)
    return (<char *>states)[:sizeof(states)]


def address_of(data):
    """Return the address of an object's memory."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    address = <uintptr_t>view.buf
    PyBuffer_Release(&view)
    return address
