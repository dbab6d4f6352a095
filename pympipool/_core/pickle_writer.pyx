# cython: language_level=3, boundscheck=False, wraparound=False
"""Write the pickle of a small plain value, opcode by opcode, while the value is looked at.

    a value ─► None, bool, int, float, str, bytes, array or scalar of numpy, handle, in small tuples, lists, dicts ─► opcodes
           └─► anything else ─► no pickle: pickle itself must do it

A pickler has to be created, looks up the type of each object, and keeps all of them in a memo. That takes longer than to write a
few bytes. Here the memo has only what may occur twice, and must arrive as one: what has more than one reference, except numbers and
short strings. No Python code of others runs meanwhile, so no container changes: where there is no GIL, each list and dict is
locked.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint32_t

from pympipool._core.array_opcodes cimport is_array_of_numbers, show_memory, write_array, write_scalar, write_view
from pympipool._core.opcodes cimport (
    APPENDS, BINBYTES, BINGET, BINUNICODE, EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE, EXT4, KNOWN_MAX, MARK, MEMOIZE, NEWFALSE, NEWTRUE,
    NONE, PROTO, REDUCE, SETITEMS, SHORT_BINBYTES, SHORT_BINUNICODE, STOP, TUPLE, TUPLE1, TUPLE2, Pickle, begin, release,
    write_data, write_float, write_integer, write_number, write_opcode,
)
from pympipool._core.state_lock cimport pmp_drop_item, pmp_hold_item, pmp_hold_known

cdef extern from *:
    """
    static inline PyObject *pmp_type_of(PyObject *value) { return (PyObject *)Py_TYPE(value); }
    static inline Py_ssize_t pmp_references(PyObject *value) { return Py_REFCNT(value); }
    static inline int pmp_is_ascii(PyObject *text) { return PyUnicode_IS_COMPACT_ASCII(text); }
    static inline Py_ssize_t pmp_text_length(PyObject *text) { return PyUnicode_GET_LENGTH(text); }
    static inline const void *pmp_text_data(PyObject *text) { return PyUnicode_DATA(text); }
    """
    PyObject *pmp_true "Py_True"
    PyObject *pmp_type_of(PyObject *value)
    Py_ssize_t pmp_references(PyObject *value)
    bint pmp_is_ascii(PyObject *text)
    Py_ssize_t pmp_text_length(PyObject *text)
    const void *pmp_text_data(PyObject *text)

    Py_ssize_t PyList_GET_SIZE(PyObject *items)
    Py_ssize_t PyTuple_GET_SIZE(PyObject *items)
    Py_ssize_t PyDict_Size(PyObject *items)
    PyObject *PyList_GET_ITEM(PyObject *items, Py_ssize_t i)
    PyObject *PyTuple_GET_ITEM(PyObject *items, Py_ssize_t i)
    bint PyDict_Next(PyObject *items, Py_ssize_t *position, PyObject **key, PyObject **value)
    int PySet_Contains(object kinds, PyObject *kind) except -1
    long long PyLong_AsLongLongAndOverflow(PyObject *value, int *overflow) except? -1
    double PyFloat_AS_DOUBLE(PyObject *value)
    const char *PyBytes_AS_STRING(PyObject *data)
    Py_ssize_t PyBytes_GET_SIZE(PyObject *data)
    object PyUnicode_AsUTF8String(PyObject *text)

cdef enum:
    DEPTH_MAX = 16
    DATA_MAX = 1 << 16  # longer strings and bytes are left to pickle, which copies them once less
    COPIED_MAX = 64  # strings and bytes of this length arrive as two objects if they occur twice
    KEY_BYTES = 16

cdef PyObject *_handle_type = NULL  # Shared, once something has been shared
cdef uint32_t _handle_loader = 0  # the number of the function that returns the object of a key


def register_handles(kind not None, uint32_t number):
    """Have handles of shared objects be recognized too.

    Args:
        kind: Their class: `Shared`, whose attributes are found without code of others.
        number: Of the function in the registry of extensions of `copyreg` that returns the object of a key.
    """
    global _handle_type, _handle_loader
    _handle_loader = number
    Py_INCREF(kind)
    _handle_type = <PyObject *>kind


# ---- whole pickles ----

def dump_small_call(tuple args not None, dict kwargs not None, kinds not None):
    """Return the pickle of (args, kwargs), with the data of large arrays as further parts; None if it cannot be written here.

    Args:
        args: Positional arguments. Neither they nor kwargs contain this tuple or dict.
        kwargs: Keyword arguments.
        kinds: A set of types. Handles are written if their type is among them.

    Examples:
        >>> dump_small_call((1, "two"), {}, set()), dump_small_call((object(),), {}, set())
        ([b'\\x80\\x05K\\x01\\x8c\\x03two\\x86}\\x86.'], None)
    """
    cdef Pickle pickle
    cdef list parts = [None]
    begin(&pickle, ITEMS_MAX)
    try:
        return finish(&pickle, parts) if write_call(&pickle, args, kwargs, kinds, parts) else None
    except Exception:  # no memory, or a handle that is none: whoever pickles the call then says so
        return None
    finally:
        release(&pickle)


cdef bint write_call(Pickle *pickle, tuple args, dict kwargs, kinds, list parts) except -1:
    """Write (args, kwargs) into a pickle that has begun, as `dump_small_call` does; return False if it cannot be written here.

    Args:
        parts: Gets the arrays whose data must follow the pickle; parts[0] is left alone.
    """
    write_number(pickle, PROTO, 5, 1)
    if not write_tuple(pickle, <PyObject *>args, kinds, 1, parts):
        return False
    if not kwargs:
        write_opcode(pickle, EMPTY_DICT)
    elif not write_value(pickle, <PyObject *>kwargs, kinds, 0, parts):
        return False
    write_opcode(pickle, TUPLE2)
    write_opcode(pickle, STOP)
    return True


cdef list write_plain_value(value, kinds):
    """Return the pickle of a value, as `dump_small_call` does that of a call."""
    cdef Pickle pickle
    cdef list parts = [None]
    begin(&pickle, ITEMS_MAX)
    try:
        return finish(&pickle, parts) if write_plain(&pickle, value, kinds, parts) else None
    except Exception:  # as above: pickle, which is tried next, raises the error that the user should see
        return None
    finally:
        release(&pickle)


cdef bint write_plain(Pickle *pickle, value, kinds, list parts) except -1:
    """Write a value into a pickle that has begun, as `write_call` does a call."""
    write_number(pickle, PROTO, 5, 1)
    if not write_value(pickle, <PyObject *>value, kinds, 0, parts):
        return False
    write_opcode(pickle, STOP)
    return True


cdef list finish(Pickle *pickle, list parts):
    """Return the parts, with the complete pickle as the first one."""
    parts[0] = PyBytes_FromStringAndSize(<char *>pickle.data, pickle.size_bytes)
    show_memory(parts)
    return parts


# ---- values: each function returns False if it cannot write one, and what it has written is then of no use ----

cdef bint write_value(Pickle *pickle, PyObject *value, kinds, int depth, list parts) except -1:
    cdef PyObject *kind = pmp_type_of(value)
    if kind == <PyObject *>int:
        return write_int(pickle, value)
    if kind == <PyObject *>float:
        write_float(pickle, PyFloat_AS_DOUBLE(value))
        return True
    if kind == <PyObject *>str:
        return write_text(pickle, value)
    if value == <PyObject *>None:
        write_opcode(pickle, NONE)
        return True
    if kind == <PyObject *>bool:
        write_opcode(pickle, NEWTRUE if value == pmp_true else NEWFALSE)
        return True
    if write_known(pickle, value):
        return True
    if kind == <PyObject *>bytes:
        return write_bytes(pickle, value)
    if kind == <PyObject *>tuple or kind == <PyObject *>dict or kind == <PyObject *>list:
        return depth < DEPTH_MAX and write_container(pickle, value, kinds, depth + 1, parts)
    if kind == _handle_type:
        return PySet_Contains(kinds, kind) and write_handle(pickle, <object>value)
    if write_scalar(pickle, <object>value):
        return True
    if is_array_of_numbers(<object>value):
        return write_array(pickle, <object>value, parts) and note(pickle, value)
    return are_of_call(kinds) and write_view(pickle, <object>value) and note(pickle, value)


cdef inline bint are_of_call(kinds) except -1:
    """Return True for the types of values in calls. What is in shared memory travels otherwise in results."""
    return _handle_type != NULL and PySet_Contains(kinds, _handle_type)


cdef bint write_container(Pickle *pickle, PyObject *value, kinds, int depth, list parts) except -1:
    cdef PyObject *kind = pmp_type_of(value)
    if kind == <PyObject *>dict:
        return write_dict(pickle, value, kinds, depth, parts)
    if kind == <PyObject *>list:
        return write_list(pickle, value, kinds, depth, parts)
    if not write_tuple(pickle, value, kinds, depth, parts):
        return False
    return index_of(pickle, value) < 0 and note(pickle, value)  # it is there already if it contains itself


cdef inline bint may_occur_again(PyObject *value) noexcept:
    return pmp_references(value) > 1


cdef int index_of(Pickle *pickle, PyObject *value) noexcept:
    """Return where the unpickler's memo has a value, or -1."""
    cdef int i
    if may_occur_again(value):
        for i in range(pickle.known_count):
            if pickle.known[i] == value:
                return i
    return -1


cdef bint write_known(Pickle *pickle, PyObject *value) except -1:
    """Write a reference to a value, and return True, if the unpickler's memo has it."""
    cdef int index = index_of(pickle, value)
    if index >= 0:
        write_number(pickle, BINGET, index, 1)
    return index >= 0


cdef bint note(Pickle *pickle, PyObject *value) except -1:
    """Put a value that was just written into the memo if it may occur again; return False if the memo is full."""
    if may_occur_again(value):
        if pickle.known_count == KNOWN_MAX:
            return False
        pmp_hold_known(value)
        pickle.known[pickle.known_count] = value
        pickle.known_count += 1
        write_opcode(pickle, MEMOIZE)
    return True


cdef bint write_int(Pickle *pickle, PyObject *value) except -1:
    cdef int overflow = 0
    cdef int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if not overflow:
        write_integer(pickle, number)
    return not overflow


cdef bint write_text(Pickle *pickle, PyObject *value) except -1:
    cdef Py_ssize_t length = pmp_text_length(value)
    if length > DATA_MAX:
        return False
    if length > COPIED_MAX and write_known(pickle, value):
        return True
    if pmp_is_ascii(value):
        write_data(pickle, SHORT_BINUNICODE, BINUNICODE, pmp_text_data(value), length)
    else:
        try:
            encoded = PyUnicode_AsUTF8String(value)
        except UnicodeEncodeError:  # surrogates
            return False
        write_data(pickle, SHORT_BINUNICODE, BINUNICODE, <char *><bytes>encoded, len(<bytes>encoded))
    return length <= COPIED_MAX or note(pickle, value)


cdef bint write_bytes(Pickle *pickle, PyObject *value) except -1:
    cdef Py_ssize_t length = PyBytes_GET_SIZE(value)
    if length > DATA_MAX:
        return False
    write_data(pickle, SHORT_BINBYTES, BINBYTES, PyBytes_AS_STRING(value), length)
    return length <= COPIED_MAX or note(pickle, value)


cdef bint write_handle(Pickle *pickle, value) except -1:
    key = value._object.key
    if type(key) is not bytes or len(<bytes>key) != KEY_BYTES:
        return False
    write_number(pickle, EXT4, _handle_loader, 4)
    write_data(pickle, SHORT_BINBYTES, BINBYTES, <char *><bytes>key, KEY_BYTES)
    write_opcode(pickle, TUPLE1)
    write_opcode(pickle, REDUCE)
    return True


# ---- containers ----

cdef inline bint has_room(Pickle *pickle, Py_ssize_t length) noexcept:
    """Return True if a container of this length is not too large."""
    pickle.items_left -= length
    return pickle.items_left >= 0


cdef bint write_tuple(Pickle *pickle, PyObject *value, kinds, int depth, list parts) except -1:
    cdef Py_ssize_t i, length = PyTuple_GET_SIZE(value)
    if not has_room(pickle, length):
        return False
    if length == 0:
        write_opcode(pickle, EMPTY_TUPLE)
        return True
    if length > 3:
        write_opcode(pickle, MARK)
    for i in range(length):
        if not write_value(pickle, PyTuple_GET_ITEM(value, i), kinds, depth, parts):
            return False
    write_opcode(pickle, TUPLE if length > 3 else TUPLE1 + length - 1)
    return True


cdef bint write_list(Pickle *pickle, PyObject *value, kinds, int depth, list parts) except -1:
    """Write a list, which may contain itself."""
    cdef Py_ssize_t i = 0, length = PyList_GET_SIZE(value)
    cdef PyObject *item
    cdef bint is_plain = True
    write_opcode(pickle, EMPTY_LIST)
    if not (has_room(pickle, length) and note(pickle, value)):
        return False
    if length == 0:
        return True
    write_opcode(pickle, MARK)
    with cython.critical_section(<object>value):
        while is_plain and i < PyList_GET_SIZE(value):
            item = PyList_GET_ITEM(value, i)
            pmp_hold_item(item)
            is_plain = write_value(pickle, item, kinds, depth, parts)
            pmp_drop_item(item)
            i += 1
    write_opcode(pickle, APPENDS)
    return is_plain and i == length


cdef bint write_dict(Pickle *pickle, PyObject *value, kinds, int depth, list parts) except -1:
    """Write a dict, which may contain itself."""
    cdef Py_ssize_t position = 0, length = PyDict_Size(value)
    cdef PyObject *key = NULL
    cdef PyObject *item = NULL
    cdef bint is_plain = True
    write_opcode(pickle, EMPTY_DICT)
    if not (has_room(pickle, length) and note(pickle, value)):
        return False
    if length == 0:
        return True
    write_opcode(pickle, MARK)
    with cython.critical_section(<object>value):
        while is_plain and PyDict_Next(value, &position, &key, &item):
            pmp_hold_item(item)
            is_plain = write_value(pickle, key, kinds, depth, parts) and write_value(pickle, item, kinds, depth, parts)
            pmp_drop_item(item)
    write_opcode(pickle, SETITEMS)
    return is_plain
