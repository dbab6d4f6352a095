# cython: language_level=3, boundscheck=False, cdivision=True
"""Joins the pickles of values to the pickle of their list, in C, without unpickling them.

    proto, a, stop ──┐
    proto, b, stop ──┴──► proto, list, mark, a, b, appends, stop

A pickle is a program for a stack machine that leaves one object on the stack. So the programs of the values can follow each
other in that of the list. What refers to the memo by number gets another number: the values before have entries, too.

A value whose program is long, or has an opcode that is not expected here, goes into the list as a call of `_unpack` with the
parts of the value as buffers: it is unpickled by itself. That takes two microseconds more.
"""

from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pympipool._core.opcodes cimport APPENDS, BINGET, EMPTY_LIST, MARK, MEMOIZE, NEXT_BUFFER, PROTO, REDUCE, STOP, TUPLE

cdef extern from *:
    """
    #define UNPACK "\\x8c\\x17pympipool.serialization\\x8c\\x07_unpack\\x93\\x94"

    /* How long an opcode is: the bytes of the opcode and its argument, or COUNTED and the bytes of the number of bytes that follow
     * it. 0: it is not expected in a value that Python's pickler has written with protocol 4 or 5. */
    #define COUNTED 16
    #define BARE(code)             [code] = 1
    #define ARGUMENT(code, bytes)  [code] = 1 + (bytes)
    #define STRING(code, bytes)    [code] = COUNTED + (bytes)
    static const unsigned char OPCODE_FORMS[256] = {
        BARE('('), BARE('0'), BARE('1'), BARE('2'), BARE('N'), BARE('R'), BARE('b'), BARE('a'), BARE('e'), BARE('s'),
        BARE('u'), BARE('t'), BARE(')'), BARE(']'), BARE('}'), BARE('d'), BARE('l'), BARE('o'), BARE(0x81), BARE(0x85),
        BARE(0x86), BARE(0x87), BARE(0x88), BARE(0x89), BARE(0x8f), BARE(0x90), BARE(0x91), BARE(0x92), BARE(0x93),
        BARE(0x94), BARE(0x97), BARE(0x98),
        ARGUMENT('K', 1), ARGUMENT('M', 2), ARGUMENT('J', 4), ARGUMENT('G', 8), ARGUMENT('h', 1), ARGUMENT('j', 4),
        ARGUMENT(0x82, 1), ARGUMENT(0x83, 2), ARGUMENT(0x84, 4), ARGUMENT(0x95, 8),
        STRING(0x8a, 1), STRING(0x8b, 4), STRING(0x8c, 1), STRING('X', 4), STRING(0x8d, 8), STRING('C', 1), STRING('B', 4),
        STRING(0x8e, 8), STRING(0x96, 8),
    };
    """
    const char *UNPACK
    size_t UNPACK_BYTES "(sizeof UNPACK - 1)"
    const uint8_t *OPCODE_FORMS
    enum:
        COUNTED

cdef enum:
    LONG_BINGET = 0x6A
    FRAME = 0x95
    LONG_BINGET_BYTES = 5
    VALUE_BYTES_MAX = 65536  # the dispatcher's lock is held meanwhile: 64 kB of short opcodes take 0.1 ms
    AROUND_BYTES = 8         # begin and end of the list


cdef size_t most_bytes(size_t pickle_bytes, uint32_t part_count) noexcept nogil:
    """Return the most bytes that a value takes in the list. An opcode of two bytes may become one of five."""
    cdef size_t itself = pickle_bytes // 2 * 5 + 1 if pickle_bytes <= VALUE_BYTES_MAX else 0
    return itself + UNPACK_BYTES + LONG_BINGET_BYTES + part_count + 3


cdef size_t bytes_around() noexcept nogil:
    """Return the bytes that the list takes besides its values."""
    return AROUND_BYTES


cdef void put(JoinedPickle *joined, const void *data, size_t size_bytes) noexcept nogil:
    memcpy(joined.data + joined.size_bytes, data, size_bytes)
    joined.size_bytes += size_bytes


cdef void put_opcode(JoinedPickle *joined, uint8_t opcode) noexcept nogil:
    joined.data[joined.size_bytes] = opcode
    joined.size_bytes += 1


cdef void put_get(JoinedPickle *joined, uint64_t entry) noexcept nogil:
    """Write the opcode that gets an entry of the memo."""
    cdef int i
    put_opcode(joined, LONG_BINGET)
    for i in range(4):
        put_opcode(joined, <uint8_t>(entry >> (8 * i)))


cdef void begin_list(JoinedPickle *joined, uint8_t *data) noexcept nogil:
    """Begin a list. data has room for `bytes_around`, and for `most_bytes` of each value."""
    joined.data = data
    joined.size_bytes = 0
    joined.memo_count = 0
    joined.unpack_at = -1
    put_opcode(joined, PROTO)
    put_opcode(joined, 5)
    put_opcode(joined, EMPTY_LIST)
    put_opcode(joined, MARK)


cdef void end_list(JoinedPickle *joined) noexcept nogil:
    put_opcode(joined, APPENDS)
    put_opcode(joined, STOP)


cdef uint64_t number_at(const uint8_t *at, size_t size_bytes) noexcept nogil:
    """Return the number of these bytes, the lowest first."""
    cdef uint64_t number = 0
    cdef size_t i
    for i in range(size_bytes):
        number |= <uint64_t>at[i] << (8 * i)
    return number


cdef size_t opcode_bytes(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """Return the bytes of an opcode with what belongs to it; 0 if it is not expected, or does not end before the end."""
    cdef size_t form = OPCODE_FORMS[at[0]]
    cdef size_t left = end - at
    cdef size_t head
    cdef uint64_t size_bytes
    if form < COUNTED:
        return form if form <= left else 0
    head = 1 + form - COUNTED
    if head > left:
        return 0
    size_bytes = number_at(at + 1, head - 1)
    return head + size_bytes if size_bytes <= left - head else 0


cdef bint put_program(JoinedPickle *joined, const uint8_t *at, const uint8_t *end, uint32_t buffer_count) noexcept nogil:
    """Write the opcodes of a value. Return False if one is not expected, or they take another number of buffers."""
    cdef uint64_t memo_begin = joined.memo_count
    cdef const uint8_t *run = at  # what was not copied yet
    cdef uint64_t entry
    cdef size_t size_bytes
    while at < end:
        size_bytes = opcode_bytes(at, end)
        if size_bytes == 0:
            return False
        if at[0] == MEMOIZE:
            joined.memo_count += 1
        elif at[0] == NEXT_BUFFER:
            if buffer_count == 0:
                return False
            buffer_count -= 1
        elif at[0] == FRAME or at[0] == BINGET or at[0] == LONG_BINGET:
            put(joined, run, at - run)
            run = at + size_bytes
            if at[0] != FRAME:
                entry = memo_begin + number_at(at + 1, size_bytes - 1)
                if entry > UINT32_MAX:
                    return False
                put_get(joined, entry)
        at += size_bytes
    put(joined, run, end - run)
    return buffer_count == 0


cdef void put_call_of_unpack(JoinedPickle *joined, uint32_t part_count) noexcept nogil:
    if joined.unpack_at < 0:
        put(joined, UNPACK, UNPACK_BYTES)
        joined.unpack_at = <int64_t>joined.memo_count
        joined.memo_count += 1
    else:
        put_get(joined, joined.unpack_at)
    put_opcode(joined, MARK)
    for _ in range(part_count):
        put_opcode(joined, NEXT_BUFFER)
    put_opcode(joined, TUPLE)
    put_opcode(joined, REDUCE)


cdef bint add_value(JoinedPickle *joined, const uint8_t *pickle, size_t size_bytes, uint32_t part_count) noexcept nogil:
    """Add a value to the list.

    Args:
        pickle: Its pickle, the first part of it.
        size_bytes: The size of the pickle.
        part_count: The number of its parts.

    Returns:
        True if all its parts are to be buffers of the list's pickle; False if only those behind its pickle are.
    """
    cdef size_t before_bytes = joined.size_bytes
    cdef uint64_t before_memo = joined.memo_count
    cdef bint is_short = 4 <= size_bytes <= VALUE_BYTES_MAX
    if is_short and pickle[0] == PROTO and 4 <= pickle[1] <= 5 and pickle[size_bytes - 1] == STOP:
        if put_program(joined, pickle + 2, pickle + size_bytes - 1, part_count - 1):
            return False
    joined.size_bytes = before_bytes
    joined.memo_count = before_memo
    put_call_of_unpack(joined, part_count)
    return True
