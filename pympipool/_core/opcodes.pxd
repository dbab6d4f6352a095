"""The memory of a pickle that is written opcode by opcode, and the opcodes."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from pympipool._core.state_lock cimport pmp_drop_known

cdef enum:
    ON_STACK_BYTES = 1024
    KNOWN_MAX = 64

# Opcodes of pickle, up to protocol 5.
cdef enum:
    MARK = 0x28
    EMPTY_TUPLE = 0x29
    STOP = 0x2E
    POP = 0x30
    BINBYTES = 0x42
    SHORT_BINBYTES = 0x43
    BINFLOAT = 0x47
    BININT = 0x4A
    BININT1 = 0x4B
    BININT2 = 0x4D
    NONE = 0x4E
    REDUCE = 0x52
    BINUNICODE = 0x58
    EMPTY_LIST = 0x5D
    APPENDS = 0x65
    BINGET = 0x68
    TUPLE = 0x74
    SETITEMS = 0x75
    EMPTY_DICT = 0x7D
    PROTO = 0x80
    EXT4 = 0x84
    TUPLE1 = 0x85
    TUPLE2 = 0x86
    TUPLE3 = 0x87
    NEWTRUE = 0x88
    NEWFALSE = 0x89
    LONG1 = 0x8A
    SHORT_BINUNICODE = 0x8C
    MEMOIZE = 0x94
    BYTEARRAY8 = 0x96
    NEXT_BUFFER = 0x97
    READONLY_BUFFER = 0x98

cdef struct Pickle:
    # A pickle that is being written.
    uint8_t *data
    size_t size_bytes
    size_t capacity_bytes
    Py_ssize_t items_left  # as many items may its containers still get, all together
    int known_count
    PyObject *known[KNOWN_MAX]  # what may occur again, in the order of the unpickler's memo
    uint8_t on_stack[ON_STACK_BYTES]


cdef inline void begin(Pickle *pickle, Py_ssize_t items_max) noexcept:
    pickle.data = pickle.on_stack
    pickle.size_bytes = 0
    pickle.capacity_bytes = ON_STACK_BYTES
    pickle.items_left = items_max
    pickle.known_count = 0


cdef inline void drop_known(Pickle *pickle) noexcept:
    """Drop the references to what was written. Nothing can be written afterwards."""
    for i in range(pickle.known_count):
        pmp_drop_known(pickle.known[i])
    pickle.known_count = 0


cdef inline void release(Pickle *pickle) noexcept:
    drop_known(pickle)
    if pickle.data != pickle.on_stack:
        free(pickle.data)


cdef inline int grow(Pickle *pickle, size_t size_bytes) except -1:
    cdef size_t capacity_bytes = size_bytes + size_bytes // 2
    cdef uint8_t *larger
    if pickle.data == pickle.on_stack:
        larger = <uint8_t *>malloc(capacity_bytes)
        if larger != NULL:
            memcpy(larger, pickle.on_stack, pickle.size_bytes)
    else:
        larger = <uint8_t *>realloc(pickle.data, capacity_bytes)
    if larger == NULL:
        raise MemoryError()
    pickle.data = larger
    pickle.capacity_bytes = capacity_bytes
    return 0


cdef inline uint8_t *room_for(Pickle *pickle, size_t size_bytes) except NULL:
    """Return where the next bytes of the pickle belong."""
    cdef size_t begin = pickle.size_bytes
    if begin + size_bytes > pickle.capacity_bytes:
        grow(pickle, begin + size_bytes)
    pickle.size_bytes = begin + size_bytes
    return pickle.data + begin


cdef inline int write_opcode(Pickle *pickle, uint8_t opcode) except -1:
    room_for(pickle, 1)[0] = opcode
    return 0


cdef inline int write_number(Pickle *pickle, uint8_t opcode, uint64_t number, int size_bytes) except -1:
    """Write an opcode, and a number in little-endian order."""
    cdef uint8_t *to = room_for(pickle, 1 + size_bytes)
    cdef int i
    to[0] = opcode
    for i in range(size_bytes):
        to[1 + i] = <uint8_t>(number >> (8 * i))
    return 0


cdef inline int write_data(Pickle *pickle, uint8_t short_opcode, uint8_t opcode, const void *data, size_t size_bytes) except -1:
    """Write bytes or text after their length."""
    if size_bytes < 1 << 8:
        write_number(pickle, short_opcode, size_bytes, 1)
    else:
        write_number(pickle, opcode, size_bytes, 4)
    memcpy(room_for(pickle, size_bytes), data, size_bytes)
    return 0


cdef inline int write_integer(Pickle *pickle, int64_t number) except -1:
    if 0 <= number < 1 << 8:
        write_number(pickle, BININT1, number, 1)
    elif 0 <= number < 1 << 16:
        write_number(pickle, BININT2, number, 2)
    elif -0x7FFFFFFF <= number <= 0x7FFFFFFF:
        write_number(pickle, BININT, number, 4)
    else:
        write_opcode(pickle, LONG1)
        write_number(pickle, sizeof(number), number, sizeof(number))
    return 0


cdef inline int write_float(Pickle *pickle, double number) except -1:
    """Write a float, which pickle has in big-endian order."""
    cdef uint64_t bits
    cdef uint8_t *to = room_for(pickle, 1 + sizeof(bits))
    cdef size_t i
    memcpy(&bits, &number, sizeof(bits))
    to[0] = BINFLOAT
    for i in range(sizeof(bits)):
        to[1 + i] = (bits >> (56 - 8 * i)) & 0xFF
    return 0


cdef inline double read_float(const uint8_t *data) noexcept:
    """Return a float that `write_float` has written, without its opcode."""
    cdef double number
    cdef uint64_t bits = 0
    cdef size_t i
    for i in range(sizeof(bits)):
        bits = bits << 8 | data[i]
    memcpy(&number, &bits, sizeof(bits))
    return number
