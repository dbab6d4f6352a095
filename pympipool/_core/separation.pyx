# cython: language_level=3, boundscheck=False, wraparound=False
"""Tell which values are separate: no other code can reach a part of them that can be changed, so they need no copy.

    numbers, strings, tuples of these ─► always
    lists, dicts, sets, instances that have nothing but a __dict__ ─► if nothing else refers to them, as far as known
    anything else ─► never

What a call has just returned is separate if it has no other references; arguments are if no two calls have the same object.
"""

from cpython.object cimport PyObject

from pympipool._core.python_types cimport pmp_dict_of, pmp_type_version

cdef extern from *:
    """
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
NO_COPY = WAY_NO_COPY
COPY_DICT = WAY_COPY_DICT
COPY_ARRAY = WAY_COPY_ARRAY

cdef object _type_attribute = type.__getattribute__


cdef class TypeWay:
    """How values of a type are copied, as long as the type has this version."""

    cdef object kind
    cdef int way
    cdef unsigned int version


cdef class Separator:
    """Tells which values are separate, and which types have values that can be copied.

    Args:
        immutable: The types whose values cannot be changed; it may grow.
        find_way: Gets any other type. Returns `COPY_DICT` if a copy of the `__dict__` is a copy of the instance, `COPY_ARRAY`
            if its values are arrays, else `NO_COPY`.

    Attributes:
        kinds: The classes of which `find_way` has returned `COPY_DICT`.
    """

    def __init__(self, set immutable not None, find_way):
        self.immutable = immutable
        self.find_way = find_way
        self.ways = {}
        self.kinds = set()

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
                    if not self.is_separate(PyList_GET_ITEM(<PyObject *>column, i), 0):
                        return False
        finally:
            pmp_addresses_clear(&self.addresses)
        return True

    cdef bint is_separate(self, PyObject *value, int depth) except -1:
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
        if depth > DEPTH_MAX or not self._claim(value):
            return False
        if kind == <PyObject *>list:
            while i < PyList_GET_SIZE(value):
                item = PyList_GET_ITEM(value, i)
                i += 1
                if pmp_type_of(item) == seen:
                    continue
                if PySet_Contains(self.immutable, pmp_type_of(item)):
                    seen = pmp_type_of(item)
                elif not self.is_separate(item, depth + 1):
                    return False
            return True
        if kind == <PyObject *>tuple:
            while i < PyTuple_GET_SIZE(value):
                item = PyTuple_GET_ITEM(value, i)
                i += 1
                if not self.is_separate(item, depth + 1):
                    return False
            return True
        if kind == <PyObject *>dict:
            return self._are_items_separate(value, depth)
        if kind == <PyObject *>set or kind == <PyObject *>frozenset:
            return self.are_immutable(<object>value, depth)
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
            if pmp_type_of(key) != <PyObject *>str and not self.is_immutable(<object>key, depth):
                return False
            if pmp_type_of(item) == seen:
                continue
            if PySet_Contains(self.immutable, pmp_type_of(item)):
                seen = pmp_type_of(item)
            elif not self.is_separate(item, depth + 1):
                return False
        return True

    cdef bint _is_instance_separate(self, PyObject *value, kind, int depth) except -1:
        if self.way_of(kind) != WAY_COPY_DICT or pmp_has_weak_references(value):
            return False
        cdef object items = pmp_dict_of(<object>value)
        if type(items) is not dict or (self.is_owned and pmp_references(<PyObject *>items) != 2):
            return False
        return self._are_items_separate(<PyObject *>items, depth)

    cdef bint are_immutable(self, items, int depth) except -1:
        for item in items:
            if not self.is_immutable(item, depth):
                return False
        return True

    cdef bint is_immutable(self, value, int depth) except -1:
        """Return True for an immutable value, and for a tuple of such values."""
        if type(value) is not tuple:
            return type(value) in self.immutable
        if depth > DEPTH_MAX:
            return False
        for item in <tuple>value:
            if not self.is_immutable(item, depth + 1):
                return False
        return True

    cdef int way_of(self, kind) except -1:
        cdef TypeWay known = self.ways.get(id(kind))
        if known is None or known.version == 0 or known.version != pmp_type_version(kind):
            return self._learn(kind)
        return known.way

    cdef int _learn(self, kind) except -1:
        cdef TypeWay known = TypeWay.__new__(TypeWay)
        known.kind = kind
        known.way = self.find_way(kind)
        if known.way == WAY_COPY_DICT:
            self.kinds.add(kind)
        _type_attribute(kind, "__sizeof__")  # a look-up gives a class a version
        known.version = pmp_type_version(kind)
        self.ways[id(kind)] = known
        return known.way
