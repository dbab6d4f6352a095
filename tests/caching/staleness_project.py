"""The script whose function the staleness suite changes, and the modules that it imports."""

SCRIPT = '''\
import abc
import dataclasses
import enum
import functools
import importlib
import typing

import numpy as np

import module
import package.part
import profile
import singleton
from module import from_module

SCALE = 2
ITEMS = [1, 2, 3]
TABLE = {"a": 1, "b": {"c": 2}}
NAMES = {"x", "y", "z"}
ARRAY = np.arange(5)
OBJECTS = np.array([[1, "a", 2], [3, "b", 4]], dtype=object)[:, ::2][:, :2]
TWO_LISTS = [[39], [39]]
TWO_BUFFERS = [bytearray(b"39"), bytearray(b"39")]
TWO_TUPLES = [(39, "39"), tuple([39, "39"])]
TWO_NUMBERS = [np.float64(39), np.float64(39)]
LATER = None


def helper(x):
    return deeper(x) + 1


def deeper(x):
    return x * SCALE


def recursive(n):
    return n if n < 1 else recursive(n - 1) + 5


class Base:
    factor = 3
    another = 4

    def inherited(self, x):
        return x * self.factor


class Model(Base):
    __slots__ = ("offset",)

    def __init__(self, offset=7):
        self.offset = offset

    def method(self, x):
        return x + self.offset

    @property
    def doubled(self):
        return 2 * self.offset

    @staticmethod
    def static(x):
        return x - 8

    @classmethod
    def of_class(cls, x):
        return cls(x)


T = typing.TypeVar("T")


class Loader(typing.Generic[T]):
    def kind(self):
        return typing.get_args(type(self).__orig_bases__[0])[0]


class Ints(Loader[int]):
    pass


@dataclasses.dataclass
class Point:
    x: int = 9
    y: list = dataclasses.field(default_factory=list)


class Color(enum.Enum):
    RED = 11


MODEL = Model(12)


def decorator(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args) + 13

    return wrapper


@decorator
def decorated(x):
    return x - 14


@functools.lru_cache(maxsize=15)
def memoized(x):
    return x + 16


@functools.singledispatch
def dispatched(x):
    return 17


@dispatched.register
def _(x: int):
    return 18


def make(n):
    def closure(x):
        return x + n

    return closure


class Alone:
    value = 27

    @staticmethod
    def static(x):
        return __class__.value


class Abstract(abc.ABC):
    pass


class Other:
    pass


Abstract.register(Alone)
alone = Alone.static
closed_too = lambda: 40
closed_too.__name__ = "another_name"
ONLY = singleton.ONLY
closed = make(19)
partly = functools.partial(pow, exp=20)
twice = lambda x: x * 21


def f(x, y=22, *, z=23):
    """Do a bit of everything."""
    values = [value + 24 for value in ITEMS if value in (1, 2.0, True)]
    nested = lambda a: a + 25
    try:
        values.append(helper(x) + recursive(x) + TABLE["b"]["c"] + len(NAMES) + ARRAY.sum())
        values.append(Model().method(x) + Model.static(x) + Model.of_class(x).doubled + Base().inherited(x))
        values.append(Point().x + Color.RED.value + MODEL.offset + decorated(x) + memoized(x) + dispatched(x))
        values.append(closed(x) + partly(x) + twice(x) + nested(x) + y + z + f.attribute)
        values.append(module.function(x) + from_module(x) + package.part.function(x) + profile.value)
        values.append([OBJECTS, TWO_LISTS, TWO_BUFFERS, TWO_TUPLES, TWO_NUMBERS, closed_too])
        values.append(Ints().kind())
        values.append(isinstance(x, Abstract) + isinstance(x, Other) + isinstance(x, Alone))
        values.append(alone(x) + ONLY.value + importlib.import_module('dynamically').value)
    except ValueError:
        from lazily import value

        return value
    return values, LATER


f.attribute = 26
'''

FILES = {
    "script.py": SCRIPT,
    "module.py": '''\
"""A module."""

from imported import CONSTANT


def function(x):
    return x + CONSTANT + 30


def from_module(x):
    return x + 31
''',
    "imported.py": "CONSTANT = 32\n",
    "lazily.py": "value = 33\n",
    "dynamically.py": "value = 36\n",
    "profile.py": "value = 37\n",
    "singleton.py": """\
class Singleton:
    value = 38

    def __reduce__(self):
        return "ONLY"


ONLY = Singleton()
""",
    "package/__init__.py": "LEVEL = 34\n",
    "package/part.py": "from . import LEVEL, other\n\n\ndef function(x):\n    return x + LEVEL + other.VALUE\n",
    "package/other.py": "VALUE = 35\n",
}
