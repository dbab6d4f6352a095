# cython: language_level=3, cdivision=True
"""Unpickle small values that consist of None, numbers, texts, tuples, lists and dicts, without an unpickler.

    opcodes ─► values on a stack ─► tuple, list or dict of the last ones ─► ... ─► the value

An unpickler has to be created, with a stack and a memo, and takes longer than the value itself. A pickle with any other opcode, or
one that is not small, is left to it: nothing has happened then.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_SetItem
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from pympipool._core.opcodes cimport (
    APPENDS, BINFLOAT, BININT, BININT1, BININT2, EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE, LONG1, MARK, MEMOIZE, NEWFALSE, NEWTRUE,
    NONE, PROTO, SETITEMS, SHORT_BINUNICODE, STOP, TUPLE, TUPLE1, TUPLE3, read_float,
)

cdef enum:
    BEFORE = 2        # PROTO and its number, bytes
    VALUES_MAX = 64   # on the stack at a time
    MARKS_MAX = 8

cdef struct Stack:
    PyObject *values[VALUES_MAX]  # each with a reference
    int count
    int marks[MARKS_MAX]          # the number of values at each mark
    int mark_count


cdef object read_scalar(const uint8_t *at, size_t left, size_t *used):
    """Return the value of the opcode that begins here, and the bytes that it takes; `...` for other values."""
    cdef const uint8_t *data = at + 1
    cdef uint64_t bits = 0
    cdef int i
    cdef uint8_t opcode = at[0]
    used[0] = 2
    if opcode == BININT1 and left >= 2:
        return <int>data[0]
    used[0] = 1
    if opcode == NONE:
        return None
    if opcode == NEWTRUE:
        return True
    if opcode == NEWFALSE:
        return False
    used[0] = 3
    if opcode == BININT2 and left >= 3:
        return <int>(data[0] | data[1] << 8)
    used[0] = 5
    if opcode == BININT and left >= 5:
        for i in range(4):
            bits |= <uint64_t>data[i] << (8 * i)
        return <int32_t>bits
    used[0] = 9
    if opcode == BINFLOAT and left >= 9:
        return read_float(data)
    used[0] = 10
    if opcode == LONG1 and left >= 10 and data[0] == 8:
        for i in range(8):
            bits |= <uint64_t>data[1 + i] << (8 * i)
        return <int64_t>bits
    if opcode == SHORT_BINUNICODE and left >= 2 and left >= 2 + <size_t>data[0]:
        used[0] = 2 + <size_t>data[0]
        return PyUnicode_DecodeUTF8(<const char *>data + 1, data[0], "surrogatepass")
    return ...


cdef bint push(Stack *stack, object value):
    if stack.count == VALUES_MAX:
        return False
    Py_INCREF(value)
    stack.values[stack.count] = <PyObject *>value
    stack.count += 1
    return True


cdef void drop(Stack *stack, int count) noexcept:
    """Drop all values but the first ones. None of these types runs code of others."""
    while stack.count > count:
        stack.count -= 1
        Py_DECREF(<object>stack.values[stack.count])


cdef int fence(Stack *stack) noexcept:
    """Return the number of values before the last mark, which no opcode may take."""
    return stack.marks[stack.mark_count - 1] if stack.mark_count else 0


cdef bint make_tuple(Stack *stack, int first):
    """Replace the values from this one on by a tuple of them."""
    cdef int i, length = stack.count - first
    if length < 0 or first < fence(stack):
        return False
    made = PyTuple_New(length)
    for i in range(length):
        PyTuple_SET_ITEM(made, i, <object>stack.values[first + i])
        Py_INCREF(<object>stack.values[first + i])
    drop(stack, first)
    return push(stack, made)


cdef bint fill_list(Stack *stack, int first):
    """Replace the values from this one on, and the empty list before them, by the list of them."""
    cdef int i, length = stack.count - first
    if length < 0 or first - 1 < fence(stack):
        return False
    if type(<object>stack.values[first - 1]) is not list or len(<list>stack.values[first - 1]):
        return False
    made = PyList_New(length)
    for i in range(length):
        PyList_SET_ITEM(made, i, <object>stack.values[first + i])
        Py_INCREF(<object>stack.values[first + i])
    drop(stack, first - 1)
    return push(stack, made)


cdef bint fill_dict(Stack *stack, int first):
    """Put the keys and values from this one on into the dict before them."""
    cdef int i, length = stack.count - first
    if length < 0 or length % 2 or first - 1 < fence(stack) or type(<object>stack.values[first - 1]) is not dict:
        return False
    for i in range(first, stack.count, 2):
        PyDict_SetItem(<object>stack.values[first - 1], <object>stack.values[i], <object>stack.values[i + 1])
    drop(stack, first)
    return True


cdef int pop_mark(Stack *stack) noexcept:
    """Return the number of values at the last mark; -1 if there is none."""
    if stack.mark_count == 0:
        return -1
    stack.mark_count -= 1
    return stack.marks[stack.mark_count]


cdef bint run(Stack *stack, uint8_t opcode):
    """Run an opcode of containers; return False if it is not one of those, or does not fit the stack."""
    if opcode == MARK and stack.mark_count < MARKS_MAX:
        stack.marks[stack.mark_count] = stack.count
        stack.mark_count += 1
        return True
    if opcode == MEMOIZE:
        return True  # what gets it is no opcode that is read here
    if opcode == EMPTY_TUPLE:
        return push(stack, ())
    if opcode == EMPTY_LIST:
        return push(stack, [])
    if opcode == EMPTY_DICT:
        return push(stack, {})
    if TUPLE1 <= opcode <= TUPLE3:
        return make_tuple(stack, stack.count - (opcode - TUPLE1 + 1))
    if opcode == TUPLE:
        return make_tuple(stack, pop_mark(stack))
    if opcode == APPENDS:
        return fill_list(stack, pop_mark(stack))
    if opcode == SETITEMS:
        return fill_dict(stack, pop_mark(stack))
    return False


cdef bint read_all(Stack *stack, const uint8_t *at, const uint8_t *end):
    """Run all opcodes up to the end; return False if one is left to pickle, or there is not one value at the end."""
    cdef size_t used = 0
    while at < end:
        value = read_scalar(at, end - at, &used)
        if value is ...:
            if not run(stack, at[0]):
                return False
            used = 1
        elif not push(stack, value):
            return False
        at += used
    return stack.count == 1 and stack.mark_count == 0


cdef object read_value(object pickle):
    """Return the value of a pickle; `...` for other values, which are left to pickle."""
    if type(pickle) is not bytes:
        return ...
    return read_bytes(<const uint8_t *>PyBytes_AS_STRING(pickle), PyBytes_GET_SIZE(pickle))


cdef object read_bytes(const uint8_t *begin, size_t size):
    """Return the value of a pickle in memory that does not change, as `read_value` does."""
    cdef size_t used = 0
    cdef Stack stack
    if not BEFORE + 2 <= size <= SMALL_BYTES_MAX or begin[0] != PROTO or begin[size - 1] != STOP:
        return ...
    value = read_scalar(begin + BEFORE, size - BEFORE - 1, &used)
    if value is not ... and used == size - BEFORE - 1:
        return value
    stack.count = stack.mark_count = 0
    try:
        if read_all(&stack, begin + BEFORE, begin + size - 1):
            return <object>stack.values[0]
        return ...
    finally:
        drop(&stack, 0)


def load_small_value(pickle):
    """Return the value of a pickle if it is small and of builtin types; `...` for all others.

    Examples:
        >>> import pickle
        >>> load_small_value(b"\\x80\\x05K\\x01\\x8c\\x03two\\x86."), load_small_value(pickle.dumps({1}))
        ((1, 'two'), Ellipsis)
    """
    return read_value(pickle)
