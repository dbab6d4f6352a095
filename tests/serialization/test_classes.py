"""Classes that travel by value: a process that receives a result keeps its own classes as they are."""

from __future__ import annotations

import copyreg
import sys

import cloudpickle
import pytest

from support.pickling import define_in_main

KINDS = {
    "attributes": "class Kind:\n    made = 0\n    known = []\n    def method(self): return HELPER\n",
    "dataclass": "from dataclasses import dataclass, field\n@dataclass\nclass Kind:\n    y: list = field(default_factory=list)\n",
    "slots": "class Kind:\n    __slots__ = ('x',)\n    def method(self): return 1\n",
    "base": "class Base:\n    made = 0\nclass Kind(Base):\n    def method(self): return super().made\n",
    "metaclass": "class Meta(type):\n    made = 0\n    def method(cls): return cls\nclass Kind(metaclass=Meta):\n    made = 0\n",
    "abc": "import abc\nclass Kind(abc.ABC):\n    @property\n    def label(self): return 'x'\nKind.register(int)\n",
    "namedtuple": "import typing\nclass Kind(typing.NamedTuple):\n    x: int = 1\n    def method(self): return 1\n",
    "generic": "import typing\nT = typing.TypeVar('T')\nclass Kind(typing.Generic[T]):\n    made = 0\n",
    "protocol": "import typing\nclass Some(typing.Protocol):\n    def f(self): ...\nclass Kind(Some):\n    def f(self): return 1\n",
    "exception": "class Kind(Exception):\n    limit = 1\n    def method(self): return 1\n",
    "local": "def outer():\n    class Kind:\n        def method(self): return Kind\n    return Kind\nKind = outer()\n",
    "subclass hook": "seen = []\nclass Base:\n    def __init_subclass__(cls): seen.append(cls)\nclass Kind(Base):\n    made = 0\n",
}


def everything_of(names):
    """Return all classes of a script with their attributes, and the lists of the script."""
    classes = [(value, dict(vars(value))) for value in names.values() if isinstance(value, type)]
    return classes, {name: list(value) for name, value in names.items() if isinstance(value, list)}


@pytest.mark.parametrize("kind", KINDS)
def test_results_leave_the_classes_of_the_script_alone(other_process, kind):
    names = define_in_main(f"HELPER = 1\n{KINDS[kind]}\ndef make(*_):\n    return [Kind(), Kind, {{'a': Kind}}]\n")
    mine = names["Kind"]
    mine()  # abstract base classes and slots cache what they look up
    assert mine.__annotations__ is not None  # since Python 3.14 a class keeps them when they are first read, as here
    before = everything_of(names)
    for _ in range(2):
        one, arrived, nested = other_process.run(names["make"], mine)
        assert type(one) is mine
        assert arrived is mine
        assert nested == {"a": mine}
        assert everything_of(names) == before


@pytest.mark.parametrize(
    "source", ["class Kind(enum.Enum):\n    A = 1\n", "class Kind(enum.Flag):\n    A = 1\n    B = 2\n"]
)
def test_enum_members_arrive_as_the_own_members(other_process, source):
    names = define_in_main(f"import enum\n{source}    def method(self): return self\ndef same(x): return [x]\n")
    mine = names["Kind"].A
    before = everything_of(names)
    assert other_process.run(names["same"], mine)[0] is mine
    assert everything_of(names) == before


def test_override_that_equals_its_base_stays(other_process):
    names = define_in_main("""
class Base:
    number, items = 1, []
    def method(self): return 1
class Kind(Base):
    number, items, method = 1, Base.items, Base.method
def call():
    Base.number, Base.items, Base.method = 2, None, None
    return Kind.number, Kind.items, Kind().method()
def shares(): return Kind.items is Base.items
""")
    for _ in range(3):
        assert other_process.run(names["call"]) == (1, [], 1)
        assert other_process.run(names["shares"])


def test_class_changes_in_a_call_stay_there(other_process):
    names = define_in_main("class Kind:\n    made = 0\ndef count():\n    Kind.made += 1\n    return Kind.made, Kind\n")
    mine = names["Kind"]
    assert other_process.run(names["count"]) == (1, mine)
    assert other_process.run(names["count"]) == (1, mine)
    mine.made = 5
    assert other_process.run(names["count"]) == (6, mine)
    assert mine.made == 5


@pytest.mark.parametrize("registered", [False, True])
def test_exceptions_leave_their_class_alone(other_process, monkeypatch, registered):
    names = define_in_main(
        "class Failure(Exception):\n    limit = 1\n    def method(self): return 1\n"
        "def fail():\n    error = Failure('x')\n    error.more = [Failure('y')]\n    raise error\n"
    )
    kind = names["Failure"]
    if registered:  # as tblib does, and with it dask
        monkeypatch.setitem(copyreg.dispatch_table, kind, lambda error: (kind, error.args, error.__dict__))
    method = kind.method
    kind.limit = 7
    fail = names["fail"]
    parts = []
    monkeypatch.setattr(kind, "known", parts, raising=False)
    with pytest.raises(kind) as raised:
        other_process.run(fail)
    assert type(raised.value.more[0]) is kind
    assert (kind.limit, kind.method, kind.known is parts) == (7, method, True)


def test_functions_in_results_refer_to_own_classes(other_process):
    names = define_in_main("class Kind:\n    made = 0\ndef make():\n    return lambda: Kind, Kind().__init__\n")
    mine = names["Kind"]
    mine.made = 1
    before = everything_of(names)
    function, method = other_process.run(names["make"])
    assert function() is mine
    assert type(method.__self__) is mine
    assert everything_of(names) == before


def test_class_registered_by_value_stays_as_it_is(other_process, tmp_path, monkeypatch):
    (tmp_path / "classes_by_value.py").write_text("class Kind:\n    known = []\ndef make(): return Kind()\n")
    monkeypatch.syspath_prepend(tmp_path)
    import classes_by_value

    cloudpickle.register_pickle_by_value(classes_by_value)
    try:
        known = classes_by_value.Kind.known
        arrived = other_process.run(classes_by_value.make)
        assert type(arrived) is classes_by_value.Kind
        assert classes_by_value.Kind.known is known
    finally:
        cloudpickle.unregister_pickle_by_value(classes_by_value)


def test_class_made_in_a_call_arrives_whole(other_process):
    make = define_in_main(
        "def make():\n    class Kind:\n        made = 3\n        def method(self): return self.made\n    return Kind()\n"
    )["make"]
    first = other_process.run(make)
    assert first.method() == 3
    type(first).made = 4
    assert other_process.run(lambda one: one.method(), first) == 3  # it is the worker's own class
    again = other_process.run(lambda one: one, first)
    assert type(again) is type(first)
    assert again.method() == 4


def test_result_brings_a_class_that_was_dropped(other_process):
    names = define_in_main(
        "class Kind:\n    made = 3\ndef keep(kind):\n    import builtins\n    builtins.kept = kind\n"
    )
    other_process.run(names["keep"], names["Kind"])
    del names
    kept = other_process.run(lambda: __import__("builtins").kept())
    assert kept.made == 3
    assert type(kept).__module__ == "__main__"
    assert type(kept) is not sys.modules["__main__"].__dict__.get("Kind")
