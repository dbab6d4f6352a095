"""Enums that travel by value keep all names, and members all their attributes."""

from __future__ import annotations

import sys

import pytest

from support.pickling import define_in_main

ENUMS = {
    "alias": "class Kind(enum.Enum):\n    A = 1\n    B = 2\n    C = B\n",
    "flag": "class Kind(enum.Flag):\n    A = 1\n    B = 2\n    AB = 3\n    NONE = 0\n",
    "intflag": "class Kind(enum.IntFlag, boundary=enum.KEEP):\n    A = 1\n    B = 4\n    AB = A | B\n",
    "intenum": "class Kind(enum.IntEnum):\n    A = 1\n    DEFAULT = A\n",
    "strenum": "class Kind(enum.StrEnum):\n    A = enum.auto()\n    B = 'a'\n",
    "str": "class Kind(str, enum.Enum):\n    A = 'x'\n    B = 'x'\n    def __str__(self): return 'other'\n",
    "float": "class Kind(float, enum.Enum):\n    A = 1.5\n    B = 2.5\n",
    "init": "class Kind(enum.Enum):\n    A = (1, 2)\n    B = (3, 4)\n    def __init__(self, x, y): self.x, self.y = x, y\n",
    "new": "class Kind(bytes, enum.Enum):\n    A = (3, 'label')\n    B = (0, 'other')\n    def __new__(cls, value, label):\n"
    "        one = bytes.__new__(cls, [value])\n        one._value_ = value\n        one.label = label\n        return one\n",
    "new of object": "class Kind(enum.Enum):\n    A = ()\n    B = ()\n    def __new__(cls):\n        one = object.__new__(cls)\n"
    "        one._value_ = len(cls.__members__) + 1\n        return one\n",
    "tuple": "class Kind(tuple, enum.Enum):\n    A = (1, 2)\n    B = (3, 4)\n",
    "dataclass": "import dataclasses\n@dataclasses.dataclass\nclass Base:\n    x: int\n    y: int\n"
    "class Kind(Base, enum.Enum):\n    A = (1, 2)\n    B = (3, 4)\n",
    "date": "import datetime\nclass Kind(datetime.date, enum.Enum):\n    A = (2020, 1, 2)\n    B = (2021, 1, 2)\n",
    "base": "class Base(enum.Enum):\n    def label(self): return self.name.lower()\nclass Kind(Base):\n    A = 1\n    B = 2\n",
    "lists": "class Kind(enum.Enum):\n    A = [1]\n    B = {'a': 2}\n",
    "functional": "Kind = enum.Enum('Kind', 'A B')\n",
    "nested": "class Kind(enum.Enum):\n    A = 1\n    @enum.member\n    class B:\n        x = 1\n    LIMIT = enum.nonmember(5)\n",
}

DESCRIBE = """
def describe(kind, *_):
    members = kind.__members__
    extra = [{k: v for k, v in vars(m).items() if not k.startswith("_")} for m in members.values()]
    data = [kind._member_type_.__repr__(m) if kind._member_type_ is not object else None for m in members.values()]
    same = [kind(m.value) is m and kind[name] is m for name, m in members.items()]
    values = [m.value for m in members.values() if not isinstance(m.value, type)]
    return [m.name for m in kind], list(members), values, extra, data, same, [str(m) for m in kind]
def same(*some): return some
def kind_of(): return Kind
"""


SINCE_3_11 = ("intflag", "strenum", "nested")
"""Those that use names which enum has since Python 3.11."""


@pytest.mark.parametrize("source", ENUMS if sys.version_info >= (3, 11) else sorted(ENUMS.keys() - SINCE_3_11))
def test_enum_arrives_whole(other_process, source):
    names = define_in_main(f"import enum\n{ENUMS[source]}{DESCRIBE}")
    kind, describe = names["Kind"], names["describe"]
    assert other_process.run(describe, kind) == describe(kind)
    members = tuple(kind.__members__.values())
    for _ in range(2):
        arrived = other_process.run(names["same"], *members)
        assert all(one is mine for one, mine in zip(arrived, members, strict=True))
    assert other_process.run(lambda one: one.name, members[0]) == members[0].name


def test_enum_made_in_a_call_arrives_whole(other_process):
    make = define_in_main(
        "import enum\ndef make():\n    class Kind(enum.Enum):\n        A = 1\n        B = A\n    return Kind.B\n"
    )
    arrived = other_process.run(make["make"])
    assert type(arrived)["B"] is arrived
    assert arrived.name == "A"


def test_flags_combine_in_a_call(other_process):
    names = define_in_main(
        "import enum\nclass Kind(enum.Flag):\n    A = 1\n    B = 2\n    C = 4\ndef both(x): return x | Kind.C, ~x, Kind(7)\n"
    )
    kind = names["Kind"]
    assert other_process.run(names["both"], kind.A) == (kind.A | kind.C, kind.B | kind.C, kind(7))
