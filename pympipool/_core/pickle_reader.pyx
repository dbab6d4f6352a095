# cython: language_level=3, cdivision=True
"""Unpickle None, a number or a short text, as `pickle_writer.pyx` has written it, without an unpickler.

An unpickler has to be created, with a stack and a memo, and a result has to be made a bytes object for it first.
"""

from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from pympipool._core.opcodes cimport (
    BINFLOAT, BININT, BININT1, BININT2, LONG1, NEWFALSE, NEWTRUE, NONE, PROTO, SHORT_BINUNICODE, STOP, read_float,
)

cdef enum:
    BEFORE = 2  # PROTO and its number, bytes


cdef object read_scalar(const uint8_t *pickle, size_t size):
    """Return the value of a pickle; `...` for other values, which are left to pickle."""
    cdef const uint8_t *data = pickle + BEFORE + 1
    cdef uint64_t bits = 0
    cdef size_t length
    cdef int i
    if size < BEFORE + 2 or pickle[0] != PROTO or pickle[size - 1] != STOP:
        return ...
    length = size - BEFORE - 2
    opcode = pickle[BEFORE]
    if length == 0:
        if opcode == NONE:
            return None
        if opcode == NEWTRUE:
            return True
        if opcode == NEWFALSE:
            return False
    elif opcode == BININT1 and length == 1:
        return <int>data[0]
    elif opcode == BININT2 and length == 2:
        return <int>(data[0] | data[1] << 8)
    elif opcode == BININT and length == 4:
        for i in range(4):
            bits |= <uint64_t>data[i] << (8 * i)
        return <int32_t>bits
    elif opcode == BINFLOAT and length == 8:
        return read_float(data)
    elif opcode == SHORT_BINUNICODE and length == 1 + <size_t>data[0]:
        return PyUnicode_DecodeUTF8(<const char *>data + 1, data[0], "surrogatepass")
    elif opcode == LONG1 and length == 9 and data[0] == 8:
        for i in range(8):
            bits |= <uint64_t>data[1 + i] << (8 * i)
        return <int64_t>bits
    return ...
