# cython: language_level=3, boundscheck=False, wraparound=False
"""Compare objects with what they were before, by identity, at the speed of C.

    Snapshot().add_name(namespace, "N", 1), add_function(f, ...), add_class(C) ... ─► is_current()

A snapshot keeps what it was told to compare alive. So no other object can take the place of one in it, at its address.
"""

from cpython.object cimport PyObject
from libc.string cimport memcmp

from pympipool._core.python_types cimport (
    pmp_is_heap_type, pmp_type_bases, pmp_type_dict, pmp_type_name, pmp_type_qualname, pmp_type_version,
)

cdef extern from *:
    """
    #define pmp_function(function) ((PyFunctionObject *)(function))

    static inline int pmp_function_has(PyObject *f, PyObject *code, PyObject *defaults) {
        PyObject *now = pmp_function(f)->func_defaults;
        return pmp_function(f)->func_code == code && (now ? now : Py_None) == defaults;
    }

    static inline PyObject *pmp_function_kwdefaults(PyObject *f) { return pmp_function(f)->func_kwdefaults; }
    static inline PyObject *pmp_function_dict(PyObject *f) { return pmp_function(f)->func_dict; }

    static inline int pmp_function_is_called(PyObject *f, PyObject *name, PyObject *qualname, PyObject *module,
                                             PyObject *doc) {
        PyFunctionObject *now = pmp_function(f);
        return now->func_name == name && now->func_qualname == qualname &&
               (now->func_module ? now->func_module : Py_None) == module && (now->func_doc ? now->func_doc : Py_None) == doc;
    }

    static inline int pmp_has_only_slots(PyObject *object) {
        PyTypeObject *type = Py_TYPE(object);
        return type->tp_dictoffset == 0 && type->tp_weaklistoffset == 0 && type->tp_itemsize == 0;
    }

    static inline char *pmp_slots(PyObject *object) { return (char *)object + sizeof(PyObject); }
    static inline Py_ssize_t pmp_slots_size(PyObject *object) { return Py_TYPE(object)->tp_basicsize - sizeof(PyObject); }
    """
    bint pmp_function_has(object function, object code, object defaults)
    PyObject *pmp_function_kwdefaults(object function)
    PyObject *pmp_function_dict(object function)
    bint pmp_function_is_called(object function, object name, object qualname, object module, object doc)
    bint pmp_has_only_slots(object one)
    char *pmp_slots(object one)
    Py_ssize_t pmp_slots_size(object one)
    PyObject *PyCell_GET(object cell)
    PyObject *PyDict_GetItemWithError(object dict, object key) except? NULL

from gc import get_referents as _get_referents
from types import CellType, FunctionType

# Marks a name that is not defined, and an empty closure cell.
MISSING = object()

cdef object _type_attribute = type.__getattribute__

# Attributes that Python itself adds to a class when they are needed; those with annotations only if there are none.
ADDED_TO_CLASSES = frozenset({"__slotnames__", "__annotations__", "__annotations_cache__", "__annotate_func__"})

# The same for members of an enum: `~member` is kept.
ADDED_TO_MEMBERS = frozenset({"_inverted_"})

cdef frozenset _ADDED_TO_CLASSES = ADDED_TO_CLASSES
cdef frozenset _ADDED_TO_MEMBERS = ADDED_TO_MEMBERS


def is_heap_type(kind):
    """Return True for a class that a class statement made."""
    return pmp_is_heap_type(kind)


cdef bint _is_added(object name, object value):
    """Return True if Python adds this attribute to a class by itself when it is needed."""
    return name in _ADDED_TO_CLASSES and (
        name == "__slotnames__" or value is None or (type(value) is dict and not value))


cdef class _Class:
    """A class with its attributes, names and base classes.

    Python gives a class a new version number for each change of the class or of one of its base classes. Only if the
    number is another one, the attributes are compared.
    """

    cdef object kind, name, qualname, bases
    cdef dict attributes
    cdef unsigned int version

    def __cinit__(self, kind):
        if not pmp_is_heap_type(kind):
            raise TypeError(f"{kind!r} is no class that a class statement made")
        self.kind = kind
        self.name = <object>pmp_type_name(kind)
        self.qualname = <object>pmp_type_qualname(kind)
        self.bases = <object>pmp_type_bases(kind)
        self.attributes = dict(<dict>pmp_type_dict(kind))
        self.version = 0

    cdef bint is_current(self) except -1:
        if <PyObject *>self.name != pmp_type_name(self.kind) or <PyObject *>self.qualname != pmp_type_qualname(self.kind):
            return False
        if self.version != 0 and self.version == pmp_type_version(self.kind):
            return True
        _type_attribute(self.kind, "__sizeof__")  # a look-up gives a class a version
        cdef unsigned int version = pmp_type_version(self.kind)
        if <PyObject *>self.bases != pmp_type_bases(self.kind) or not self._has_same_attributes():
            return False
        self.version = version
        return True

    cdef bint _has_same_attributes(self) except -1:
        cdef dict now = <dict>pmp_type_dict(self.kind)
        cdef Py_ssize_t found = 0
        cdef PyObject *before
        for name, value in now.items():
            before = PyDict_GetItemWithError(self.attributes, name)
            if before == <PyObject *>value:
                found += 1
            elif not _is_added(name, value):
                return False
        if found == len(self.attributes):
            return True
        for name, value in self.attributes.items():
            if name not in now and not _is_added(name, value):
                return False
        return True


cdef class FunctionState:
    """A function with everything that it has besides globals and closure.

    Attributes:
        code: Its code.
        defaults: Its defaults; None if it has none.
        kwdefaults: Its keyword defaults.
        attributes: Its attributes.
        compares_names: Its descriptive names are compared, too. They do not affect what it computes unless code asks for
            them.
    """

    cdef readonly object code, defaults
    cdef readonly dict kwdefaults, attributes
    cdef public bint compares_names
    cdef object function, name, qualname, module, doc

    def __cinit__(self, function):
        if type(function) is not FunctionType:
            raise TypeError(f"{function!r} is no function")
        self.function = function
        self.code = function.__code__
        self.defaults = function.__defaults__
        self.kwdefaults = dict(function.__kwdefaults__ or {})
        self.attributes = dict(function.__dict__)
        self.name, self.qualname = function.__name__, function.__qualname__
        self.module, self.doc = function.__module__, function.__doc__
        self.compares_names = False

    cdef bint is_current(self) except -1:
        if not pmp_function_has(self.function, self.code, self.defaults):
            return False
        if not _is_same_dict(pmp_function_kwdefaults(self.function), self.kwdefaults):
            return False
        if not _is_same_dict(pmp_function_dict(self.function), self.attributes):
            return False
        return not self.compares_names or pmp_function_is_called(
            self.function, self.name, self.qualname, self.module, self.doc
        )


cdef bint _is_same_dict(PyObject *mapping, dict items) except -1:
    """Return True if a dict has exactly these items; NULL is an empty one."""
    if mapping == NULL:
        return not items
    return holds_exactly(<object>mapping, items)


cdef class _Items:
    """A list or a set with its items, in their order. A set that does not change keeps its order."""

    cdef object container
    cdef tuple items

    def __cinit__(self, container):
        self.container = container
        self.items = tuple(container)

    def __call__(self):
        cdef Py_ssize_t i = 0
        if len(self.container) != len(self.items):
            return False
        for item in self.container:
            if i >= len(self.items) or item is not self.items[i]:
                return False
            i += 1
        return True


cdef class Snapshot:
    """Objects as they were when they were added.

    Examples:
        >>> names = {"N": 1}
        >>> snapshot = Snapshot()
        >>> snapshot.add_name(names, "N", 1)
        >>> snapshot.is_current()
        True
        >>> names["N"] = 2
        >>> snapshot.is_current()
        False
    """

    def __cinit__(self):
        self._functions = []
        self._names = []
        self._lookups = []
        self._cells = []
        self._classes = []
        self._dicts = []
        self._slots = []
        self._checks = []

    def add_function(self, function):
        """Add a function. Return it as it is now."""
        state = FunctionState(function)
        self._functions.append(state)
        return state

    def add_name(self, namespace, name, value):
        """Add the value of a name in a mapping; `MISSING` if it is not there."""
        if type(namespace) is dict:
            self._names.append((namespace, name, value))
        else:
            self._lookups.append((namespace.get, name, value))

    def add_cell(self, cell, value):
        """Add the content of a closure cell."""
        if type(cell) is not CellType:
            raise TypeError(f"{cell!r} is no cell")
        self._cells.append((cell, value))

    def add_class(self, kind):
        """Add a class that a class statement made: its attributes, names and base classes. Return its attributes."""
        cdef _Class added = _Class(kind)
        self._classes.append(added)
        return added.attributes.copy()

    def add_dict(self, mapping, dict items not None):
        """Add all items of a mapping."""
        self._dicts.append((mapping, items))

    def add_member(self, dict attributes not None):
        """Add the attributes of a member of an enum. Return those that are compared."""
        compared = {name: value for name, value in attributes.items() if name not in _ADDED_TO_MEMBERS}
        self._dicts.append((attributes, compared, _ADDED_TO_MEMBERS))
        return compared

    def add_slots(self, one):
        """Add the values of an object that has `__slots__` and no `__dict__`.

        Raises:
            TypeError: The object has a `__dict__`, or can be referred to weakly.
        """
        if not pmp_has_only_slots(one):
            raise TypeError(f"an object of type {type(one).__name__} has more than slots")
        values = _get_referents(one)
        self._slots.append((one, pmp_slots(one)[:pmp_slots_size(one)], values))

    def add_items(self, container):
        """Add the items of a list or a set. Return them."""
        cdef _Items added = _Items(container)
        self._checks.append(added)
        return added.items

    def add_check(self, check):
        """Add a function that returns True as long as what it compares is current."""
        self._checks.append(check)

    cpdef bint is_current(self) except -1:
        """Return True if everything is still as it was. Runs at every call."""
        cdef tuple one
        cdef PyObject *found
        for function in self._functions:
            if not (<FunctionState>function).is_current():
                return False
        for one in self._names:
            found = PyDict_GetItemWithError(one[0], one[1])
            if found != <PyObject *>one[2] and (found != NULL or one[2] is not MISSING):
                return False
        for one in self._lookups:
            if one[0](one[1], MISSING) is not one[2]:
                return False
        for one in self._cells:
            if PyCell_GET(one[0]) != <PyObject *>one[1]:
                return False
        for kind in self._classes:
            if not (<_Class>kind).is_current():
                return False
        for one in self._dicts:
            if not (holds_exactly(one[0], <dict>one[1]) if len(one) == 2 else _holds_besides(one[0], one[1], one[2])):
                return False
        for one in self._slots:
            if memcmp(pmp_slots(one[0]), <char *><bytes>one[1], len(<bytes>one[1])) != 0:
                return False
        for check in self._checks:
            if not check():
                return False
        return True


cdef bint _holds_besides(dict mapping, dict items, frozenset ignored) except -1:
    """Return True if a dict has exactly these items, besides those with ignored keys."""
    cdef PyObject *found
    for key, value in mapping.items():
        found = PyDict_GetItemWithError(items, key)
        if found != <PyObject *>value and key not in ignored:
            return False
    for key in items:
        if key not in mapping:
            return False
    return True


cpdef bint holds_exactly(mapping, dict items) except -1:
    """Return True if a mapping has exactly these keys, each with the identical value.

    Examples:
        >>> holds_exactly({"a": None}, {"a": None}), holds_exactly({"a": 1, "b": 2}, {"a": 1})
        (True, False)
    """
    cdef PyObject *found
    if len(mapping) != len(items):
        return False
    if not items:
        return True
    if type(mapping) is dict:
        for key, value in items.items():
            found = PyDict_GetItemWithError(mapping, key)
            if found != <PyObject *>value:
                return False
        return True
    for key, value in items.items():
        if mapping.get(key, MISSING) is not value:
            return False
    return True
