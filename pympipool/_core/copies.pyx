# cython: language_level=3, boundscheck=False, wraparound=False
"""Copy values so that nothing in a copy can be changed through the value, at the speed of C.

    numbers, strings, tuples of these ─► themselves
    lists, dicts, sets ─► new ones, whose items are copied
    instances that have nothing but a __dict__, arrays ─► as `find_way` says
    anything else ─► NotImplemented

A copy runs no code of the user. What a value contains twice, its copy contains twice, too. There is no need for a copy where
nobody else can reach the parts of a value: what a call has just returned often has no other references (`_is_separate`).
"""

from cpython.object cimport PyObject

from pympipool._core.python_types cimport pmp_dict_of, pmp_type_version
from pympipool._core.snapshot cimport Snapshot

cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object one, object name, object value) except -1

cdef extern from *:
    """
    /* A set of addresses. */
    typedef struct { void **slots; size_t size, used; } pmp_addresses;

    static int pmp_addresses_add(pmp_addresses *set, void *address);

    static int pmp_addresses_grow(pmp_addresses *set) {
        pmp_addresses larger = {NULL, set->size ? 4 * set->size : 256, 0};
        larger.slots = PyMem_Calloc(larger.size, sizeof(void *));
        if (!larger.slots)
            return -1;
        for (size_t i = 0; i < set->size; i++)
            if (set->slots[i])
                pmp_addresses_add(&larger, set->slots[i]);
        PyMem_Free(set->slots);
        *set = larger;
        return 0;
    }

    /* Return 1 if the address is new, 0 if it is not, -1 if there is no memory. */
    static int pmp_addresses_add(pmp_addresses *set, void *address) {
        if (2 * set->used >= set->size && pmp_addresses_grow(set) < 0)
            return -1;
        size_t i = ((size_t)address >> 4) * 0x9E3779B97F4A7C15u >> 20;
        for (i &= set->size - 1; set->slots[i]; i = (i + 1) & (set->size - 1))
            if (set->slots[i] == address)
                return 0;
        set->slots[i] = address;
        set->used++;
        return 1;
    }

    static void pmp_addresses_clear(pmp_addresses *set) {
        PyMem_Free(set->slots);
        *set = (pmp_addresses){NULL, 0, 0};
    }

    static inline int pmp_has_weak_references(PyObject *one) {
        return PyType_SUPPORTS_WEAKREFS(Py_TYPE(one)) && *PyObject_GET_WEAKREFS_LISTPTR(one) != NULL;
    }

    static inline Py_ssize_t pmp_references(PyObject *one) { return Py_REFCNT(one); }
    """
    ctypedef struct pmp_addresses:
        pass
    int pmp_addresses_add(pmp_addresses *addresses, void *address)
    void pmp_addresses_clear(pmp_addresses *addresses)
    bint pmp_has_weak_references(PyObject *one)
    Py_ssize_t pmp_references(PyObject *one)
    PyObject *pmp_type_of "(PyObject *)Py_TYPE" (PyObject *one)
    Py_ssize_t PyList_GET_SIZE(PyObject *items)
    Py_ssize_t PyTuple_GET_SIZE(PyObject *items)
    PyObject *PyList_GET_ITEM(PyObject *items, Py_ssize_t i)
    PyObject *PyTuple_GET_ITEM(PyObject *items, Py_ssize_t i)
    bint PyDict_Next(PyObject *items, Py_ssize_t *position, PyObject **key, PyObject **value)
    int PySet_Contains(object items, PyObject *key) except -1

# How values of a type are copied, as `find_way` returns it.
NO_COPY = 0
COPY_DICT = 1
COPY_ARRAY = 2

cdef int _NO_COPY = NO_COPY
cdef int _COPY_DICT = COPY_DICT
cdef int _COPY_ARRAY = COPY_ARRAY

# Most objects that can change, in one row. Pickling such a row by itself costs little more than copying it.
cdef Py_ssize_t _OBJECTS_MAX = 64
cdef int _DEPTH_MAX = 16

cdef object _new = object.__new__
cdef object _type_attribute = type.__getattribute__


cdef class _Way:
    """How values of a type are copied, as long as the type has this version."""

    cdef object kind
    cdef int way
    cdef unsigned int version


cdef class Copier:
    """Copies values, rows of values, and what calls return.

    Args:
        immutable: The types whose values cannot be changed; it may grow.
        find_way: Gets any other type. Returns `COPY_DICT` if a copy of the `__dict__` is a copy of the instance, `COPY_ARRAY`
            if copy_array can copy some of its values, else `NO_COPY`.
        copy_array: Gets a value, and if it is part of another one. Returns a copy, or NotImplemented.

    Attributes:
        kinds: The classes of all instances that were copied.

    Examples:
        >>> copier = Copier({int}, lambda kind: NO_COPY, None)
        >>> items = [1]
        >>> first, second = copier.copy([items, items])
        >>> first is second, first is items, copier.copy([len])
        (True, False, NotImplemented)
    """

    cdef set immutable
    cdef object find_way, copy_array
    cdef dict ways
    cdef list originals, copies
    cdef bint remembers_all
    cdef bint is_owned
    cdef pmp_addresses addresses
    cdef readonly set kinds

    def __init__(self, set immutable not None, find_way, copy_array):
        self.immutable = immutable
        self.find_way = find_way
        self.copy_array = copy_array
        self.ways = {}
        self.originals = []
        self.copies = []
        self.remembers_all = False
        self.kinds = set()

    def copy(self, value):
        """Return a copy of a value; NotImplemented if there is none."""
        self.remembers_all = False
        self._begin_row()
        return self._copy(value, 0)

    def copy_rows(self, columns not None):
        """Return copies of columns. In a row, what the columns share is shared by the copies. None if there is no copy.

        Args:
            columns: Sequences of the same length.
        """
        cdef list copied = [[] for _ in columns]
        cdef Py_ssize_t i
        self.remembers_all = len(copied) > 1
        for row in zip(*columns):
            self._begin_row()
            for i in range(len(copied)):
                one = self._copy((<tuple>row)[i], 0)
                if one is NotImplemented:
                    return None
                (<list>copied[i]).append(one)
        return copied

    def freeze_all(self, list results not None, values, freeze not None):
        """Append copies of all values to the results; freeze(value) if there is no copy.

        Args:
            results: Keeps what was appended so far if the iterator or freeze raises.
            values: An iterator.
            freeze: Called with each value that has no copy.
        """
        cdef object seen = None  # the type of the last value that was appended unchanged
        self.remembers_all = False
        self.is_owned = True
        for value in values:
            if type(value) is not seen:
                if type(value) in self.immutable:
                    seen = type(value)
                elif not self._is_separate(<PyObject *>value, 0):
                    self._begin_row()
                    one = self._copy(value, 0)
                    value = freeze(value) if one is NotImplemented else one
            results.append(value)
        self._begin_row()  # nothing else refers to the copies from now on

    def are_separate(self, columns not None):
        """Return True if no two objects in columns are the same, except immutable ones, and all could be copied.

        Args:
            columns: Lists.
        """
        cdef Py_ssize_t i
        self.is_owned = False
        try:
            for column in columns:
                for i in range(len(<list>column)):
                    if not self._is_separate(PyList_GET_ITEM(<PyObject *>column, i), 0):
                        return False
        finally:
            pmp_addresses_clear(&self.addresses)
        return True

    cdef bint _is_separate(self, PyObject *value, int depth) except -1:
        """Return True if a value needs no copy: no object in it that can change is referred to from elsewhere.

        While `is_owned`, this is known from the numbers of references; else no object may have been seen before. Arrays are
        always copied. Nothing here makes a new object, so that no finalizer of the user runs, which could change the value.
        """
        cdef PyObject *kind = pmp_type_of(value)
        cdef PyObject *item
        cdef PyObject *seen = NULL
        cdef Py_ssize_t i = 0
        if PySet_Contains(self.immutable, kind):
            return True
        if depth > _DEPTH_MAX or not self._claim(value):
            return False
        if kind == <PyObject *>list:
            while i < PyList_GET_SIZE(value):
                item = PyList_GET_ITEM(value, i)
                i += 1
                if pmp_type_of(item) == seen:
                    continue
                if PySet_Contains(self.immutable, pmp_type_of(item)):
                    seen = pmp_type_of(item)
                elif not self._is_separate(item, depth + 1):
                    return False
            return True
        if kind == <PyObject *>tuple:
            while i < PyTuple_GET_SIZE(value):
                item = PyTuple_GET_ITEM(value, i)
                i += 1
                if not self._is_separate(item, depth + 1):
                    return False
            return True
        if kind == <PyObject *>dict:
            return self._are_items_separate(value, depth)
        if kind == <PyObject *>set or kind == <PyObject *>frozenset:
            return self._are_immutable(<object>value, depth)
        return self._is_instance_separate(value, <object>kind, depth)

    cdef bint _claim(self, PyObject *one) except -1:
        """Return True if nothing else refers to an object, as far as known."""
        cdef int added
        if self.is_owned:
            return pmp_references(one) == 1
        added = pmp_addresses_add(&self.addresses, one)
        if added < 0:
            raise MemoryError
        return added

    cdef bint _are_items_separate(self, PyObject *items, int depth) except -1:
        cdef PyObject *key
        cdef PyObject *item
        cdef PyObject *seen = NULL
        cdef Py_ssize_t position = 0
        while PyDict_Next(items, &position, &key, &item):
            if pmp_type_of(key) != <PyObject *>str and not self._is_immutable(<object>key, depth):
                return False
            if pmp_type_of(item) == seen:
                continue
            if PySet_Contains(self.immutable, pmp_type_of(item)):
                seen = pmp_type_of(item)
            elif not self._is_separate(item, depth + 1):
                return False
        return True

    cdef bint _is_instance_separate(self, PyObject *value, kind, int depth) except -1:
        if self._way_of(kind) != _COPY_DICT or pmp_has_weak_references(value):
            return False
        cdef object items = pmp_dict_of(<object>value)
        if type(items) is not dict or (self.is_owned and pmp_references(<PyObject *>items) != 2):
            return False
        return self._are_items_separate(<PyObject *>items, depth)

    cdef bint _are_immutable(self, items, int depth) except -1:
        for item in items:
            if not self._is_immutable(item, depth):
                return False
        return True

    cdef int _begin_row(self) except -1:
        if self.originals:
            self.originals = []
            self.copies = []
        return 0

    cdef bint _remember(self, value, copied, int depth) except -1:
        """Remember the copy of an object that may occur again. Return False if there are too many."""
        if depth == 0 and not self.remembers_all:
            return True
        self.originals.append(value)
        self.copies.append(copied)
        return len(self.originals) <= _OBJECTS_MAX

    cdef object _copy(self, value, int depth):
        cdef object kind = type(value)
        cdef Py_ssize_t i
        if kind in self.immutable:
            return value
        if depth > _DEPTH_MAX:
            return NotImplemented
        for i in range(len(self.originals)):
            if self.originals[i] is value:  # an array that is shared and not copied would arrive as two
                return NotImplemented if self.copies[i] is value else self.copies[i]
        if kind is dict:
            return self._copy_dict(<dict>value, value, depth)
        if kind is list:
            return self._copy_list(<list>value, depth)
        if kind is tuple:
            return self._copy_tuple(<tuple>value, depth)
        if kind is set or kind is frozenset:
            return self._copy_set(value, depth)
        return self._copy_object(value, kind, depth)

    cdef object _copy_list(self, list value, int depth):
        cdef list copied = value[:]
        cdef object seen = None
        cdef bint is_flat = True
        cdef Py_ssize_t i
        if not self._remember(value, copied, depth):
            return NotImplemented
        for i in range(len(copied)):
            item = copied[i]
            if type(item) is seen:
                continue
            if type(item) in self.immutable:
                seen = type(item)
                continue
            if is_flat and depth == 0 and not self.remembers_all:
                self.originals.append(value)  # it may contain itself
                self.copies.append(copied)
            is_flat = False
            item = self._copy(item, depth + 1)
            if item is NotImplemented:
                return NotImplemented
            copied[i] = item
        return copied

    cdef object _copy_dict(self, dict items, owner, int depth):
        """Return a copy of the items.

        Args:
            owner: The dict itself, or the instance that has it.
        """
        cdef dict copied = items.copy()
        cdef object seen = None
        cdef object result = copied
        cdef bint is_flat = True
        if owner is not items:
            result = _new(type(owner))
            # not PyObject_GenericSetDict: since Python 3.13 it leaves the inline values of the instance in force
            PyObject_GenericSetAttr(result, "__dict__", copied)
        if not self._remember(owner, result, depth):
            return NotImplemented
        for key, item in copied.items():
            if type(key) is not str and not self._is_immutable(key, depth):
                return NotImplemented
            if type(item) is seen:
                continue
            if type(item) in self.immutable:
                seen = type(item)
                continue
            if is_flat and depth == 0 and not self.remembers_all:
                self.originals.append(owner)
                self.copies.append(result)
            is_flat = False
            item = self._copy(item, depth + 1)
            if item is NotImplemented:
                return NotImplemented
            copied[key] = item
        return result

    cdef bint _is_immutable(self, value, int depth) except -1:
        """Return True for an immutable value, and for a tuple of such values."""
        if type(value) is not tuple:
            return type(value) in self.immutable
        if depth > _DEPTH_MAX:
            return False
        for item in <tuple>value:
            if not self._is_immutable(item, depth + 1):
                return False
        return True

    cdef object _copy_tuple(self, tuple value, int depth):
        cdef list copied = None
        cdef Py_ssize_t i
        for i in range(len(value)):
            item = value[i]
            if type(item) in self.immutable:
                continue
            one = self._copy(item, depth + 1)
            if one is NotImplemented:
                return NotImplemented
            if one is not item:
                if copied is None:
                    copied = list(value)
                copied[i] = one
        if copied is None:
            return value
        result = tuple(copied)
        return result if self._remember(value, result, 1) else NotImplemented

    cdef object _copy_set(self, value, int depth):
        if not self._are_immutable(value, depth):
            return NotImplemented
        if type(value) is frozenset:
            return value
        copied = (<set>value).copy()
        return copied if self._remember(value, copied, depth) else NotImplemented

    cdef object _copy_object(self, value, kind, int depth):
        cdef int way = self._way_of(kind)
        if way == _COPY_DICT:
            items = pmp_dict_of(value)
            return self._copy_dict(<dict>items, value, depth) if type(items) is dict else NotImplemented
        if way == _NO_COPY:
            return NotImplemented
        copied = self.copy_array(value, depth > 0)
        if copied is NotImplemented or self._remember(value, copied, depth):
            return copied
        return NotImplemented

    cdef int _way_of(self, kind) except -1:
        cdef _Way known = self.ways.get(id(kind))
        if known is None or known.version == 0 or known.version != pmp_type_version(kind):
            known = self._learn(kind)
        return known.way

    cdef _Way _learn(self, kind):
        cdef _Way known = _Way.__new__(_Way)
        known.kind = kind
        known.way = self.find_way(kind)
        if known.way == _COPY_DICT:
            self.kinds.add(kind)
        _type_attribute(kind, "__sizeof__")  # a look-up gives a class a version
        known.version = pmp_type_version(kind)
        self.ways[id(kind)] = known
        return known


cdef class WatchedRows:
    """An iterator over rows that restores classes that the calls between two rows have changed.

    Args:
        rows: An iterator.
        snapshots: Compare the classes with what they were; None for one that is always restored.
        restore: Restores the classes, and returns new snapshots.
    """

    cdef object rows, restore
    cdef list snapshots

    def __init__(self, rows, list snapshots not None, restore):
        self.rows = rows
        self.snapshots = snapshots
        self.restore = restore

    def __iter__(self):
        return self

    def __next__(self):
        for snapshot in self.snapshots:
            if snapshot is None or not (<Snapshot>snapshot).is_current():
                self.snapshots = self.restore()
                break
        return next(self.rows)
