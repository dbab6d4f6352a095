"""Find what the pickle of a class depends on, and which instances cannot change (see `analysis.py`).

    attributes ─► methods, properties, constants; the tables that dataclasses, named tuples and enums keep in a class
                  lists, dicts, sets and simple instances, which are compared item by item
    __bases__, metaclass, registered subclasses ─► importable, or classes by value

A class with any other attribute could change unseen: it is pickled anew for each call. So is one with a list that its module
refers to as well, since a function that changes this list must change it for the class, too.
"""

from __future__ import annotations

import abc
import copyreg
import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import logging
import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from pympipool.serialization.analysis import NotCacheable
from pympipool.serialization.annotations import CACHE, NAMESPACE_CELL, evaluate_annotations

if TYPE_CHECKING:
    from pympipool.serialization.analysis import Analysis

__all__ = ["add_class", "add_content", "add_object"]

_METACLASSES = frozenset({type, abc.ABCMeta, enum.EnumMeta, type(typing.Protocol)})
"""Metaclasses that keep nothing outside the attributes of their classes, except what is known here."""

_METACLASSES_BY_NAME = frozenset(
    {("pydantic._internal._model_construction", "ModelMetaclass"), ("msgspec._core", "StructMeta")}
)
"""The same for metaclasses of modules that are not imported for it."""

_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
"""Types of the attributes that Python makes for `__slots__`, `__dict__` and `__weakref__`."""

_UNCHECKED = frozenset({"__slotnames__", NAMESPACE_CELL, "_abc_impl", "__dict__", "__weakref__"})
"""Attributes that Python derives from others."""

_UNCHECKED_OF_ENUMS = frozenset(
    {
        "_member_names_",
        "_member_map_",
        "_value2member_map_",
        "_hashable_values_",
        "_unhashable_values_",
        "_unhashable_values_map_",
        "_new_member_",
    }
)
"""Attributes of an enum that follow from its members."""


def add_class(analysis: Analysis, kind: type) -> None:
    """Add a class that is pickled by value.

    Raises:
        NotCacheable: It has something that could change unseen.
    """
    evaluate_annotations(kind)
    attributes = analysis.snapshot.add_class(kind)
    _add_metaclass(analysis, type(kind))
    for base in kind.__bases__:
        analysis.add_value(base)
    if isinstance(kind, enum.EnumMeta):
        _add_members(analysis, kind)
        attributes = {name: value for name, value in attributes.items() if name not in kind.__members__}
        attributes = {name: value for name, value in attributes.items() if name not in _UNCHECKED_OF_ENUMS}
    if isinstance(kind, abc.ABCMeta):
        registry = _Registry(kind)
        analysis.snapshot.add_check(registry.is_current)
        for registered in registry.classes():
            analysis.add_value(registered)
    for name, value in attributes.items():
        if name in _UNCHECKED or _is_made_by_library(kind, name):
            continue
        if not any(vars(base).get(name) is value for base in kind.__bases__):
            _add_attribute(analysis, kind, name, value)
        elif _can_change(value):
            raise NotCacheable("an object that can change and that a base class has too")
        subclasses: list[type] = type.__subclasses__(kind)
        if _can_change(value) and any(vars(sub).get(name) is value for sub in subclasses):
            raise NotCacheable("an object that can change and that a subclass has too")


def _is_made_by_library(kind: type, name: str) -> bool:
    """Return True for an attribute that pydantic or msgspec has made from annotations: after a change there is another one."""
    if "__pydantic_decorators__" in vars(kind):
        return name.startswith("__pydantic_") or name == "__signature__"
    return name.startswith("__struct_") and type(kind).__module__ == "msgspec._core"


def _add_metaclass(analysis: Analysis, metaclass: type) -> None:
    if metaclass in _METACLASSES:
        return
    analysis.add_value(metaclass)
    for base in metaclass.__mro__:
        if (
            base is not object
            and base not in _METACLASSES
            and (base.__module__, base.__qualname__) not in _METACLASSES_BY_NAME
            and not any(base is known for known in analysis.classes)
        ):
            raise NotCacheable(f"the metaclass {base.__name__}")


def _add_attribute(analysis: Analysis, owner: type, name: str, value: Any) -> None:
    kind = type(value)
    if kind is types.FunctionType:
        analysis.add_method(value)
    elif kind is classmethod or kind is staticmethod:
        _add_attribute(analysis, owner, name, value.__func__)
    elif kind is property:
        for part in (value.fget, value.fset, value.fdel, value.__doc__):
            analysis.add_method(part)
    elif kind is functools.cached_property:
        analysis.snapshot.add_dict(vars(value), dict(vars(value)))
        analysis.add_method(value.func)
    elif kind in _DESCRIPTORS or kind is _FIELD_GETTER:
        return
    elif kind is dict and name in ("__annotations__", CACHE, "_field_defaults", "__dataclass_fields__"):
        analysis.snapshot.add_dict(value, dict(value))
        for item in list(value.values()):
            analysis.add_value(item)
    elif kind in (list, dict) and name == "__slots__":
        return  # read only while the class is made
    else:
        if _can_change(value) and (analysis.is_known(value) or _is_global(owner.__module__, value)):
            raise NotCacheable("an object that can change and that another class or a function may have too")
        add_content(analysis, value)


def _can_change(value: Any) -> bool:
    kind = type(value)
    return kind in (dict, list, set) or _is_simple(kind)


def _is_global(module_name: Any, value: Any) -> bool:
    """Return True if a name in a module refers to an object."""
    module = sys.modules.get(module_name) if type(module_name) is str else None
    return module is not None and any(one is value for one in list(vars(module).values()))


# ---- attributes that can change ----

ITEMS_MAX = 256
"""Number of items in a container up to which comparing them takes less time than pickling the class."""


def add_content(analysis: Analysis, value: Any) -> None:
    """Add an attribute of a class, or what is in it: containers and simple instances with their items.

    Raises:
        NotCacheable: It could change unseen, or it has too many items.
    """
    kind = type(value)
    if kind is dict or kind is types.MappingProxyType:
        _add_items(analysis, value)
    elif kind is list or kind is set:
        if analysis.is_new(value):
            _add_all(analysis, analysis.snapshot.add_items(value))
    elif kind is frozenset:
        _add_all(analysis, value)
    elif isinstance(value, tuple) and _has_own_reduction(kind):
        if kind is not tuple:
            analysis.add_value(kind)
            _add_items(analysis, getattr(value, "__dict__", {}))
        _add_all(analysis, value)
    elif kind is functools.partial:
        _add_items(analysis, value.keywords)
        _add_items(analysis, vars(value))
        _add_all(analysis, (value.func, value.args))
    elif kind is functools.partialmethod or _is_simple(kind):
        analysis.add_value(kind)
        _add_items(analysis, vars(value))
    else:
        analysis.add_value(value)


def _add_all(analysis: Analysis, items: Collection[Any]) -> None:
    if len(items) > ITEMS_MAX:
        raise NotCacheable("a long container")
    for item in items:
        add_content(analysis, item)


def _add_items(analysis: Analysis, mapping: Mapping[Any, Any]) -> None:
    if analysis.is_new(mapping):
        items = dict(mapping)
        analysis.snapshot.add_dict(mapping, items)
        _add_all(analysis, items.keys())
        _add_all(analysis, items.values())


def _has_own_reduction(kind: Any) -> bool:
    """Return True if pickle uses the reduction of `object` for instances."""
    return kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__


def is_of_attrs(function: types.FunctionType) -> bool:
    """Return True for a method that attrs has made. What it refers to belongs to its class."""
    module = function.__globals__.get("__name__", "")
    return function.__code__.co_filename.startswith("<attrs generated") or str(module).startswith("attr.")


def _is_simple(kind: type) -> bool:
    """Return True if instances of a class are nothing but their `__dict__`, for pickle too."""
    from pympipool.serialization.by_value import is_only_attributes

    return kind.__module__.partition(".")[0] not in ("builtins", *_DESCRIBING_LIBRARIES) and is_only_attributes(kind)


_FIELD_GETTER = type(inspect.getattr_static(typing.NamedTuple("_", [("x", int)]), "x"))
"""The type of the attributes with which a named tuple gets its fields."""


class _Registry:
    """The classes that were registered as subclasses of an abstract base class."""

    def __init__(self, kind: abc.ABCMeta) -> None:
        self._kind = kind
        self._token = abc.get_cache_token()  # another one after each registration anywhere
        self._ids = {id(registered) for registered in self.classes()}

    def classes(self) -> list[type]:
        registry, *_ = abc._get_dump(self._kind)  # type: ignore[attr-defined]
        return [registered for registered in [reference() for reference in registry] if registered is not None]

    def is_current(self) -> bool:
        token = abc.get_cache_token()
        if token == self._token:
            return True
        if {id(registered) for registered in self.classes()} != self._ids:
            return False
        self._token = token
        return True


def _add_members(analysis: Analysis, kind: enum.EnumMeta) -> None:
    """Add the members of an enum, with aliases, by their names, values and attributes."""
    analysis.snapshot.add_dict(kind._member_map_, dict(kind._member_map_))
    for member in kind._member_map_.values():
        for value in analysis.snapshot.add_member(vars(member)).values():
            if value is not kind:
                analysis.add_value(value)


# ---- instances ----

_IMMUTABLE = frozenset(
    {
        re.Pattern,
        logging.Logger,
        datetime.date,
        datetime.timedelta,
        datetime.timezone,
        decimal.Decimal,
        range,
        typing.ForwardRef,
        type(dataclasses.MISSING),
        type(getattr(dataclasses, "KW_ONLY", None)),
        type(getattr(dataclasses, "_HAS_DEFAULT_FACTORY", None)),
        type(getattr(dataclasses, "_FIELD", None)),
    }
)
"""Types whose instances cannot change, and loggers, which are pickled as their names."""

_IMMUTABLE_BY_NAME = frozenset(
    {
        *((module, kind) for module in ("pathlib", "pathlib._local") for kind in ("PosixPath", "PurePosixPath")),
        *(("ipaddress", f"IPv{v}{kind}") for v in (4, 6) for kind in ("Address", "Network", "Interface")),
        ("uuid", "UUID"),
        ("fractions", "Fraction"),
        ("zoneinfo", "ZoneInfo"),
    }
)
"""The same for types of modules that are not imported for it."""

_DESCRIBING_LIBRARIES = ("pydantic", "pydantic_core", "annotated_types")
"""Libraries whose objects describe the fields of classes, and are changed only together with the class."""

_TYPE_ALIASES = (types.GenericAlias, types.UnionType, typing._GenericAlias, typing._SpecialGenericAlias)  # type: ignore[attr-defined]
"""Types of expressions such as `list[int]`, `int | None` and `typing.Optional[int]`."""


def add_object(analysis: Analysis, value: Any) -> None:
    """Add an object that is neither importable nor a constant, module, function or class.

    Raises:
        NotCacheable: It could change unseen.
    """
    kind = type(value)
    if kind in _IMMUTABLE or (kind.__module__, kind.__qualname__) in _IMMUTABLE_BY_NAME or _is_numpy_scalar(kind):
        return
    if isinstance(value, _TYPE_ALIASES):
        _add_type_alias(analysis, value)
    elif kind in _PARTS:
        for part in _PARTS[kind](value):
            analysis.add_method(part)
    elif kind is dataclasses.Field:
        _add_field(analysis, value)
    elif kind is _PARAMETERS:
        analysis.snapshot.add_slots(value)
    elif kind.__module__.partition(".")[0] == "attr":
        for name in copyreg._slotnames(kind):  # type: ignore[attr-defined]  # there is no public way
            add_content(analysis, getattr(value, name, None))
    elif kind.__module__.partition(".")[0] in _DESCRIBING_LIBRARIES:
        return
    elif isinstance(kind, enum.EnumMeta) and kind._member_map_.get(value._name_) is value:
        analysis.add_value(kind)
    else:
        raise NotCacheable(f"an object of type {kind.__name__}")


def _parts_of_method(method: Any) -> tuple[Any, ...]:
    if not isinstance(method.__self__, type):
        raise NotCacheable("a bound method")
    return (method.__self__, getattr(method, "__func__", None))


_PARTS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    datetime.datetime: lambda value: (value.tzinfo,),
    datetime.time: lambda value: (value.tzinfo,),
    dataclasses.InitVar: lambda value: (value.type,),
    typing.TypeVar: lambda value: (value.__bound__, *value.__constraints__),
    types.MethodDescriptorType: lambda value: (value.__objclass__,),
    types.WrapperDescriptorType: lambda value: (value.__objclass__,),
    types.MethodWrapperType: lambda value: (value.__self__,),
    operator.itemgetter: lambda value: value.__reduce__()[1],
    operator.attrgetter: lambda value: value.__reduce__()[1],
    types.BuiltinFunctionType: _parts_of_method,
    types.MethodType: _parts_of_method,
}
"""What else than constants the instances of these types refer to, without ever changing it."""


def _add_type_alias(analysis: Analysis, value: Any) -> None:
    for part in (getattr(value, "__origin__", None), *getattr(value, "__args__", ())):
        _add_type_argument(analysis, part)
    for part in getattr(value, "__metadata__", ()):
        analysis.add_value(part)


def _add_type_argument(analysis: Analysis, part: Any) -> None:
    for item in part if type(part) is list else [part]:
        analysis.add_value(item)


_PARAMETERS: Any = getattr(dataclasses, "_DataclassParams", None)

_NO_METADATA: Any = getattr(dataclasses, "_EMPTY_METADATA", None)
"""The metadata of all fields that have none."""


def _add_field(analysis: Analysis, field: dataclasses.Field[Any]) -> None:
    """Add a field of a dataclass. Its default is an attribute of the class, too."""
    try:
        analysis.snapshot.add_slots(field)
    except TypeError as error:
        raise NotCacheable(str(error)) from error
    metadata = dict(field.metadata)
    if field.metadata is not _NO_METADATA:
        analysis.snapshot.add_dict(field.metadata, metadata)
    for value in (field.type, *metadata.keys(), *metadata.values()):
        analysis.add_value(value)
    add_content(analysis, field.default)
    analysis.add_method(field.default_factory)


def _is_numpy_scalar(kind: type) -> bool:
    numpy = sys.modules.get("numpy")
    generic = getattr(numpy, "generic", None)
    return generic is not None and issubclass(kind, (numpy.number, numpy.bool_)) and kind.__module__ == "numpy"  # type: ignore[union-attr]
