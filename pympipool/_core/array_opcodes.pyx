# cython: language_level=3, boundscheck=False, wraparound=False
"""Write arrays of numbers, and scalars of numpy, into pickles, and load them.

    array ─► load_array(data, "<f8", shape), the data in the pickle, or out of band if they are large
    scalar ─► load_scalar(data, "<f8")
    array in a shared array ─► load_view(key, position, shape, strides, "<f8", may be written), in a call

numpy pickles the dtype anew with each array, and a Python function has to say that the data may leave the pickle. That takes ten
times as long as copying the data of a small array.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_STRIDES, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from _pickle import PickleBuffer

from pympipool._core.instances import IN_BAND_BELOW_BYTES
from pympipool._core.opcodes cimport (
    BINBYTES, BININT, BYTEARRAY8, EXT4, MARK, MEMOIZE, NEWFALSE, NEWTRUE, NEXT_BUFFER, POP, READONLY_BUFFER, REDUCE,
    SHORT_BINBYTES, SHORT_BINUNICODE, TUPLE, TUPLE2, TUPLE3, Pickle, begin, release, room_for, write_data, write_integer,
    write_number, write_opcode,
)
from pympipool._core.shared_ranges cimport find_place, is_in_shared_array

cdef enum:
    LENGTH_MAX = 0x7FFFFFFF
    KEY_BYTES = 16

cdef Py_ssize_t _IN_BAND_BELOW_BYTES = IN_BAND_BELOW_BYTES
cdef object _array_type = None  # numpy.ndarray, once numpy has been imported
cdef list _dtypes = []  # the dtypes that are known, and for each of them the opcodes of its name
cdef list _dtype_opcodes = []
cdef uint32_t _loader = 0  # the number of `load_array`
cdef uint32_t _view_loader = 0  # the number of `load_view`
cdef list _scalar_types = []  # the types of scalars that are known, and for each the opcodes of the name of its dtype
cdef list _scalar_opcodes = []  # None: the dtype has a unit
cdef uint32_t _scalar_loader = 0  # the number of `load_scalar`
cdef object _from_buffer = None  # numpy.frombuffer
cdef object _new_scalar = None  # the function with which numpy itself unpickles scalars
cdef dict _dtypes_by_name = {}


def register_arrays(module, dtypes not None, uint32_t number):
    """Have arrays be recognized too.

    Args:
        module: numpy.
        dtypes: The dtypes of arrays that are recognized, each one object. Their `str` must describe them completely.
        number: Of `load_array` in the registry of extensions of `copyreg`.
    """
    global _array_type, _loader
    for dtype in dtypes:
        _dtype_opcodes.append(_opcodes_of_name(dtype.str))
        _dtypes.append(dtype)  # last, since other threads look a dtype up here
    _loader = number
    _array_type = module.ndarray


def register_scalars(dict dtypes not None, uint32_t number):
    """Have scalars of numpy be recognized too.

    Args:
        dtypes: A name of the dtype for each type of scalars; "" if the dtype of each scalar has a unit of its own.
        number: Of `load_scalar` in the registry of extensions of `copyreg`.
    """
    global _scalar_loader
    for kind, name in dtypes.items():
        _scalar_opcodes.append(_opcodes_of_name(name) if name else None)
        _scalar_types.append(kind)
    _scalar_loader = number


cdef bytes _opcodes_of_name(str name):
    encoded = name.encode()
    return bytes([SHORT_BINUNICODE, len(encoded)]) + encoded


def register_views(uint32_t number):
    """Have arrays in shared arrays be written.

    Args:
        number: Of `load_view` in the registry of extensions of `copyreg`.
    """
    global _view_loader
    _view_loader = number


def load_array(buffer, kind, shape=None):
    """Return an array in the memory of a buffer.

    Args:
        buffer: The data. An array in read-only memory is read-only.
        kind: The `str` of the dtype.
        shape: Default: one dimension.
    """
    dtype = _dtype_of(kind)
    array = _from_buffer(buffer, dtype)
    return array if shape is None else array.reshape(shape)


def load_scalar(bytes data, kind):
    """Return a scalar of numpy.

    Args:
        data: Its data.
        kind: The name of its dtype.
    """
    dtype = _dtype_of(kind)
    return _new_scalar(dtype, data)


cdef object _dtype_of(kind):
    """Return the dtype of a name, and import numpy with the first one."""
    global _from_buffer, _new_scalar
    dtype = _dtypes_by_name.get(kind)
    if dtype is None:
        import numpy

        _from_buffer = numpy.frombuffer
        _new_scalar = numpy.float64(0).__reduce__()[0]
        dtype = _dtypes_by_name[kind] = numpy.dtype(kind)
    return dtype


cdef Py_ssize_t number_of(dtype) noexcept:
    """Return the place of a dtype among those that are known, or -1. An equal one may have metadata, so it is another."""
    cdef Py_ssize_t i
    for i in range(len(_dtypes)):
        if <PyObject *>dtype == <PyObject *>_dtypes[i]:
            return i
    return -1


cdef bint is_array_of_numbers(value):
    """Return True if a value is an array of a known dtype, of no subclass, and does not lie in a shared array."""
    return type(value) is _array_type and not is_in_shared_array(value) and number_of(value.dtype) >= 0


cdef bint write_array(Pickle *pickle, array, list parts) except -1:
    """Write an array of numbers; return False if it is empty, or not in C order."""
    cdef Py_buffer view
    cdef bytes dtype = <bytes>_dtype_opcodes[number_of(array.dtype)]
    cdef int i
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES)
    try:
        if view.len == 0 or not PyBuffer_IsContiguous(&view, c"C"):
            return False
        write_number(pickle, EXT4, _loader, 4)
        if view.len >= _IN_BAND_BELOW_BYTES:
            parts.append(array)
            write_opcode(pickle, NEXT_BUFFER)
            if view.readonly:
                write_opcode(pickle, READONLY_BUFFER)
        else:
            if view.readonly:
                write_number(pickle, BINBYTES, view.len, 4)
            else:
                write_number(pickle, BYTEARRAY8, view.len, 8)
            memcpy(room_for(pickle, view.len), view.buf, view.len)
        memcpy(room_for(pickle, len(dtype)), <char *>dtype, len(dtype))
        if view.ndim == 1:
            write_opcode(pickle, TUPLE2)
        else:
            write_opcode(pickle, MARK)
            for i in range(view.ndim):
                if view.shape[i] > LENGTH_MAX:
                    return False
                write_number(pickle, BININT, view.shape[i], 4)
            write_opcode(pickle, TUPLE)
            write_opcode(pickle, TUPLE3)
        write_opcode(pickle, REDUCE)
    finally:
        PyBuffer_Release(&view)
    return True


cdef bint write_scalar(Pickle *pickle, value) except -1:
    """Write a scalar of numpy; return False for other values."""
    cdef Py_buffer view
    cdef Py_ssize_t i = 0, count = len(_scalar_types)
    kind = type(value)
    while i < count and <PyObject *>_scalar_types[i] != <PyObject *>kind:
        i += 1
    if i == count:
        return False
    opcodes = _scalar_opcodes[i]
    dtype = <bytes>_opcodes_of_name(value.dtype.str) if opcodes is None else <bytes>opcodes
    PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
    try:
        write_number(pickle, EXT4, _scalar_loader, 4)
        write_data(pickle, SHORT_BINBYTES, BINBYTES, view.buf, view.len)
        memcpy(room_for(pickle, len(dtype)), <char *>dtype, len(dtype))
        write_opcode(pickle, TUPLE2)
        write_opcode(pickle, REDUCE)
    finally:
        PyBuffer_Release(&view)
    return True


cdef bint write_view(Pickle *pickle, value) except -1:
    """Write the place of an array of numbers in a shared array; return False if it does not lie in one."""
    cdef Py_buffer view
    cdef uint8_t[KEY_BYTES] key
    cdef uint64_t position = 0
    cdef Py_ssize_t number
    cdef bytes dtype
    if type(value) is not _array_type or not find_place(value, key, &position):
        return False
    number = number_of(value.dtype)
    if number < 0:
        return False
    dtype = <bytes>_dtype_opcodes[number]
    PyObject_GetBuffer(value, &view, PyBUF_STRIDES)
    try:
        write_number(pickle, EXT4, _view_loader, 4)
        write_opcode(pickle, MARK)
        write_data(pickle, SHORT_BINBYTES, BINBYTES, key, KEY_BYTES)
        write_integer(pickle, position)
        write_numbers(pickle, view.shape, view.ndim)
        write_numbers(pickle, view.strides, view.ndim)
        memcpy(room_for(pickle, len(dtype)), <char *>dtype, len(dtype))
        write_opcode(pickle, NEWFALSE if view.readonly else NEWTRUE)
        write_opcode(pickle, TUPLE)
        write_opcode(pickle, REDUCE)
    finally:
        PyBuffer_Release(&view)
    return True


cdef int write_numbers(Pickle *pickle, const Py_ssize_t *numbers, int count) except -1:
    """Write a tuple of numbers."""
    cdef int i
    write_opcode(pickle, MARK)
    for i in range(count):
        write_integer(pickle, numbers[i])
    write_opcode(pickle, TUPLE)
    return 0


cdef bytes write_arrays(list arrays, list parts):
    """Return opcodes that put arrays into the memo of the unpickler; None if one of the arrays cannot be written here.

    Args:
        arrays: They satisfy `is_array_of_numbers`.
        parts: Gets the data of large ones; parts[0] is left alone.
    """
    cdef Pickle pickle
    cdef bytes opcodes
    begin(&pickle, 0)
    try:
        for array in arrays:
            if not write_array(&pickle, array, parts):
                return None
            write_opcode(&pickle, MEMOIZE)
            write_opcode(&pickle, POP)
        opcodes = PyBytes_FromStringAndSize(<char *>pickle.data, pickle.size_bytes)
    finally:
        release(&pickle)
    show_memory(parts)
    return opcodes


cdef int show_memory(list parts) except -1:
    """Replace the arrays behind the first part by views of their memory. The garbage collector may run."""
    cdef Py_ssize_t i
    for i in range(1, len(parts)):
        parts[i] = PickleBuffer(parts[i]).raw()
    return 0
