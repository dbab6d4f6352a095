# cython: language_level=3
"""Creates and frees calls and functions, C structures that own Python objects.

A `Call` (see `types.pxd`) owns a reference to its future, one to its function and, if its arguments are large, one to
the objects that hold them. Calls are created and freed here, with the GIL. Between these two moments `pump.pyx` uses
them without the GIL. So their memory is that of Python's objects, which is faster for small ones.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from pympipool._core.future_core cimport FutureCore
from pympipool._core.mailbox cimport lock_state, unlock_state
from pympipool._core.snapshot cimport Snapshot
from pympipool._core.state_lock cimport pmp_count
from pympipool._core.types cimport Call, CallList, Function
from pympipool._core.ring cimport Parts, part_to_object, pmp_buffer_free, pmp_part, pmp_store_free


cdef class FunctionHandle:
    """A function that travels once to each worker.

    Args:
        number: By which calls refer to it; at least 1, never used for another function.
        payload: The function's pickle.
        function: The function itself. Kept alive, so that no other object gets its id.
        snapshot: Tells whether pickling the function would still give the payload.
        name: The function's name in messages.
    """

    def __cinit__(self, uint64_t number, bytes payload not None, function=None, Snapshot snapshot=None, str name=None):
        cdef size_t size = len(payload)
        if number < 1:
            raise ValueError(f"number is {number}; it must be at least 1")
        self.function = <Function *>calloc(1, sizeof(Function) + size)
        if self.function == NULL:
            raise MemoryError()
        self.function.number = number
        self.function.references = 1
        self.function.part.data = self.function + 1
        self.function.part.size_bytes = size
        memcpy(self.function.part.data, <char *>payload, size)
        self.callable = function
        self.snapshot = snapshot
        self.name = name

    @property
    def number(self):
        """The number of the function."""
        return self.function.number

    @property
    def payload(self):
        """The function's pickle."""
        return PyBytes_FromStringAndSize(<char *>self.function.part.data, self.function.part.size_bytes)

    def is_current(self):
        """Return True if pickling the function would still give the payload. Runs at every call."""
        return self.is_unchanged()

    cdef bint is_unchanged(self) except -1:
        return self.snapshot is not None and self.snapshot.is_current()

    def __repr__(self):
        return f"<FunctionHandle {self.number}: {self.name}, {self.function.part.size_bytes} bytes>"

    def __dealloc__(self):
        drop_function(self.function)


cdef void drop_function(Function *function) noexcept:
    """Give up a reference to a function, which is freed with its last one; NULL is allowed."""
    if function == NULL:
        return
    if pmp_count(&function.references, -1) == 0:
        free(function)


cdef Call *new_empty_call(uint32_t part_count, size_t size) except NULL:
    """Return a new call with room for parts, and for so many bytes of data behind them."""
    cdef Call *call = <Call *>PyMem_Calloc(1, sizeof(Call) + part_count * sizeof(pmp_part) + size)
    if call == NULL:
        raise MemoryError()
    call.position = UINT64_MAX
    call.rows = 1
    call.part_count = part_count
    call.parts = <pmp_part *>(call + 1)
    return call


cdef Call *new_small_call(const void *pickle, size_t size) except NULL:
    """Return a new call with a copy of these arguments, which are one part."""
    cdef Call *call = new_empty_call(1, size)
    call.parts[0].data = call.parts + 1
    call.parts[0].size_bytes = size
    memcpy(call.parts[0].data, pickle, size)
    return call


cdef Call *new_call(list parts) except NULL:
    """Return a new call with these arguments. Small arguments are copied; otherwise a reference to them is kept."""
    cdef Parts held = Parts(parts)
    cdef size_t size = 0
    cdef uint32_t i
    cdef bint copied = True
    for i in range(held.count):
        size += (held.parts[i].size_bytes + 7) & ~<uint64_t>7
    if size > COPY_LIMIT:
        copied = False
        size = 0
    cdef Call *call = new_empty_call(held.count, size)
    memcpy(call.parts, held.parts, held.count * sizeof(pmp_part))
    if not copied:
        Py_INCREF(held)
        call.arguments = <void *>held
        return call
    cdef uint8_t *data = <uint8_t *>(call.parts + held.count)
    for i in range(held.count):
        memcpy(data, held.parts[i].data, held.parts[i].size_bytes)
        call.parts[i].data = data
        data += (held.parts[i].size_bytes + 7) & ~<uint64_t>7
    return call


cdef void free_call(Call *call) noexcept:
    """Free a call and everything that it owns, including its reference to the future."""
    cdef uint32_t i
    cdef FutureCore future
    if call.result != NULL:
        if call.result_owned:
            for i in range(call.result_count):
                pmp_buffer_free(call.result[i].data)
        free(call.result)
    pmp_store_free(call.stored)
    drop_function(call.function)
    if call.arguments != NULL:
        Py_DECREF(<object>call.arguments)
    if call.future != NULL:
        future = <FutureCore>call.future
        lock_state()
        if future.call == call:  # not if it is tried again already
            future.call = NULL
        unlock_state()
        Py_DECREF(future)
    PyMem_Free(call)


cdef object parts_of_result(Call *call):
    """Return the parts of a call's result: bytes, or a list of bytes and buffers. Can be called once for each call.

    If there is no memory for the result, or was none when it arrived, return its size in bytes.
    """
    cdef uint64_t size_bytes = call.lost_bytes
    cdef uint32_t i
    if size_bytes == 0:
        for i in range(call.result_count):
            size_bytes += call.result[i].size_bytes
        try:
            if call.result_count == 1:
                return part_to_object(&call.result[0], call.result_owned, True)
            return [part_to_object(&call.result[i], call.result_owned, i == 0)
                    for i in range(call.result_count)]
        except MemoryError:
            pass
    return size_bytes


cdef void take_futures(CallList *calls, list futures) noexcept:
    """Part calls from their futures, and put these into a list that is long enough. Allocates nothing.

    The calls must be freed afterwards: that may run finalizers, which may cancel these futures.
    """
    cdef Call *call = calls.first
    cdef Py_ssize_t length = 0
    lock_state()
    while call != NULL:
        (<FutureCore>call.future).call = NULL
        futures[length] = <object>call.future
        length += 1
        call = call.next
    unlock_state()
    del futures[length:]


cdef void free_calls(CallList *calls) noexcept:
    """Free the calls of a list."""
    cdef Call *call = calls.first
    cdef Call *next
    while call != NULL:
        next = call.next
        free_call(call)
        call = next
