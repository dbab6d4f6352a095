# cython: language_level=3, boundscheck=False, wraparound=False
"""Copy values so that nothing in a copy can be changed through the value, at the speed of C.

    numbers, strings, tuples of these ─► themselves
    lists, dicts, sets ─► new ones, whose items are copied
    instances that have nothing but a __dict__, arrays ─► as `find_way` says
    anything else ─► NotImplemented

A copy runs no code of the user. What a value contains twice, its copy contains twice, too. There is no need for a copy where
no other code can reach the parts of a value (`separation.pyx`).
"""

from cpython.object cimport PyObject

from pympipool._core.python_types cimport pmp_dict_of
from pympipool._core.separation cimport DEPTH_MAX, Separator, WAY_COPY_DICT, WAY_NO_COPY
from pympipool._core.snapshot cimport Snapshot

cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object one, object name, object value) except -1
# Most objects that can change, in one row. Pickling such a row by itself costs little more than copying it.
cdef Py_ssize_t _OBJECTS_MAX = 64

cdef object _new = object.__new__


cdef class Copier(Separator):
    """Copies values, rows of values, and what calls return.

    Args:
        immutable, find_way: As of `Separator`.
        copy_array: Gets a value, and if it is part of another one. Returns a copy, or NotImplemented.

    Attributes:
        kinds: The classes of all instances that were copied.

    Examples:
        >>> from pympipool._core.separation import NO_COPY
        >>> copier = Copier({int}, lambda kind: NO_COPY, None)
        >>> items = [1]
        >>> first, second = copier.copy([items, items])
        >>> first is second, first is items, copier.copy([len])
        (True, False, NotImplemented)
    """

    cdef object copy_array
    cdef list originals, copies
    cdef bint remembers_all

    def __init__(self, set immutable not None, find_way, copy_array):
        super().__init__(immutable, find_way)
        self.copy_array = copy_array
        self.originals = []
        self.copies = []
        self.remembers_all = False

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
                elif not self.is_separate(<PyObject *>value, 0):
                    self._begin_row()
                    one = self._copy(value, 0)
                    value = freeze(value) if one is NotImplemented else one
            results.append(value)
        self._begin_row()  # nothing else refers to the copies from now on

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
        if depth > DEPTH_MAX:
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
            if type(key) is not str and not self.is_immutable(key, depth):
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
        if not self.are_immutable(value, depth):
            return NotImplemented
        if type(value) is frozenset:
            return value
        copied = (<set>value).copy()
        return copied if self._remember(value, copied, depth) else NotImplemented

    cdef object _copy_object(self, value, kind, int depth):
        cdef int way = self.way_of(kind)
        if way == WAY_COPY_DICT:
            items = pmp_dict_of(value)
            return self._copy_dict(<dict>items, value, depth) if type(items) is dict else NotImplemented
        if way == WAY_NO_COPY:
            return NotImplemented
        copied = self.copy_array(value, depth > 0)
        if copied is NotImplemented or self._remember(value, copied, depth):
            return copied
        return NotImplemented

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

    def close(self):
        """Return no further row, and restore no class."""
        self.rows, self.snapshots = iter(()), []
