# cython: language_level=3, boundscheck=False, wraparound=False
"""Decide how the objects in a value are pickled, at the speed of C.

    a function, a class ─► importable: by its name │ otherwise the pickler reduces it
    any other object ─► a reducer, as its class was found to need │ its __dict__ │ pickle's own way

What was found out about a class is kept until the class changes.
"""

import sys
from copyreg import __newobj__ as _new_object, _slotnames as _slot_names
from types import FunctionType, GetSetDescriptorType, ModuleType

from cpython.object cimport PyObject
from cpython.type cimport PyType_Check

from pympipool._core.python_types cimport (
    pmp_dict_of, pmp_has_only_dict, pmp_type_dict, pmp_type_mro, pmp_type_version,
)

cdef extern from *:
    PyObject *PyDict_GetItemWithError(object dict, object key) except? NULL

cdef Py_ssize_t _KINDS_MAX = 1024
cdef object _type_attribute = type.__getattribute__


cdef class _Kind:
    """How the instances of a class are pickled, as long as the class has this version.

    Python gives each class, and a class that was changed, a version number that no other one has had.
    """

    cdef unsigned int version
    cdef object registered  # the reducer in the tables, or None
    cdef object reduce  # the reducer to use; None: pickle's own way
    cdef bint is_simple  # pickle's own way is to pickle the __dict__


cdef class Reductions:
    """What a kind of pickler has found out about classes.

    Args:
        tables: Dicts with reducers by type; the first one that has a type counts.
        find_reducer: Gets a class and its reducer in the tables, or None. Returns the reducer to use; None: pickle's own way.
        by_value: The names of modules whose classes and functions travel by value.
        specs: The spec of each module whose classes and functions may travel by name. None: those of all modules may.
    """

    cdef tuple tables
    cdef dict kinds, specs
    cdef set by_value
    cdef object find_reducer

    def __init__(self, tuple tables not None, find_reducer, set by_value not None, dict specs):
        self.tables = tables
        self.find_reducer = find_reducer
        self.by_value = by_value
        self.specs = specs
        self.kinds = {}

    cpdef bint is_importable(self, value) except -1:
        """Return True if a function or class can certainly be pickled by its name; False if the pickler has to decide."""
        try:
            name, path = value.__module__, value.__qualname__
        except Exception:
            return False
        if type(name) is not str or type(path) is not str or name == "__main__" or self.may_go_by_value(name):
            return False
        module = sys.modules.get(name)
        if type(module) is not ModuleType:
            return False
        names = (<object>module).__dict__
        if PyDict_GetItemWithError(names, path) != <PyObject *>value:
            return False
        return self.specs is None or self.specs.get(name, self) is (<dict>names).get("__spec__")

    cdef bint may_go_by_value(self, name) except -1:
        """Return True if a module of this name, or a package that contains it, is registered to be pickled by value."""
        if not self.by_value:
            return False
        while name:
            if name in self.by_value:
                return True
            name = name.rpartition(".")[0]
        return False

    def is_inert(self, kind):
        """Return True if instances of a class are their `__dict__`, and if no code of the class runs when a copy of one is made,
        pickled, unpickled or dropped."""
        if not self.look_up(kind).is_simple or kind.__new__ is not object.__new__:
            return False
        return _attribute(kind, "__setstate__") is None and _attribute(kind, "__del__") is None

    cdef _Kind look_up(self, kind):
        cdef object registered = None
        cdef PyObject *found
        for table in self.tables:
            found = PyDict_GetItemWithError(table, kind)
            if found != NULL:
                registered = <object>found
                break
        cdef _Kind known = self.kinds.get(id(kind))
        if (
            known is None or known.registered is not registered or known.version == 0
            or known.version != pmp_type_version(kind)
        ):
            known = self.learn(kind, registered)
        return known

    cdef _Kind learn(self, kind, registered):
        cdef _Kind known = _Kind.__new__(_Kind)
        known.registered = registered
        known.reduce = self.find_reducer(kind, registered)
        known.is_simple = known.reduce is None and _is_simple(kind)
        _type_attribute(kind, "__sizeof__")  # a look-up gives a class a version
        known.version = pmp_type_version(kind)
        if len(self.kinds) >= _KINDS_MAX:
            self.kinds.clear()
        self.kinds[id(kind)] = known
        return known


def reducer_override(self, value):
    """Reduce an object. The method `reducer_override` of a pickler.

    Args:
        self: The pickler; it has an attribute `reductions`, and the methods `reduce_function` and `reduce_class`.
        value: Any object.
    """
    cdef Reductions reductions = self.reductions
    cdef object kind = type(value)
    if kind is FunctionType:
        return NotImplemented if reductions.is_importable(value) else self.reduce_function(value)
    if PyType_Check(value):
        return NotImplemented if reductions.is_importable(value) else self.reduce_class(value)
    cdef _Kind known = reductions.look_up(kind)
    if known.is_simple:
        return _new_object, (kind,), pmp_dict_of(value) or None
    return NotImplemented if known.reduce is None else known.reduce(value)


_OWN = {name: object.__dict__.get(name) for name in ("__reduce_ex__", "__reduce__", "__getstate__", "__class__")}


cdef bint _is_simple(kind) except -1:
    """Return True if instances of a class are rebuilt by an empty instance and the items of its `__dict__`, as pickle does."""
    if not pmp_has_only_dict(kind):
        return False
    for name, own in _OWN.items():
        if _attribute(kind, name) is not own:
            return False
    if _attribute(kind, "__getnewargs__") is not None or _attribute(kind, "__getnewargs_ex__") is not None:
        return False
    if type(_attribute(kind, "__dict__")) is not GetSetDescriptorType:
        return False
    return not _slot_names(kind)  # last, since it adds an attribute to the class, as pickle does


cdef object _attribute(kind, name):
    """Return an attribute of a class or of a base class, whatever its metaclass says; None if there is none."""
    for base in <tuple>pmp_type_mro(kind):
        found = (<dict>pmp_type_dict(base)).get(name) if pmp_type_dict(base) != NULL else vars(base).get(name)
        if found is not None:
            return found
    return None
