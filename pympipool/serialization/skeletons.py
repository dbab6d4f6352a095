"""Build classes that travel by value: what a class statement does at once, and cloudpickle in the wrong way or not at all.

    pickling:   reduce_skeleton(class, reduced)  ─► constructor, arguments, state, ...
    unpickling: make_class(...) ─► an empty class ─► its attributes, one by one

- `__slots__` have an effect only while the class is made.
- `__init_subclass__`, and `__new__` and `__init__` of a metaclass, have run in the script. What they have changed travels, so
  those that travel by value do not run again. Those that can be imported do: they may register the class.
- pydantic makes validators from annotations, which contain the class itself. They are made again when they are first used.
- A `typing.TypedDict` must not have `dict` among its base classes, and has it as its only one.
- `ctypes` and msgspec make descriptors from the fields of a class, which no pickle can contain.
"""

from __future__ import annotations

import contextlib
import operator
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from cloudpickle import cloudpickle

from pympipool._core.snapshot import is_heap_type
from pympipool.serialization.annotations import annotations_of
from pympipool.serialization.payload import DEFINE_IN_MODULE

__all__ = ["reduce_skeleton"]


def reduce_skeleton(kind: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the reduction of a class that travels by value.

    Args:
        kind: The class.
        reduced: cloudpickle's reduction of it: constructor, arguments, state, two times None, state setter.

    Raises:
        TypeError: The class cannot travel by value.
    """
    make, arguments, state, _, _, set_state = reduced
    if make is not cloudpickle._make_skeleton_class:  # an enum
        return reduced
    library = type(kind).__module__.partition(".")[0]
    if library == "sqlalchemy":
        raise TypeError(f"{kind.__qualname__} is a mapped class of SQLAlchemy, which exists once: {DEFINE_IN_MODULE}")
    if library == "msgspec":
        return _reduce_struct(kind, arguments, state, set_state)
    if "__pydantic_decorators__" in vars(kind):
        return _reduce_pydantic(kind, reduced)
    if "ctypes" in sys.modules:
        reduced = _reduce_ctypes_type(kind, reduced)
        if len(reduced) != 6:
            return reduced
        make, arguments, state, _, _, set_state = reduced
    metaclass, name, bases, namespace, class_id, more = arguments
    if bases == (dict,) and typing.is_typeddict(kind):
        bases = (typing.TypedDict,)  # before 3.12 it does not keep the base classes that it was given
    slots = vars(kind).get("__slots__")
    if slots is not None and typing.NamedTuple not in bases:  # a named tuple forbids to set them
        namespace = {**namespace, "__slots__": slots if isinstance(slots, (str, dict)) else tuple(slots)}
    return make_class, (metaclass, name, bases, namespace, class_id, more), state, None, None, set_state


def make_class(
    metaclass: Any,
    name: str,
    bases: tuple[Any, ...],
    namespace: dict[str, Any],
    class_id: str,
    keywords: dict[str, Any] | None,
) -> Any:
    """Return a class without attributes, but with its slots.

    Args:
        metaclass: None: that of the base classes.
        keywords: Arguments of the class statement.
    """
    namespace = {sys.intern(key): value for key, value in namespace.items()}  # as cloudpickle does

    def build() -> Any:
        return _build(metaclass, name, bases, namespace, keywords)

    return cloudpickle._lookup_class_or_track(class_id, _call_without_hooks(bases, build))


def _build(
    metaclass: Any, name: str, bases: tuple[Any, ...], namespace: dict[str, Any], keywords: dict[str, Any] | None
) -> Any:
    keywords = dict(keywords or {})
    if metaclass is not None and metaclass in cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS:
        importable: Any = next(
            one for one in metaclass.__mro__ if one not in cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS
        )
        return importable.__new__(metaclass, name, bases, dict(namespace), **keywords)
    if metaclass is not None:
        keywords["metaclass"] = metaclass
    return types.new_class(name, bases, keywords, lambda attributes: attributes.update(namespace))


# ---- __init_subclass__ ----


def _call_without_hooks(bases: tuple[Any, ...], build: Callable[[], Any]) -> Any:
    """Call build() so that no `__init_subclass__` of a class by value runs, and no other one that fails without arguments."""
    definer = next((one for base in bases for one in getattr(base, "__mro__", ()) if _defines_hook(one)), None)
    if definer is None:
        return build()
    if definer not in cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS:
        try:
            return build()
        except TypeError:  # it needs arguments of the class statement
            pass
    with _without_hook(definer):
        return build()


def _defines_hook(kind: type) -> bool:
    return "__init_subclass__" in vars(kind) and is_heap_type(kind)


_hook_lock = threading.RLock()


@contextlib.contextmanager
def _without_hook(kind: type) -> Iterator[None]:
    with _hook_lock:
        hook = vars(kind)["__init_subclass__"]
        type.__setattr__(kind, "__init_subclass__", lambda **_: None)
        try:
            yield
        finally:
            type.__setattr__(kind, "__init_subclass__", hook)


# ---- ctypes ----


def _reduce_ctypes_type(kind: Any, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the reduction of a type of ctypes; other classes unchanged.

    Structures and unions have fields, whose descriptors ctypes makes. All other types are made by functions of ctypes.
    """
    import ctypes

    if issubclass(kind, (ctypes.Structure, ctypes.Union)):
        return _reduce_structure(kind, reduced)
    if issubclass(kind, ctypes.Array) and "_length_" in vars(kind):
        return _multiply, (kind._type_, kind._length_)
    if issubclass(kind, ctypes._Pointer) and "_type_" in vars(kind):
        return ctypes.POINTER, (kind._type_,)
    if issubclass(kind, ctypes._CFuncPtr) and "_argtypes_" in vars(kind):  # type: ignore[attr-defined]
        return ctypes.CFUNCTYPE, (kind._restype_, *kind._argtypes_)
    native = getattr(kind, "__ctype_le__", kind) if sys.byteorder == "little" else getattr(kind, "__ctype_be__", kind)
    if issubclass(kind, ctypes._SimpleCData) and native is not kind:
        return getattr, (native, "__ctype_be__" if sys.byteorder == "little" else "__ctype_le__")
    return reduced


def _multiply(kind: Any, length: int) -> Any:
    return kind * length


def _reduce_structure(kind: Any, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    make, (_, *arguments), (attributes, slots), _, _, set_state = reduced
    fields = {field[0] for field in vars(kind).get("_fields_", ())}
    # their names stay in the state: these attributes belong to the class
    attributes = {name: None if name in fields else value for name, value in attributes.items()}
    attributes = {name: value for name, value in attributes.items() if name not in ("__ctype_le__", "__ctype_be__")}
    state = (attributes, slots, fields, set_state)
    return make, (None, *arguments), state, None, None, _define_structure


def _define_structure(kind: Any, state: tuple[Any, ...]) -> None:
    """Set the attributes of a structure: those that describe its layout before the fields, which are final."""
    attributes, slots, fields, set_state = state
    before = {name: value for name, value in attributes.items() if name not in fields and name != "_fields_"}
    set_state(kind, (before, slots))
    if "_fields_" in attributes and "_fields_" not in vars(kind):
        kind._fields_ = attributes["_fields_"]


# ---- pydantic ----

_GENERATED = frozenset(
    f"__pydantic_{name}__" for name in ("core_schema", "validator", "serializer", "complete", "setattr_handlers")
) | {"__signature__"}
"""Attributes that pydantic makes when it completes a class."""


def _reduce_pydantic(kind: Any, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the reduction of a model or dataclass of pydantic, without what pydantic generates.

    A generic model with arguments is made by indexing: pydantic keeps one class for each combination of arguments.
    """
    _, arguments, (attributes, slots), _, _, set_state = reduced
    is_model = isinstance(vars(kind).get("__pydantic_generic_metadata__"), dict)
    if is_model and kind.__pydantic_generic_metadata__["origin"] is not None:
        generic = kind.__pydantic_generic_metadata__
        return operator.getitem, (generic["origin"], generic["args"])
    generated = {name: None for name in attributes if name in _GENERATED}  # their names stay in the state
    attributes = {name: value for name, value in attributes.items() if name not in generated}
    metaclass, name, bases, namespace, class_id, _ = arguments
    if is_model:
        arguments = (metaclass, name, bases, namespace, class_id, {"defer_build": True})
    return make_class, arguments, (attributes | generated, slots, set_state), None, None, _define_pydantic


def _define_pydantic(kind: Any, state: tuple[Any, ...]) -> None:
    attributes, slots, set_state = state
    set_state(kind, ({name: value for name, value in attributes.items() if name not in _GENERATED}, slots))
    if not isinstance(vars(kind).get("__pydantic_generic_metadata__"), dict):
        from pydantic.dataclasses import rebuild_dataclass

        rebuild_dataclass(kind, force=True, raise_errors=False)
    elif kind.__pydantic_complete__:  # it has an older state, and has been used
        kind.model_rebuild(force=True, raise_errors=False)


# ---- msgspec ----

_OPTIONS = (
    "frozen",
    "eq",
    "order",
    "array_like",
    "gc",
    "repr_omit_defaults",
    "omit_defaults",
    "forbid_unknown_fields",
    "weakref",
    "dict",
    "cache_hash",
    "tag",
    "tag_field",
)
"""Options of a `msgspec.Struct`, which its `__struct_config__` has."""


def _reduce_struct(kind: Any, arguments: Any, state: Any, set_state: Any) -> tuple[Any, ...]:
    """Return the reduction of a `msgspec.Struct`: fields with defaults first, then its other attributes."""
    metaclass, name, bases, namespace, class_id, _ = arguments
    names, encoded, defaults = kind.__struct_fields__, kind.__struct_encode_fields__, kind.__struct_defaults__
    annotations = annotations_of(kind)
    default_of = dict(zip(reversed(names), reversed(defaults), strict=False))
    own = [one for one in names if one in annotations]
    fields = [(one, encoded[names.index(one)], *_default_parts(default_of, one)) for one in own]
    options = {one: getattr(kind.__struct_config__, one) for one in _OPTIONS if hasattr(kind.__struct_config__, one)}
    options["kw_only"] = any(one not in kind.__match_args__ for one in own)
    attributes, slots = state
    made = {*own, "__slots__", "__weakref__", "__match_args__"}
    attributes = {
        key: value for key, value in attributes.items() if key not in made and not key.startswith("__struct_")
    }
    namespace = {**namespace, "__annotations__": annotations}
    return (
        _make_struct,
        (metaclass, name, bases, namespace, fields, options, "__post_init__" in attributes, class_id, None),
        (attributes, slots),
        None,
        None,
        set_state,
    )


def _default_parts(default_of: dict[str, Any], name: str) -> tuple[str, Any]:
    import msgspec

    default = default_of.get(name, msgspec.NODEFAULT)
    if default is msgspec.NODEFAULT:
        return "", None
    return ("default_factory", default.factory) if type(default).__name__ == "Factory" else ("default", default)


def _make_struct(
    metaclass: Any,
    name: str,
    bases: tuple[Any, ...],
    namespace: dict[str, Any],
    fields: list[tuple[str, str, str, Any]],
    options: dict[str, Any],
    has_post_init: bool,
    class_id: str,
    _more: None,
) -> Any:
    """Return a `msgspec.Struct` with its fields, without its other attributes."""
    import msgspec

    for field, encoded, parameter, default in fields:
        parameters = {parameter: default} if parameter else {}
        namespace[field] = msgspec.field(name=encoded, **parameters)
    made: list[Any] = []
    if has_post_init:  # msgspec looks for it only while the class is made

        def post_init(instance: Any) -> None:
            vars(made[0])["__post_init__"](instance)

        namespace["__post_init__"] = post_init
    resolved = types.resolve_bases(bases)
    if resolved is not bases:
        namespace["__orig_bases__"] = bases
    made.append(metaclass(name, resolved, namespace, **options))
    return cloudpickle._lookup_class_or_track(class_id, made[0])
