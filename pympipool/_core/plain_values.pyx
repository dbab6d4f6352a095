# cython: language_level=3, boundscheck=False, wraparound=False
"""Recognize small plain values, in a fraction of a microsecond: they need neither a search for futures nor cloudpickle.

And pickle them, arrays of numbers in them included:

    a value ─► consists of scalars, small containers and arrays? ─► opcodes of each array, written here │ the rest, by pickle

numpy pickles the dtype anew with each array, and a Python function has to say that the data may leave the pickle. That takes ten
times as long as copying the data of a small array. So the opcodes of arrays are written here, in front, and the pickler is told
that it has pickled these arrays already. An array that a value contains twice arrives as one.

Arrays in shared memory that calls write are not recognized: their data must not be pickled (`serialization/shared_arrays.py`).
"""

from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_Next
from cpython.ref cimport PyObject

from _io import BytesIO
from _pickle import PickleBuffer, Pickler, dumps

from pympipool._core.instances import IN_BAND_BELOW_BYTES
from pympipool._core.shared_ranges cimport is_in_shared_array

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    PyObject *Py_TYPE(object value)
    int PySet_Contains(object kinds, object kind) except -1

cdef enum:
    ITEMS_MAX = 256
    DEPTH_MAX = 16
    LENGTH_MAX = 0x7FFFFFFF

cdef object _PROTOCOL = 5
cdef Py_ssize_t _IN_BAND_BELOW_BYTES = IN_BAND_BELOW_BYTES
cdef object _array_type = None  # numpy.ndarray, once numpy has been imported
cdef object _from_buffer = None  # numpy.frombuffer
cdef list _dtypes = []  # the dtypes that are known, and for each of them the opcodes of its name
cdef list _dtype_opcodes = []
cdef dict _dtypes_by_name = {}
cdef bytes _load_opcode = b""  # the opcode of `load_array`


def register_arrays(module, dtypes not None, unsigned int number):
    """Have arrays be recognized too.

    Args:
        module: numpy.
        dtypes: The dtypes of arrays that are recognized, each one object. Their `str` must describe them completely.
        number: Of `load_array` in the registry of extensions of `copyreg`.
    """
    global _array_type, _from_buffer, _load_opcode
    for dtype in dtypes:
        name = dtype.str.encode()
        _dtypes.append(dtype)
        _dtype_opcodes.append(b"\x8c" + bytes([len(name)]) + name)  # SHORT_BINUNICODE
    _load_opcode = b"\x84" + number.to_bytes(4, "little")  # EXT4
    _from_buffer = module.frombuffer
    _array_type = module.ndarray


def load_array(buffer, kind, shape=None):
    """Return an array in the memory of a buffer.

    Args:
        buffer: The data. An array in read-only memory is read-only.
        kind: The `str` of the dtype.
        shape: Default: one dimension.
    """
    global _from_buffer
    dtype = _dtypes_by_name.get(kind)
    if dtype is None:
        import numpy

        _from_buffer = numpy.frombuffer
        dtype = _dtypes_by_name[kind] = numpy.dtype(kind)
    array = _from_buffer(buffer, dtype)
    return array if shape is None else array.reshape(shape)


cdef Py_ssize_t _number_of(dtype) noexcept:
    """Return the place of a dtype among those that are known, or -1. An equal one may have metadata, so it is another."""
    cdef Py_ssize_t i
    for i in range(len(_dtypes)):
        if <PyObject *>dtype == <PyObject *>_dtypes[i]:
            return i
    return -1


cdef bint _note_array(array, list arrays) except -1:
    """Append an array to arrays, unless it is there; return False if it has no known dtype, or lies in a shared array."""
    if is_in_shared_array(array) or _number_of(array.dtype) < 0:
        return False
    for other in arrays:
        if other is array:
            return True
    arrays.append(array)
    return True


# Runs no Python code of others, so no container changes meanwhile.
cdef bint _consists_of(value, kinds, Py_ssize_t bytes_below, int depth, Py_ssize_t *items_left, list arrays) except -1:
    cdef PyObject *key = NULL
    cdef PyObject *item = NULL
    cdef Py_ssize_t position = 0
    kind = type(value)
    if kind is tuple or kind is list or kind is dict or kind is set or kind is frozenset:
        items_left[0] -= len(value)
        if items_left[0] < 0 or depth == DEPTH_MAX:
            return False
    if kind is tuple:
        for element in <tuple>value:
            if not _consists_of(element, kinds, bytes_below, depth + 1, items_left, arrays):
                return False
        return True
    if kind is list:
        for element in <list>value:
            if not _consists_of(element, kinds, bytes_below, depth + 1, items_left, arrays):
                return False
        return True
    if kind is dict:
        while PyDict_Next(value, &position, &key, &item):
            if not _consists_of(<object>key, kinds, bytes_below, depth + 1, items_left, arrays):
                return False
            if not _consists_of(<object>item, kinds, bytes_below, depth + 1, items_left, arrays):
                return False
        return True
    if kind is set or kind is frozenset:
        for element in value:
            if not _consists_of(element, kinds, bytes_below, depth + 1, items_left, arrays):
                return False
        return True
    if kind is bytes and len(<bytes>value) >= bytes_below:
        return False
    if kind is _array_type and arrays is not None:
        return _note_array(value, arrays)
    # The hash of a class with a metaclass may be Python code.
    return Py_TYPE(kind) == <PyObject *>type and PySet_Contains(kinds, kind)


def consists_of(value, kinds not None, Py_ssize_t bytes_below=PY_SSIZE_T_MAX):
    """Return True if a value, or all that it contains, is of these types: False also for large or deep containers.

    Args:
        value: Containers are tuples, lists, dicts, sets and frozensets, not instances of their subclasses.
        kinds: A set of types.
        bytes_below: Objects of type bytes of this size count as another type.

    Examples:
        >>> consists_of((1, [2, {"x": None}]), {int, str, type(None)}), consists_of([1, True], {int})
        (True, False)
        >>> consists_of(list(range(1000)), {int})
        False
    """
    cdef Py_ssize_t items_left = ITEMS_MAX
    return _consists_of(value, kinds, bytes_below, 0, &items_left, None)


def dump_plain_value(value, kinds not None, Py_ssize_t bytes_below=PY_SSIZE_T_MAX):
    """Pickle a value that consists of small containers, of these types and of arrays; return None for others.

    Args:
        value: As for `consists_of`.
        kinds: A set of types, whose values pickle stores without a reference to a class by value.
        bytes_below: Objects of type bytes of this size count as another type.

    Returns:
        The pickle, and the data of its large arrays as out-of-band buffers: views of the arrays' memory.

    Examples:
        >>> dump_plain_value([1, 2], {int}), dump_plain_value(1j, {int})
        ([b'\\x80\\x05\\x95\\t\\x00\\x00\\x00\\x00\\x00\\x00\\x00]\\x94(K\\x01K\\x02e.'], None)
    """
    cdef Py_ssize_t items_left = ITEMS_MAX
    cdef list arrays = None if _array_type is None else []
    if not _consists_of(value, kinds, bytes_below, 0, &items_left, arrays):
        return None
    return _dump_with_arrays(value, arrays) if arrays else [dumps(value, _PROTOCOL)]


cdef list _dump_with_arrays(value, list arrays):
    """Pickle a value that contains these arrays; return None if one of them is empty, or not in C order."""
    cdef bint is_array = value is arrays[0]
    cdef dict memo = {}
    cdef list pieces = [b"\x80\x05"]  # PROTO
    cdef list parts = [None]
    for array in arrays:
        if not _add_array(array, pieces, parts):
            return None
        if not is_array:
            memo[id(array)] = len(memo), array
            pieces.append(b"\x940")  # MEMOIZE, POP
    if is_array:
        pieces.append(b".")  # STOP
    else:
        file = BytesIO()
        pickler = Pickler(file, _PROTOCOL)
        pickler.memo = memo
        pickler.dump(value)
        pieces.append(file.getvalue())
    parts[0] = b"".join(pieces)
    return parts


cdef bint _add_array(array, list pieces, list parts) except -1:
    """Append an array to the pieces of a pickle, its data to them or to the parts; return False if that is not possible."""
    cdef Py_buffer view
    cdef Py_ssize_t i
    cdef bytes before, after = <bytes>_dtype_opcodes[_number_of(array.dtype)]
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES)
    try:
        if view.len == 0 or not PyBuffer_IsContiguous(&view, c"C"):
            return False
        if view.ndim != 1:
            after += b"("  # MARK
            for i in range(view.ndim):
                if view.shape[i] > LENGTH_MAX:
                    return False
                after += b"J" + _little_endian(view.shape[i], 4)  # BININT
            after += b"t"  # TUPLE
        if view.len >= _IN_BAND_BELOW_BYTES:
            before = b"\x97\x98" if view.readonly else b"\x97"  # NEXT_BUFFER, READONLY_BUFFER
        elif view.readonly:
            before = b"B" + _little_endian(view.len, 4)  # BINBYTES
        else:
            before = b"\x96" + _little_endian(view.len, 8)  # BYTEARRAY8
        pieces.append(_load_opcode + before)
        (parts if view.len >= _IN_BAND_BELOW_BYTES else pieces).append(
            PickleBuffer(array).raw() if view.len >= _IN_BAND_BELOW_BYTES else array)
        pieces.append(after + (b"\x86R" if view.ndim == 1 else b"\x87R"))  # TUPLE2 or TUPLE3, REDUCE
    finally:
        PyBuffer_Release(&view)
    return True


cdef bytes _little_endian(object number, int size):
    return number.to_bytes(size, "little")
