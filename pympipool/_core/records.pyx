# cython: language_level=3, boundscheck=False, wraparound=False
"""Turn values of one shape into columns of what they consist of, and back, at the speed of C.

    [{"id": 1, "xy": [1.0, 2.0]}, {"id": 2, "xy": [3.0]}]  ─►  id: [1, 2]    xy: [1.0, 2.0, 3.0], ending at [2, 3]

Pickling a flat list of numbers or strings takes a fraction of what the small containers take that they come from. The columns
are a copy: no other code can change what they consist of. Each value is built by itself, when it is asked for.

A form is a list of immutable values, or what becomes one when it is unpickled, or a tuple; its first item tells at which place its
forms begin, except for lists:

    (LISTS, where each list ends among the items, or the length of each, form of the items)
    (TUPLES, form, ...)
    (DICTS, keys, form, ...)
    (INSTANCES, class, keys, form, ...)
    (ARRAYS, a list of arrays, or what becomes one when it is unpickled)
"""

from cpython.dict cimport PyDict_Next, PyDict_SetItem
from cpython.object cimport PyObject

from sys import intern as _intern

from pympipool._core.separation import COPY_ARRAY, COPY_DICT
from pympipool._core.python_types cimport pmp_dict_of

cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object one, object name, object value) except -1

cdef extern from *:
    """
    static inline Py_ssize_t pmp_references(PyObject *one) { return Py_REFCNT(one); }
    """
    Py_ssize_t pmp_references(PyObject *one)

cdef enum:
    LISTS = 0
    TUPLES = 1
    DICTS = 2
    INSTANCES = 3
    ARRAYS = 4
    DEPTH_MAX = 16
    FIELDS_MAX = 64
    # Mean number of items of a list above which it costs more to put lists together than pickling them by themselves.
    ITEMS_MAX = 1000

cdef int _COPY_DICT = COPY_DICT
cdef int _COPY_ARRAY = COPY_ARRAY

cdef object _new = object.__new__


cdef class Transposer:
    """Turns lists of values into forms.

    Args:
        immutable: The types whose values cannot be changed.
        find_way: Gets any other type, and tells how its values are copied, as for a `Copier`.
        copy_arrays: Gets arrays that are parts of values. Returns copies in the form in which they travel, or None.
        pack_scalars: Gets immutable values, not all of them Python's own. Returns the form in which they travel.

    Attributes:
        kinds: The classes of the instances in all forms.

    Examples:
        >>> transposer = Transposer({int}, None, None, None)
        >>> form = transposer.form_of([[1, 2], [3]])
        >>> form, rows_of(form, 2)
        ((0, [2, 3], [1, 2, 3]), [[1, 2], [3]])
        >>> same = []
        >>> transposer.form_of([[same, same]])
    """

    cdef set immutable
    cdef object find_way, copy_arrays, pack_scalars
    cdef readonly set kinds

    def __init__(self, set immutable not None, find_way, copy_arrays, pack_scalars):
        self.immutable = immutable
        self.find_way = find_way
        self.copy_arrays = copy_arrays
        self.pack_scalars = pack_scalars
        self.kinds = set()

    def form_of(self, list values not None):
        """Return the form of values; None if there is none.

        There is none if the values differ in their shape, or if a container in one of them may be in it twice: then it would
        arrive as two.
        """
        return self._form(values, 0) if values else None

    cdef object _form(self, list values, int depth):
        cdef object kind
        if not values:
            return values
        kind = type(values[0])
        if kind in self.immutable:
            return self._immutable_form(values)
        if depth > DEPTH_MAX:
            return None
        if kind is tuple:
            return self._immutable_form(values) or self._tuples_form(values, depth)
        if not self._are_of(values, kind, depth):
            return None
        if kind is dict:
            return self._dicts_form((DICTS,), values, depth)
        if kind is list:
            return self._lists_form(values, depth)
        cdef int way = self.find_way(kind)
        if way == _COPY_DICT:
            return self._instances_form(values, kind, depth)
        arrays = self.copy_arrays(values) if way == _COPY_ARRAY and depth else None
        return None if arrays is None else (ARRAYS, arrays)

    cdef bint _are_of(self, list values, kind, int depth) except -1:
        """Return True if all values are of this type, and besides the list of the values, each belongs to one owner."""
        for value in values:  # refers to the value, too
            if type(value) is not kind or (depth and pmp_references(<PyObject *>value) > 3):
                return False
        return True

    cdef object _immutable_form(self, list values):
        """Return values that cannot be changed as a form; None if some can."""
        cdef object seen = None
        cdef bint are_own = True
        for value in values:
            if type(value) is not seen:
                if type(value) is tuple:
                    if not self._is_immutable(value, 0):
                        return None
                elif type(value) in self.immutable:
                    seen = type(value)
                    are_own = are_own and seen.__module__ == "builtins"
                else:
                    return None
        return values if are_own else self.pack_scalars(values)

    cdef bint _is_immutable(self, value, int depth) except -1:
        if type(value) is not tuple:
            return type(value) in self.immutable
        if depth > DEPTH_MAX:
            return False
        for item in <tuple>value:
            if not self._is_immutable(item, depth + 1):
                return False
        return True

    cdef object _lists_form(self, list values, int depth):
        cdef list items = []
        cdef list ends = []
        cdef Py_ssize_t length = len(<list>values[0])
        cdef bint are_equal = True
        for value in values:
            items += <list>value
            are_equal = are_equal and len(<list>value) == length
            ends.append(len(items))
        if len(items) > ITEMS_MAX * len(values):
            return None
        form = self._form(items, depth + 1)
        return None if form is None else (LISTS, length if are_equal else ends, form)

    cdef object _tuples_form(self, list values, int depth):
        cdef Py_ssize_t length = len(<tuple>values[0])
        cdef Py_ssize_t i
        if length > FIELDS_MAX:
            return None
        for value in values:
            if type(value) is not tuple or len(<tuple>value) != length or (depth and pmp_references(<PyObject *>value) > 3):
                return None
        return self._with_fields((TUPLES,), [[(<tuple>value)[i] for value in values] for i in range(length)], depth)

    cdef object _instances_form(self, list values, kind, int depth):
        cdef list dicts = [pmp_dict_of(value) for value in values]
        if not self._are_of(dicts, dict, 1):
            return None
        form = self._dicts_form((INSTANCES, kind), dicts, depth)
        if form is not None:
            self.kinds.add(kind)
        return form

    cdef object _dicts_form(self, tuple start, list values, int depth):
        cdef tuple keys = tuple(<dict>values[0])
        cdef list fields = [[] for _ in keys]
        cdef PyObject *key = NULL
        cdef PyObject *item = NULL
        cdef Py_ssize_t position, i
        if len(keys) > FIELDS_MAX:
            return None
        for one in keys:
            if type(one) is not str:
                return None
        for value in values:
            if len(<dict>value) != len(keys):
                return None
            i = position = 0
            while PyDict_Next(value, &position, &key, &item):
                if key != <PyObject *>keys[i] and (type(<object>key) is not str or <object>key != keys[i]):
                    return None
                (<list>fields[i]).append(<object>item)
                i += 1
        return self._with_fields((*start, keys), fields, depth)

    cdef object _with_fields(self, tuple start, list fields, int depth):
        cdef list forms = []
        for field in fields:
            form = self._form(field, depth + 1)
            if form is None:
                return None
            forms.append(form)
        return (*start, *forms)


def cut(form, Py_ssize_t begin, Py_ssize_t end):
    """Return the form of some of the values: from number begin to before number end.

    Examples:
        >>> cut((0, [2, 2, 3], [1, 2, 3]), 1, 3)
        (0, [0, 1], [3])
    """
    if type(form) is not tuple:
        return form[begin:end]
    cdef tuple parts = <tuple>form
    cdef Py_ssize_t length, first
    if parts[0] == LISTS:
        if type(parts[1]) is int:
            length = parts[1]
            return LISTS, length, cut(parts[2], begin * length, end * length)
        first = parts[1][begin - 1] if begin else 0
        ends = (<list>parts[1])[begin:end]
        return LISTS, [last - first for last in ends], cut(parts[2], first, ends[len(ends) - 1] if ends else first)
    if parts[0] == ARRAYS:
        return ARRAYS, parts[1][begin:end]
    first = parts[0]
    return (*parts[:first], *[cut(one, begin, end) for one in parts[first:]])


def rows_of(form, Py_ssize_t count):
    """Return the values that a form was made from."""
    cdef _Column column = _column_of(form)
    cdef Py_ssize_t i
    return [column.build(i) for i in range(count)]


cdef class RowIterator:
    """An iterator over the values that a form was made from. It keeps nothing of them that can be changed.

    Args:
        form: The form.
        count: Number of values.
    """

    cdef _Column column
    cdef Py_ssize_t position, count

    def __init__(self, form, Py_ssize_t count):
        self.column = _column_of(form)
        self.position = 0
        self.count = count

    def __iter__(self):
        return self

    def __next__(self):
        if self.position >= self.count:
            raise StopIteration
        self.position += 1
        return self.column.build(self.position - 1)

    def close(self):
        """Build no further value."""
        self.count = 0


cdef class _Column:
    """A form, ready for building values."""

    cdef object build(self, Py_ssize_t i):
        raise NotImplementedError


cdef class _Values(_Column):
    """Values that cannot be changed."""

    cdef list values

    cdef object build(self, Py_ssize_t i):
        return self.values[i]


cdef class _Arrays(_Column):
    """Arrays; each is kept until it is built."""

    cdef list values

    cdef object build(self, Py_ssize_t i):
        value = self.values[i]
        self.values[i] = None
        return value


cdef class _Lists(_Column):
    cdef Py_ssize_t length
    cdef list ends
    cdef _Column items

    cdef object build(self, Py_ssize_t i):
        cdef Py_ssize_t begin, end
        if self.ends is None:
            begin, end = i * self.length, (i + 1) * self.length
        else:
            begin, end = self.ends[i - 1] if i else 0, self.ends[i]
        if type(self.items) is _Values:
            return (<_Values>self.items).values[begin:end]
        return [self.items.build(i) for i in range(begin, end)]


cdef class _Tuples(_Column):
    cdef list fields

    cdef object build(self, Py_ssize_t i):
        return tuple([(<_Column>field).build(i) for field in self.fields])


cdef class _Dicts(_Column):
    cdef tuple keys
    cdef list fields
    cdef dict empty

    cdef object build(self, Py_ssize_t i):
        cdef dict built = self.empty.copy()  # has room for all keys
        cdef Py_ssize_t j
        for j in range(len(self.keys)):
            PyDict_SetItem(built, self.keys[j], (<_Column>self.fields[j]).build(i))
        return built


cdef class _Instances(_Dicts):
    cdef object kind

    cdef object build(self, Py_ssize_t i):
        built = _new(self.kind)
        # not PyObject_GenericSetDict: since Python 3.13 it leaves the inline values of the instance in force
        PyObject_GenericSetAttr(built, "__dict__", _Dicts.build(self, i))
        return built


cdef _Column _column_of(form):
    cdef _Values values
    cdef _Arrays arrays
    cdef _Lists lists
    cdef _Tuples tuples
    cdef _Dicts dicts
    cdef tuple parts
    if type(form) is not tuple:
        values = _Values.__new__(_Values)
        values.values = form
        return values
    parts = <tuple>form
    if parts[0] == ARRAYS:
        arrays = _Arrays.__new__(_Arrays)
        arrays.values = parts[1]
        return arrays
    if parts[0] == LISTS:
        lists = _Lists.__new__(_Lists)
        lists.ends = parts[1] if type(parts[1]) is list else None
        lists.length = 0 if type(parts[1]) is list else parts[1]
        lists.items = _column_of(parts[2])
        return lists
    if parts[0] == TUPLES:
        tuples = _Tuples.__new__(_Tuples)
        tuples.fields = [_column_of(one) for one in parts[1:]]
        return tuples
    if parts[0] == DICTS:
        dicts = _Dicts.__new__(_Dicts)
    else:
        dicts = _Instances.__new__(_Instances)
        (<_Instances>dicts).kind = parts[1]
        parts = (parts[0], tuple([_intern(name) for name in parts[2]]), *parts[3:])
    dicts.keys = parts[1]
    dicts.empty = dict.fromkeys(dicts.keys)
    dicts.fields = [_column_of(one) for one in parts[2:]]
    return dicts
