"""Unpickles small values of builtin types; see pickle_reader.pyx."""


cdef object read_value(object pickle)
