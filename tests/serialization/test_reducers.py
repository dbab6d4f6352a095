"""Objects of a script that have no name in a worker: each row of the table in docs/howto/nested-functions.md."""

from __future__ import annotations

import contextvars
import sys
import threading

import pytest

from pympipool.errors import SerializationError
from pympipool.serialization import references
from pympipool.serialization.payload import dump, load
from support.pickling import define_in_main

CALLS = {
    "lru_cache": """
import functools
@functools.lru_cache(maxsize=2)
def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
fibonacci.unit = 'm'
def call(): return fibonacci(20), fibonacci.cache_parameters()['maxsize'], fibonacci.unit, fibonacci.__name__
wanted = 6765, 2, 'm', 'fibonacci'
""",
    "cache as method": """
import functools
class Model:
    @functools.cache
    def value(self, n): return n + 1
def call(): return Model().value(1)
wanted = 2
""",
    "singledispatch": """
import functools
@functools.singledispatch
def describe(x): return 'anything'
@describe.register
def _(x: int): return 'int'
@describe.register(list)
def _(x): return [describe(item) for item in x]
def call(): return describe([1, 1.0, [2]])
wanted = ['int', 'anything', ['int']]
""",
    "singledispatchmethod": """
import functools
class Shape:
    @functools.singledispatchmethod
    def area(self, x): return 0
    @area.register
    def _(self, x: int): return x * x
def call(): return Shape().area(3), Shape().area('')
wanted = 9, 0
""",
    "cached_property": """
import functools
class Model:
    count = 0
    @functools.cached_property
    def value(self):
        'The value.'
        self.count += 1
        return self.count
def call():
    model = Model()
    return model.value, model.value, Model.value.__doc__
wanted = 1, 1, 'The value.'
""",
    "lock of class and global": """
import threading
lock = threading.RLock()
class Model:
    lock = lock
    plain = threading.Lock()
Model.plain.acquire()
def call():
    with lock, Model.plain: return Model.lock is lock
wanted = True
""",
    "objects that hold locks": """
import queue, threading
event, semaphore, jobs, local = threading.Event(), threading.Semaphore(2), queue.Queue(), threading.local()
condition = threading.Condition()
event.set(); jobs.put(3); local.x = 1
def call():
    with condition: condition.notify_all()
    return event.is_set(), semaphore.acquire(), jobs.get(timeout=0), hasattr(local, 'x')
wanted = True, True, 3, False
""",
    "frompyfunc": """
import numpy as np
def add(a, b): return a + b
ufunc = np.frompyfunc(add, 2, 1, identity=0)
def call(): return list(ufunc([1, 2], 3)), ufunc.reduce([1, 2, 3]), np.add(1, 2)
wanted = [4, 5], 6, 3
""",
    "dataclass sentinels": """
import dataclasses
@dataclasses.dataclass
class Point:
    x: int
    _: dataclasses.KW_ONLY
    more: list = dataclasses.field(default_factory=list)
def call():
    return [f.default is dataclasses.MISSING for f in dataclasses.fields(Point)], Point(1).more, Point.__annotations__['_']
wanted = [True, True], [], dataclasses.KW_ONLY
""",
    "NewType and TypeVar": """
import typing
Id = typing.NewType('Id', int)
T = typing.TypeVar('T')
P = typing.ParamSpec('P')
class Box(typing.Generic[T, P]): pass
def call(x: Id = 1): return Id(x), Id.__name__, Id.__module__, Box[Id, [int]].__args__[0] is Id, P.__name__
wanted = 1, 'Id', '__main__', True, 'P'
""",
}

ALIAS = """
type Pair[T] = tuple[T, T]
type Tree = list[Tree] | int
def call(): return Tree.__name__, str(Tree.__value__), str(Pair[int]), Tree.__value__.__args__[0].__args__[0] is Tree
wanted = "Tree", str(list[Tree] | int), str(Pair[int]), True
"""


@pytest.mark.parametrize("name", CALLS)
def test_objects_of_main_arrive(other_process, name):
    names = define_in_main(CALLS[name])
    assert other_process.run(names["call"]) == names["wanted"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements are new in Python 3.12")
def test_type_aliases_of_main_arrive(other_process):
    names = define_in_main(ALIAS)
    assert other_process.run(names["call"]) == names["wanted"]


def test_cached_functions_of_modules_travel_by_name(other_process):
    import fnmatch

    def is_same(function):
        import fnmatch

        return function is fnmatch._compile_pattern

    assert other_process.run(is_same, fnmatch._compile_pattern)


def test_lock_as_argument_raises_clear_error(other_process):
    with pytest.raises(SerializationError, match="locks and generators inside the function"):
        other_process.run(repr, threading.Lock())


def test_few_context_variables_are_kept(monkeypatch):
    monkeypatch.setattr(references, "VARIABLES_MAX", 10)
    for number in range(30):
        load(dump([contextvars.ContextVar(str(number), default=number)]))
    assert len(references._variables) == len(references._keys) <= 10
