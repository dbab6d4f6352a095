# cython: language_level=3, boundscheck=False, wraparound=False
"""Pickle instances of classes that travel by value, at the speed of C.

    dump(value) ─► definitions of the classes of the first objects in it, ready-made │ the value, as the pickler pickles it

A pickler remembers what it has pickled, and refers to it by a number from then on. Here the pickler is told that it has pickled
these classes already, and what it writes comes after their definitions. It asks for no class.
"""

from cpython.type cimport PyType_Check

from pympipool._core.snapshot cimport Snapshot

# Buffers smaller than this, in bytes, stay inside the pickle. Measured with numpy arrays, for dump, load and two copies on the
# way: up to 16 KiB in band and out of band take 11 us each; 64 KiB take 13 us out of band and 16 us in band, 256 KiB take
# 24 us and 540 us.
IN_BAND_BELOW_BYTES = 16 * 1024

# Most buffers out of band; further ones stay inside the pickle. It is PMP_PARTS_MAX of csrc/message.h, less one part for the
# pickle itself and one for the times of a traced call.
OUT_OF_BAND_MAX = 1022

# The latest definitions of classes that travel by value, by id of the class.
definitions = {}

cdef dict _definitions = definitions
cdef object _PROTOCOL = 5
cdef bytes _PROTO = b"\x80\x05"
cdef int _DEPTH_MAX = 4
cdef Py_ssize_t _ITEMS_MAX = 8


cdef class Definition:
    """A class with the pickles of its definition.

    Attributes:
        kind: The class.
        number: Tells receivers which version of the class this is.
        snapshot: Compares the class, and everything that it depends on, with what it was.
        uses: Number of times that the definition was sent; counted to 2.
        changes: Number of times that the class was changed before it was used twice.
        for_call: How the class is reduced in a call; None if that was not asked for yet.
        for_result: The same for a result.
        call_opcodes: The same for a call, pickled: opcodes that put the class into the memo of the unpickler.
        result_opcodes: The same for a result.
    """

    cdef public object kind, number, for_call, for_result
    cdef public Snapshot snapshot
    cdef public int uses, changes
    cdef public bytes call_opcodes, result_opcodes

    def __init__(self, kind, number, snapshot, changes):
        self.kind = kind
        self.number = number
        self.snapshot = snapshot
        self.uses = 0
        self.changes = changes


def find_definition(kind, bint is_result):
    """Return how a class is reduced by its definition; None if it has none that is current."""
    cdef Definition known = _definitions.get(id(kind))
    if known is None or not known.snapshot.is_current():
        return None
    known.uses = min(known.uses + 1, 2)
    return known.for_result if is_result else known.for_call


cdef int _look_up(object kind, list found, bint is_result) except -1:
    """Append the definition of a class to found, if it has one that is current."""
    cdef Definition known = _definitions.get(id(kind))
    if known is None or known in found or (known.result_opcodes if is_result else known.call_opcodes) is None:
        return 0
    if known.snapshot.is_current():
        known.uses = min(known.uses + 1, 2)
        found.append(known)
    return 0


cdef int _find_classes(object value, list found, bint is_result, int depth) except -1:
    """Append the definitions of the classes of the first objects in a value to found."""
    cdef object kind = type(value)
    cdef Py_ssize_t i
    if kind is tuple:
        if depth:
            for i in range(min(len(<tuple>value), _ITEMS_MAX)):
                _find_classes((<tuple>value)[i], found, is_result, depth - 1)
    elif kind is list:
        if depth and len(<list>value):
            _find_classes((<list>value)[0], found, is_result, depth - 1)
    elif kind is dict:
        if depth:
            for item in (<dict>value).values():
                _find_classes(item, found, is_result, depth - 1)
                break
    elif PyType_Check(value):
        _look_up(value, found, is_result)
    else:
        _look_up(kind, found, is_result)
    return 0


cdef class Sink:
    """The file of a pickler: a list of what was written."""

    cdef list written

    def write(self, data):
        self.written.append(data if type(data) is bytes else bytes(data))  # a bytearray can change before the end


cdef class Buffers:
    """The `buffer_callback` of a pickler: keeps what travels out of band, and leaves other buffers in the pickle.

    Args:
        parts: Gets the buffers that travel out of band, as one-dimensional views of bytes.
    """

    cdef list parts

    def __init__(self, list parts not None):
        self.parts = parts

    def __call__(self, buffer):
        if len(self.parts) >= OUT_OF_BAND_MAX:
            return True
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous; numpy never passes such a buffer
            return True
        if view.nbytes < IN_BAND_BELOW_BYTES:
            return True
        self.parts.append(view)
        return False


def dump(value, pickler_type, bint is_result, bint out_of_band):
    """Pickle a value. Return the pickle and its out-of-band buffers.

    Args:
        value: Any value that the pickler can pickle.
        pickler_type: A subclass of `pickle.Pickler`.
        is_result: The value is a result.
        out_of_band: Large buffers travel out of band; False: all stay inside the pickle.
    """
    cdef list found = []
    cdef list parts = []
    cdef Sink sink = Sink.__new__(Sink)
    cdef Buffers buffers = None
    cdef Definition definition
    cdef dict memo
    sink.written = []
    if out_of_band:
        buffers = Buffers.__new__(Buffers)
        buffers.parts = parts
    pickler = pickler_type(sink, _PROTOCOL, True, buffers)
    _find_classes(value, found, is_result, _DEPTH_MAX)
    if found:
        memo = {}
        sink.written.append(_PROTO)
        for definition in found:
            memo[id(definition.kind)] = (len(memo), definition.kind)
            sink.written.append(definition.result_opcodes if is_result else definition.call_opcodes)
        pickler.memo = memo
    pickler.dump(value)
    parts.insert(0, sink.written[0] if len(sink.written) == 1 else b"".join(sink.written))
    return parts
