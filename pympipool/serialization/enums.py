"""Rebuild enums that travel by value with all their names and members' attributes.

cloudpickle rebuilds an enum from the values of its members. Aliases and composite flags get lost, and so does what
`__new__` and `__init__` of the enum gave to its members. Here the members travel as they are, and neither is called.
"""

from __future__ import annotations

from typing import Any

from cloudpickle import cloudpickle

from pympipool._core.snapshot import ADDED_TO_MEMBERS

_OWN_ATTRIBUTES = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_"}) | ADDED_TO_MEMBERS
"""Attributes that the enum, or Python, gives to the members."""


def reduce_enum(kind: Any, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the reduction of an enum.

    Args:
        kind: The enum.
        reduced: cloudpickle's reduction of it.
    """
    _, (bases, name, qualname, _, module, class_id, _), (attributes, slots), _, _, set_state = reduced
    members = {alias: (_data_of(kind, member), member._value_) for alias, member in kind.__members__.items()}
    attributes = {name: value for name, value in attributes.items() if name not in members}
    extras = {
        name: {key: value for key, value in vars(member).items() if key not in _OWN_ATTRIBUTES}
        for name, member in kind.__members__.items()
    }
    arguments = (bases, name, qualname, members, module, kind._member_type_, class_id, None)
    return _make_enum, arguments, (attributes, slots, set_state, extras), None, None, _set_enum_state


def _data_of(kind: Any, member: Any) -> tuple[Any, ...]:
    """Return the arguments with which the data type of the enum makes the member."""
    data_type, value = kind._member_type_, member._value_
    if hasattr(data_type, "__getnewargs__"):  # numbers, strings and tuples
        arguments: tuple[Any, ...] = data_type.__getnewargs__(member)
        return arguments
    if "__reduce__" in vars(data_type) and data_type is not object:  # dates
        _, arguments = data_type.__reduce__(member)
        return arguments
    return value if isinstance(value, tuple) else (value,)


def _make_enum(
    bases: tuple[type, ...],
    name: str,
    qualname: str,
    members: dict[str, tuple[tuple[Any, ...], Any]],
    module: str,
    data_type: type,
    class_id: str,
    _more: None,
) -> Any:
    """Return an enum with its members, without attributes and methods."""
    make_member: Any = data_type.__new__

    def new(kind: Any, *given: Any) -> Any:
        data, value = given if len(given) == 2 else given[0]  # enums of tuples pass a member's value as one tuple
        member = object.__new__(kind) if make_member is object.__new__ else make_member(kind, *data)
        member._value_ = value
        return member

    metaclass: Any = type(bases[-1])
    namespace = metaclass.__prepare__(name, bases)
    namespace["__new__"] = new
    namespace["__init__"] = lambda *_: None
    for member_name, data_and_value in members.items():
        namespace[member_name] = data_and_value
    kind = metaclass.__new__(metaclass, name, bases, namespace)
    type.__delattr__(kind, "__init__")
    kind.__module__, kind.__qualname__ = module, qualname
    return cloudpickle._lookup_class_or_track(class_id, kind)


def _set_enum_state(kind: Any, state: tuple[Any, ...]) -> None:
    attributes, slots, set_state, extras = state
    set_state(kind, (attributes, slots))
    for name, values in extras.items():
        member = vars(kind.__members__[name])
        for added in member.keys() - values.keys() - _OWN_ATTRIBUTES:  # by a call in this process
            del member[added]
        member.update(values)
