"""Classes of a script that need more than an empty class and its attributes, in a real script and a real worker."""

# ruff: noqa: E501  a case reads best on one line

from __future__ import annotations

import importlib.util

import pytest

from support.scripts import run_script

RUN = """

if __name__ == "__main__":
    for block in (True, False):
        with Executor(max_workers=1, backend="mpi", block_allocation=block) as exe:
            for name, (call, args, wanted) in CASES.items():
                got = exe.submit(call, *args).result(timeout=60)
                assert got == wanted, (name, got, wanted)
    print("good")
"""

HINTS = """
from __future__ import annotations
import dataclasses, sys, typing
from pympipool import Executor

class Unit: ...

@dataclasses.dataclass
class Config:
    unit: Unit
    more: typing.Optional[Other] = None
    def scaled(self, by: Unit) -> Config: ...

class Other: ...

class Options(typing.TypedDict):
    unit: Unit

class MoreOptions(Options, total=False):
    other: Other

CalledOptions = typing.TypedDict("CalledOptions", {"length": int}, total=False)

def function(config: Config, others: list[Other]) -> Unit: ...

def names_of(value):
    return sorted(typing.get_type_hints(value))

def made_in_call():
    @dataclasses.dataclass
    class Sub(Config):
        other: Other = None
    return names_of(Sub)

CASES = {
    "class": (lambda: names_of(Config), (), ["more", "unit"]),
    "class as argument": (names_of, (Config,), ["more", "unit"]),
    "method": (lambda: names_of(Config.scaled), (), ["by", "return"]),
    "function": (lambda: names_of(function), (), ["config", "others", "return"]),
    "typed dict": (lambda: names_of(Options), (), ["unit"]),
    "typed dict of a typed dict": (lambda: (names_of(MoreOptions), MoreOptions.__total__, MoreOptions(unit=1)), (), (["other", "unit"], False, {"unit": 1})),
    "typed dict made by a call": (lambda: (names_of(CalledOptions), CalledOptions.__total__), (), (["length"], False)),
    "class made in a call": (made_in_call, (), ["more", "other", "unit"]),
}
if sys.version_info >= (3, 14):  # get_type_hints copies the namespace of the module, which does not have all names in a worker
    CASES = {"method": CASES["method"], "function": CASES["function"]}
"""

HOOKS = """
from pympipool import Executor

class Base:
    registry = {}
    def __init_subclass__(cls, *, tag, **kwargs):
        super().__init_subclass__(**kwargs)
        Base.registry[cls.__name__] = tag

class Sub(Base, tag="one"): ...

class Meta(type):
    made = 0
    def __new__(mcs, name, bases, namespace, *, option):
        return super().__new__(mcs, name, bases, namespace)
    def __init__(cls, name, bases, namespace, *, option):
        Meta.made += 1

class WithMeta(metaclass=Meta, option=1): ...

class Slotted:
    __slots__ = ("a", "__weakref__")
    def __init__(self, a):
        self.a = a
    def __eq__(self, other):
        return type(other) is Slotted and other.a == self.a

def same(value):
    return value

CASES = {
    "__init_subclass__": (lambda: (Sub.__name__, Base.registry), (), ("Sub", {"Sub": "one"})),
    "metaclass": (lambda: (WithMeta.__name__, Meta.made), (), ("WithMeta", 1)),
    "slots": (same, (Slotted(3),), Slotted(3)),
    "no __dict__": (lambda: hasattr(Slotted(3), "__dict__"), (), False),
}
"""

CTYPES = """
import ctypes
from pympipool import Executor

class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]
    def norm(self):
        return self.x + self.y

class Line(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("points", Point * 2), ("kind", ctypes.c_byte)]

class Big(ctypes.BigEndianStructure):
    _fields_ = [("x", ctypes.c_int)]

class Node(ctypes.Structure): ...
Node._fields_ = [("value", ctypes.c_int), ("next", ctypes.POINTER(Node))]

class Either(ctypes.Union):
    _fields_ = [("i", ctypes.c_int), ("f", ctypes.c_float)]

CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)

def linked():
    first = Node(3, None)
    return Node(4, ctypes.pointer(first)).next.contents.value

CASES = {
    "structure": (lambda: Point(1, 2).norm(), (), 3.0),
    "structure as argument": (lambda point: point.norm(), (Point(1, 2),), 3.0),
    "structure as result": (lambda: bytes(Point(1, 2)), (), bytes(Point(1, 2))),
    "array": (lambda: (Line((Point * 2)(Point(1, 1), Point(2, 2))).points[1].x, ctypes.sizeof(Line)), (), (2, 33)),
    "big endian": (lambda: bytes(Big(1)), (), b"\\0\\0\\0\\1"),
    "pointer": (linked, (), 3),
    "union": (lambda: Either(i=3).i, (), 3),
    "callback": (lambda: CALLBACK(lambda x: x + 1)(3), (), 4),
}
"""

REFERENCES = """
import contextvars, weakref
from pympipool import Executor

VARIABLE = contextvars.ContextVar("VARIABLE", default=1)
CHANGED = contextvars.ContextVar("CHANGED")
CHANGED.set(2)

class Holder:
    alive = weakref.WeakValueDictionary()
    me = None
    variable = VARIABLE

Holder.me = weakref.ref(Holder)
HELD = Holder()
Holder.alive["held"] = HELD
DEAD = weakref.ref(Holder())

CASES = {
    "context variables": (lambda: (VARIABLE.get(), CHANGED.get(), Holder.variable is VARIABLE), (), (1, 2, True)),
    "weak reference": (lambda: Holder.me() is Holder, (), True),
    "dead reference": (lambda: DEAD() is None, (), True),
    "held in a mapping": (lambda: Holder.alive["held"] is HELD, (), True),
}
"""

MSGSPEC = """
import typing
import msgspec
from pympipool import Executor

T = typing.TypeVar("T")

class Box(msgspec.Struct, typing.Generic[T]):
    item: T

class Base(msgspec.Struct):
    x: int
    items: list = []

class Sub(Base, kw_only=True, frozen=True, tag="sub", rename="camel", dict=True):
    more_of: float = 2.5
    made: list = msgspec.field(default_factory=lambda: [1])
    def __post_init__(self):
        self.__dict__["seen"] = self.x
    def clone(self):
        return Sub(x=self.x)

def same(value):
    return value

CASES = {
    "argument": (same, (Sub(x=1),), Sub(x=1)),
    "generic": (lambda: msgspec.json.decode(b'{"item": [1]}', type=Box[list]), (), Box([1])),
    "made in a call": (lambda: Sub(x=2).clone(), (), Sub(x=2)),
    "post init": (lambda: Sub(x=3).seen, (), 3),
    "encoded": (lambda: msgspec.json.encode(Sub(x=1)), (), msgspec.json.encode(Sub(x=1))),
    "decoded": (lambda: msgspec.json.decode(b'{"x": 4}', type=Base), (), Base(4)),
}
"""

PYDANTIC = """
import functools, typing
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, ValidationError, computed_field, field_validator
from pydantic.dataclasses import dataclass
from pympipool import Executor
T = typing.TypeVar("T")

class Model(BaseModel):
    x: int = Field(gt=0)
    name: str = "a"
    _seen: list = PrivateAttr(default_factory=lambda: [1])
    @field_validator("name")
    @classmethod
    def check(cls, value):
        return value.upper()
    @computed_field
    @property
    def double(self) -> int:
        return 2 * self.x

class Outer(BaseModel):
    model_config = ConfigDict(frozen=True)
    model: Model
    models: dict[str, Model] = {}

class Tree(BaseModel):
    value: int
    items: "list[Tree]" = []

class Box(BaseModel, typing.Generic[T]):
    item: T

class Numbers(RootModel[list[int]]): ...

class Sub(Model):
    more: int = 3
    def total(self):
        return self.x + self.more

@dataclass
class Point:
    x: int
    model: Model = Field(default_factory=lambda: Model(x=1))

OUTER = Outer(model=Model(x=1), models={"a": Model(x=2)})

def same(value):
    return value

def error(kind, **values):
    try:
        kind(**values)
    except ValidationError as error:
        return error.error_count(), error.errors()[0]["loc"]

CASES = {
    "argument": (same, (OUTER,), OUTER),
    "made in a call": (lambda: Outer(model={"x": "1"}, models={"a": {"x": 2, "name": "a"}}), (), Outer(model=Model(x=1), models={"a": {"x": 2, "name": "A"}})),
    "validated": (error, (Model,), (1, ("x",))),
    "decorators": (lambda: (Model(x=1, name="b").name, Model(x=1).double, Model(x=1)._seen), (), ("B", 2, [1])),
    "frozen": (lambda: hash(OUTER.model_copy(update={"model": 1, "models": ()})) is not None, (), True),
    "tree": (lambda: Tree(value=1, items=[{"value": 2}]), (), Tree(value=1, items=[Tree(value=2)])),
    "generic": (lambda box: (type(box) is Box[int], Box[str](item="a"), box), (Box[int](item=1),), (True, Box[str](item="a"), Box[int](item=1))),
    "root": (lambda: Numbers(["1"]).root, (), [1]),
    "subclass": (lambda: Sub(x="1").total(), (), 4),
    "subclass made in a call": (lambda: type("More", (Model,), {"__annotations__": {"y": int}})(x=1, y="2").y, (), 2),
    "dataclass": (lambda point: (Point(x="2"), point), (Point(x=1),), (Point(x=2), Point(x=1))),
    "json": (lambda: Outer.model_validate_json(OUTER.model_dump_json()), (), Outer.model_validate_json(OUTER.model_dump_json())),
    "schema": (Outer.model_json_schema, (), Outer.model_json_schema()),
}
"""

ATTRS = """
import functools
import attrs
from pympipool import Executor

@attrs.define
class Base:
    x: int = attrs.field(validator=attrs.validators.gt(0), converter=int)
    items: list = attrs.field(factory=list)
    @functools.cached_property
    def twice(self):
        return 2 * self.x
    def again(self):
        return __class__(self.x)

@attrs.frozen(kw_only=True)
class Sub(Base):
    more: int = 3

@attrs.define(slots=False, order=True)
class Plain:
    _x: int = 1

@attrs.define
class Failure(Exception):
    text: str
    code: int = 0

def error(value):
    try:
        Base(value)
    except ValueError:
        return "bad"

def same(value):
    return value

CASES = {
    "argument": (same, ([Base(1), Sub(x=1), Plain(2)],), [Base(1), Sub(x=1), Plain(2)]),
    "made in a call": (lambda: [Base("1").again(), attrs.evolve(Sub(x=1), more=4), Plain() < Plain(2)], (), [Base(1), Sub(x=1, more=4), True]),
    "cached": (lambda: Base(2).twice, (), 4),
    "validated": (error, (-1,), "bad"),
    "fields": (lambda: [field.name for field in attrs.fields(Sub)], (), ["x", "items", "more"]),
    "exception": (lambda: (Failure("a", 1).code, Failure("a").text), (), (1, "a")),
}
"""


@pytest.mark.parametrize("source", [HINTS, HOOKS, CTYPES, REFERENCES], ids=["hints", "hooks", "ctypes", "references"])
def test_classes_of_a_script_arrive_complete(source, tmp_path):
    assert run_script(source + RUN, tmp_path) == "good\n"


def needs(package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is not installed: pip install ".[ecosystem]"')


def test_msgspec_structs_arrive_complete(tmp_path):
    needs("msgspec")
    assert run_script(MSGSPEC + RUN, tmp_path) == "good\n"


@pytest.mark.parametrize(("package", "source"), [("pydantic", PYDANTIC), ("attrs", ATTRS)])
def test_classes_of_libraries_arrive_complete(package, source, tmp_path):
    needs(package)
    assert run_script(source + RUN, tmp_path) == "good\n"


def test_mapped_classes_belong_into_a_module(tmp_path):
    needs("sqlalchemy")
    source = """
from sqlalchemy.orm import DeclarativeBase
from pympipool import Executor

class Base(DeclarativeBase): ...

if __name__ == "__main__":
    with Executor(max_workers=1, backend="mpi", block_allocation=True) as exe:
        print(exe.submit(lambda: Base.metadata).exception())
"""
    assert run_script(source, tmp_path).endswith("which exists once: define it in a module\n")
