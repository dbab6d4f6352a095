# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Know which memory of this process belongs to shared arrays: calls get arrays there by their place, not by their data.

    a shared array is mapped ─► add_shared_range          its memory is about to be unmapped ─► remove_shared_range
    an array is pickled ─► its first item lies in one of the ranges? ─► key of the shared array, position in it

So a view is recognized whoever has made it. An array keeps the memory that it lies in, so no range is that of memory that is gone.
The ranges are sorted by address: a process may have thousands, and each array that is pickled is looked up.
"""

from libc.stdint cimport uint8_t, uint64_t, uintptr_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memmove

from pympipool._core.state_lock cimport pmp_init_state_mutex, pmp_lock_state, pmp_state_mutex, pmp_unlock_state

cdef extern from *:
    """
    /* The begin of an array of numpy: PyArrayObject_fields in numpy/ndarraytypes.h, a part of its ABI. */
    typedef struct {
        PyObject_HEAD
        char *data;
    } pmp_array_fields;

    static inline uintptr_t pmp_array_address(PyObject *array) { return (uintptr_t)((pmp_array_fields *)array)->data; }
    """
    uintptr_t pmp_array_address(object array)

cdef struct SharedRange:
    uintptr_t begin
    uintptr_t end
    uint8_t key[KEY_BYTES]

cdef pmp_state_mutex _mutex  # guards the ranges where no GIL does
cdef SharedRange *_ranges = NULL
cdef Py_ssize_t _range_count = 0

if pmp_init_state_mutex(&_mutex) != 0:
    raise MemoryError("no mutex")


cdef bint is_in_shared_array(array) noexcept:
    """Return True if the first item of an array of numpy lies in a shared array."""
    pmp_lock_state(&_mutex)
    found = _range_count != 0 and _shared_range(array) != NULL
    pmp_unlock_state(&_mutex)
    return found


cdef int add_shared_range(const void *begin, size_t size_bytes, bytes key) except -1:
    """Have arrays in a part of this process's memory be recognized as parts of the shared array of this key."""
    global _ranges, _range_count
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key of {len(key)} bytes")
    pmp_lock_state(&_mutex)
    ranges = <SharedRange *>realloc(_ranges, (_range_count + 1) * sizeof(SharedRange))
    if ranges != NULL:
        _ranges = ranges
        place = _ranges_up_to(<uintptr_t>begin)
        memmove(&_ranges[place + 1], &_ranges[place], (_range_count - place) * sizeof(SharedRange))
        _ranges[place].begin = <uintptr_t>begin
        _ranges[place].end = <uintptr_t>begin + size_bytes
        memcpy(_ranges[place].key, <char *>key, KEY_BYTES)
        _range_count += 1
    pmp_unlock_state(&_mutex)
    if ranges == NULL:
        raise MemoryError("no memory to note a shared array")
    return 0


cdef void remove_shared_range(const void *begin) noexcept:
    """Forget a part of the memory, before it is used for something else. Does nothing if it was not added."""
    global _range_count
    cdef Py_ssize_t last
    pmp_lock_state(&_mutex)
    last = _ranges_up_to(<uintptr_t>begin) - 1
    if last >= 0 and _ranges[last].begin == <uintptr_t>begin:
        _range_count -= 1
        memmove(&_ranges[last], &_ranges[last + 1], (_range_count - last) * sizeof(SharedRange))
    pmp_unlock_state(&_mutex)


cdef inline Py_ssize_t _ranges_up_to(uintptr_t address) noexcept:
    """Return how many ranges begin at an address or before it."""
    cdef Py_ssize_t low = 0, high = _range_count, middle
    while low < high:
        middle = (low + high) // 2
        if _ranges[middle].begin <= address:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline SharedRange *_shared_range(array) noexcept:
    cdef uintptr_t address = pmp_array_address(array)
    cdef Py_ssize_t last = _ranges_up_to(address) - 1
    return &_ranges[last] if last >= 0 and address < _ranges[last].end else NULL


cdef bint find_place(array, uint8_t *key, uint64_t *position) noexcept:
    """Find where an array lies in a shared array, as `shared_place`; return False for any other array."""
    pmp_lock_state(&_mutex)
    found = _shared_range(array) if _range_count else NULL
    if found != NULL:
        memcpy(key, found.key, KEY_BYTES)
        position[0] = pmp_array_address(array) - found.begin
    pmp_unlock_state(&_mutex)
    return found != NULL


def shared_place(array):
    """Return where an array lies in a shared array, whoever made it a view of that; None for any other array.

    Args:
        array: A `numpy.ndarray`, or an instance of a subclass.

    Returns:
        The key of the shared array, and the position of the array's first item in it, bytes.
    """
    cdef uint8_t[KEY_BYTES] key
    cdef uint64_t position = 0
    return ((<const char *>key)[:KEY_BYTES], position) if find_place(array, key, &position) else None
