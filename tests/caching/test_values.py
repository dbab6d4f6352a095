"""Digests of arguments: equal for equal values, different for all others, none for what differs in each session."""

import abc
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import gc
import importlib
import logging
import multiprocessing
import operator
import os
import pathlib
import pickle
import random
import re
import subprocess
import sys
import threading
import tracemalloc
import types
import uuid
import weakref
from concurrent.futures import Future

import numpy as np
import pytest

from pympipool import share, shared_array
from pympipool.caching.keys import Keys
from pympipool.caching.values import KeylessFutureError, UnhashableError, digest_of


@dataclasses.dataclass
class Point:
    x: int
    y: object = None


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


class Nowhere:
    def __reduce__(self):
        return "NOWHERE"


class Stack(list):
    pass


class Named(set):
    name = ""


class SlottedSet(frozenset):
    __slots__ = ("name",)


class Number(np.float64):
    """A scalar with an attribute, which pickle does not keep."""


Pair = collections.namedtuple("Pair", "a b")


def generator():
    yield 1


def labelled(name, kind=Named):
    made = kind({1, 2})
    made.name = name
    return made


def renamed(name):
    def function():
        return 1

    function.__name__ = name
    return function


def read_only(values):
    values.flags.writeable = False
    return values


def objects(*shape):
    return np.arange(np.prod(shape)).astype(object).reshape(shape)


def abstract_and_other():
    class Abstract(abc.ABC):  # noqa: B024
        pass

    class Other:
        pass

    return Abstract, Other


def registered():
    abstract, other = abstract_and_other()
    abstract.register(other)
    return abstract, other


def made(**attributes):
    class Made:
        pass

    for name, value in attributes.items():
        setattr(Made, name, value)
    return Made


def cached(annotate):
    @functools.lru_cache
    def function(x):
        return x

    function.__annotate__ = annotate
    return function


_of_numpy = importlib.import_module(
    ("numpy.core" if np.__version__.startswith("1.") else "numpy._core") + "._rational_tests"
)
OVERLAPPING = np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2]})


# All of these differ from each other.
DIFFERENT = [
    *[
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        255,
        256,
        -256,
        1 << 64,
        0.0,
        -0.0,
        1.0,
        float("nan"),
        float("inf"),
        1j,
        complex(0.0, -0.0),
    ],
    *["", "a", "1", "ab", "\ud800", b"", b"a", b"1", bytearray(b"a"), ..., NotImplemented],
    *[
        (),
        [],
        {},
        set(),
        frozenset(),
        (1,),
        [1],
        {1},
        frozenset({1}),
        {1: 1},
        {1: 2},
        {"1": 1},
        {1: 1, 2: 2},
        {2: 2, 1: 1},
    ],
    *[(1, 2), (2, 1), ((1,), 2), (1, (2,)), ("ab", "c"), ("a", "bc"), [[1], [2]], [[1, 2]], {"a", "b"}, {"a", "c"}],
    *[
        range(3),
        range(4),
        range(0, 3, 2),
        slice(3),
        slice(0, 3),
        Pair(1, 2),
        Pair(2, 1),
        Stack([1]),
        labelled("a"),
        labelled("b"),
    ],
    *[
        Point(1),
        Point(2),
        Point(1, [1]),
        Color.RED,
        Color.BLUE,
        Slotted(1),
        Slotted(2),
        Point,
        Slotted,
        Color,
        int,
        Exception,
    ],
    *[len, max, operator.add, os.path.join, str.upper, str.lower, generator, labelled, functools.partial(pow, 2)],
    *[
        functools.partial(pow, 3),
        Point(1).__eq__,
        operator.itemgetter(1),
        operator.itemgetter(2),
        os,
        os.path,
        re,
        np,
        np.linalg,
    ],
    *[pathlib.PurePosixPath("a"), pathlib.PurePosixPath("b"), datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1)],
    *[
        datetime.timedelta(1),
        decimal.Decimal(1),
        decimal.Decimal("1.0"),
        fractions.Fraction(1, 2),
        uuid.UUID(int=1),
        re.compile("a"),
    ],
    *[re.compile("a", re.IGNORECASE), collections.OrderedDict(a=1), collections.Counter("aab"), collections.deque([1])],
    *[
        collections.deque([1], 2),
        collections.defaultdict(int),
        collections.defaultdict(list),
        random.Random(1),
        random.Random(2),
    ],
    *[
        ValueError("a"),
        ValueError("b"),
        TypeError("a"),
        logging.getLogger("a"),
        lambda x: x,
        lambda x: x + 1,
        lambda x: x + 1.0,
    ],
    *[
        np.arange(3),
        np.arange(4),
        np.arange(3.0),
        np.arange(3, dtype="i4"),
        np.arange(3, dtype=">i8"),
        np.zeros((2, 3)),
        np.zeros((3, 2)),
    ],
    *[
        np.zeros((2, 3), order="F"),
        np.zeros(0),
        np.zeros((0, 1)),
        np.array(1),
        np.int64(1),
        np.int32(1),
        np.float64(1),
        np.bool_(True),
    ],
    *[
        np.array(["a"]),
        np.array(["a"], dtype=object),
        np.array([[1], "a"], dtype=object),
        np.array(["2020"], dtype="M8[Y]"),
    ],
    *[
        np.array(["2020"], dtype="M8[D]"),
        np.zeros(2, [("a", "i4")]),
        np.zeros(2, [("b", "i4")]),
        np.dtype("i4"),
        np.dtype("f4"),
    ],
    *[
        objects(2, 4)[:, ::2],
        objects(2, 4)[:, ::2].T,
        objects(2, 2, 2).transpose(1, 0, 2),
        objects(2, 2, 2).transpose(0, 2, 1),
        read_only(np.arange(3)),
        np.zeros(3, np.dtype("i8", metadata={"a": 1})),
        np.zeros(3, np.dtype("i8", metadata={"a": 2})),
        np.zeros(2, OVERLAPPING),
        np.zeros(2, "V8"),
        np.zeros(2, _of_numpy.rational),
    ],
    *[
        labelled("a", SlottedSet),
        labelled("b", SlottedSet),
        types.MappingProxyType({1: 1}),
        pickle.PickleBuffer(b"a"),
        pickle.PickleBuffer(bytearray(b"a")),
        renamed("a"),
        renamed("b"),
        np.frompyfunc(lambda x: x, 1, 1),
        np.frompyfunc(lambda x: x + 1, 1, 1),
        abstract_and_other(),
        registered(),
    ],
    *[
        np.ma.array([1, 2], mask=[0, 1]),
        np.ma.array([1, 2], mask=[1, 0]),
        np.ma.array([1, 2], mask=[1, 0], hard_mask=True),
        np.ma.array([1, 2], mask=[0, 0]),
        np.ma.array([1, 2]),
        read_only(np.ma.array([1, 2])),
        np.zeros(2).view(np.recarray),
        read_only(np.zeros(2).view(np.recarray)),
        np.zeros(100_000),
        np.ones(100_000),
        np.random.default_rng(1),
    ],
]

# The values of each of these are equal.
EQUAL = {
    "strings that were made in other ways": ("abc" * 3, "".join(["abc"] * 3)),
    "large integers": (10**30, int("1" + "0" * 30)),
    "sets in another order": ({"a", "b", "c"}, {"c", "b", "a"}),
    "frozensets of tuples": (frozenset({("a", 1), ("b", 2)}), frozenset({("b", 2), ("a", 1)})),
    "tuples that share an item, and do not": ((("a", 1),) * 2, (("a", 1), ("a", 1))),
    "a copy of an array": (np.arange(9), np.arange(9).copy()),
    "an array and a view of every second item": (np.arange(0, 10, 2), np.arange(10)[::2]),
    "a large array and one that is a part of a larger one": (np.arange(50_000), np.arange(100_000)[:50_000]),
    "instances": (Point(1, {"a": [2]}), Point(1, {"a": [2]})),
    "one scalar of numpy twice, and two": ([np.float64(1)] * 2, [np.float64(1), np.float64(1)]),
    "one dtype twice, and two": ([np.dtype([("a", "i4")])] * 2, [np.dtype([("a", "i4")]), np.dtype([("a", "i4")])]),
    "one tuple twice, and two": ([("1", "a")] * 2, [("1", "a"), tuple("1a")]),
    "classes that are registered with abstract ones": (registered(), registered()),
    "a class whose annotations were read, without any": (made(), made(__annotations__={})),
    "namespaces that a class statement has left": [made(__classdictcell__=types.CellType({"line": n})) for n in (1, 2)],
    "annotations of a function with a cache": (cached(lambda _: {}), cached(lambda _: {"x": int})),
}

WITHOUT_DIGEST = {
    "an open file": lambda: open(os.devnull),
    "a lock": threading.Lock,
    "a generator": generator,
    "a socket": lambda: __import__("socket").socket(),
    "a list of locks": lambda: [1, threading.Lock()],
    "an instance that holds a lock": lambda: Point(1, threading.Lock()),
    "a function whose global is a lock": lambda: function_with_lock,
    "an iterator over a generator": lambda: map(abs, generator()),
    "a thread": threading.current_thread,
    "a view of an array that calls may write": lambda: shared_array(10)[3:],
    "a module that no worker can import": lambda: type(os)("nowhere"),
    "memory of multiprocessing": lambda: multiprocessing.RawArray("d", 2),
    "an object that is not where its name tells": Nowhere,
    "a graph of sets": lambda: graph(14),
}


def graph(size):
    """Return a node of a graph in which each node has a set of all others: there are as many ways through it as permutations."""
    nodes = [Slotted(None) for _ in range(size)]
    for node in nodes:
        node.a = set(nodes) - {node}
    return nodes[0]


LOCK = threading.Lock()
exec("def function_with_lock(x):\n    return LOCK, x\n")  # by value: the module does not have it under its name
function_with_lock = functools.partial(eval("function_with_lock"))
function_with_lock.func.__qualname__ = "nowhere"


def test_different_values_have_different_digests():
    digests = {}
    for value in DIFFERENT:
        other = digests.setdefault(digest_of(value), value)
        assert other is value, f"{value!r} has the digest of {other!r}"


@pytest.mark.parametrize("values", EQUAL.values(), ids=EQUAL)
def test_equal_values_have_equal_digests(values):
    assert digest_of(values[0]) == digest_of(values[1])


@pytest.mark.parametrize("make", WITHOUT_DIGEST.values(), ids=WITHOUT_DIGEST)
def test_values_of_one_session_have_no_digest(make):
    value = make()
    with pytest.raises(UnhashableError):
        digest_of(value)
    getattr(value, "close", int)()


def test_shared_data_have_the_digest_of_the_object():
    assert digest_of(share([1, 2])) == digest_of(share([1, 2])) != digest_of(share([1, 3]))


def test_digests_follow_changes_of_mutable_values():
    values = {"a": [np.zeros(100_000)]}
    before = digest_of(values)
    values["a"][0][77_777] = 1
    assert digest_of(values) != before


@pytest.mark.parametrize(
    ("make", "bytes_max"), [(str, 300_000), (lambda n: Slotted([n]), 2_000_000)], ids=["strings", "instances"]
)
def test_sets_take_little_memory(make, bytes_max):
    """Each item is digested by itself; but what was met before is not copied for it."""
    met, items = [[] for _ in range(500)], {make(n) for n in range(500)}
    digest_of(items)  # imports what this needs
    tracemalloc.start()
    try:
        digest_of(met, items)
        assert tracemalloc.get_traced_memory()[1] < bytes_max
    finally:
        tracemalloc.stop()


def test_functions_of_numpy_have_one_name(monkeypatch):
    monkeypatch.delitem(getattr(np.add, "__dict__", {}), "__module__", raising=False)  # other versions do not have it
    before = digest_of(np.add)
    first = types.ModuleType("first")
    first.add = np.add  # a module of the user's that was imported before numpy
    monkeypatch.setattr(sys, "modules", {"first": first, **sys.modules})
    assert digest_of(np.add) == before


def test_values_have_digests_while_numpy_is_imported(monkeypatch):
    before = digest_of(Slotted(1))
    monkeypatch.setitem(sys.modules, "numpy", types.ModuleType("numpy"))  # as another thread has begun to
    assert digest_of(Slotted(1)) == before


def test_flags_are_the_same_after_combinations_were_made():
    class Flag(enum.Flag):
        A = 1
        B = 2

    class Renamed(enum.Flag):
        A = 1
        C = 2

    class Revalued(enum.Flag):
        A = 1
        B = 4

    class Alias(enum.Flag):
        A = 1
        B = 2
        C = 1

    class OtherAlias(enum.Flag):
        A = 1
        B = 2
        C = 2

    kinds = [Flag, Renamed, Revalued, Alias, OtherAlias]
    for kind in kinds:
        kind.__qualname__ = Flag.__qualname__

    def function(_):
        return Flag.A | Flag.B, ~Flag.A

    before = digest_of(Flag), digest_of(function), digest_of(Flag.A)
    function(0)
    assert before == (digest_of(Flag), digest_of(function), digest_of(Flag.A))
    assert len({digest_of(kind) for kind in kinds}) == len(kinds)
    assert len({digest_of(one) for one in (Flag.A, Flag.B, Flag.A | Flag.B)}) == 3
    Flag.A.note = 1  # calls see it
    assert digest_of(function) != before[1]


def test_values_may_contain_themselves():
    first, second = [1], [1]
    first.append(first)
    second.append(second)
    assert digest_of(first) == digest_of(second) != digest_of([1, [1]])


def test_classes_that_raise_have_no_digest():
    class Raises:
        def __reduce_ex__(self, protocol):
            return Raises, (), None, _raise_zero_division()

    with pytest.raises(UnhashableError, match="ZeroDivisionError"):
        digest_of([Raises()])
    with pytest.raises(UnhashableError, match="ZeroDivisionError"):
        Keys((Raises(),))
    with pytest.raises(UnhashableError, match="ZeroDivisionError"):
        Keys().of_call(max, (Raises(),), {}, 1, "all")


def _raise_zero_division():
    yield 1 // 0


def test_deeply_nested_values_have_no_digest():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(UnhashableError, match="deep"):
        digest_of(value)


def test_futures_without_key_raise_their_own_error():
    with pytest.raises(KeylessFutureError):
        digest_of({"a": [Future()]})


def test_keyword_order_counts_only_where_functions_see_it():
    keys = Keys()

    def named(a, b):
        return a

    def any_names(**names):
        return names

    class Class:
        def __init__(self, **names):
            self.names = names

        def method(self, a, b):
            return a

    def sees_order(function):
        orders = {"a": 1, "b": 2}, {"b": 2, "a": 1}
        return len({keys.of_call(function, (), order, 1, "all") for order in orders}) == 2

    for function in (named, functools.partial(named), Class(a=1).method, functools.partial(Class(a=1).method)):
        assert not sees_order(function)
    for function in (any_names, functools.partial(any_names), Class, dict, functools.cache(any_names)):
        assert sees_order(function)


PLAIN = [None, True, 1, 0, 1.0, 0.0, -0.0, "1", b"1", 1j, "", 1 << 70, -1, float("inf")]


def test_keys_keep_no_function_that_refers_to_data():
    def make():
        array = np.ones(3)
        return lambda: float(array.sum())

    keys, functions = Keys(), [make() for _ in range(2)]
    for fn in functions * 2:
        keys.of_call(fn, (), {}, 1, "all")
    references = [weakref.ref(fn) for fn in functions]
    del fn
    functions.clear()
    gc.collect()
    assert [one() for one in references] == [None, None]


def test_plain_arguments_have_different_keys():
    keys = Keys()
    arguments = [
        *((value,) for value in PLAIN),
        *((value, 1) for value in PLAIN),
        (),
        ([1],),
        ((1,),),
        ({1},),
        ({1: 1},),
    ]
    assert len({keys.of_call(abs, args, {}, 1, "all") for args in arguments}) == len(arguments)


def test_calls_on_several_ranks_have_other_keys():
    keys = Keys()
    calls = [(1, "all"), (2, "all"), (2, "root"), (3, "all")]
    assert len({keys.of_call(abs, (1,), {}, *call) for call in calls}) == 4


def test_calls_in_given_folders_have_other_keys(tmp_path, monkeypatch):
    keys = Keys()
    folders = [None, "/a", "/b"]
    found = [keys.of_call(abs, (1,), {}, 1, "all", cwd=folder) for folder in folders]
    assert len(set(found)) == 3
    assert [keys.of_rows(abs, [(1,)], 1, "all", [], folder) for folder in folders] == [[key] for key in found]
    monkeypatch.chdir(tmp_path)
    assert Keys().of_call(abs, (1,), {}, 1, "all") == found[0]  # where the script runs counts for no key


def test_keys_depend_on_initializers():
    starts = [None, (generator, None, ()), (None, generator, ()), (None, generator, (1,))]
    assert len({Keys(start).of_call(abs, (1,), {}, 1, "all") for start in starts}) == 4


PROGRAM = """
import datetime, pathlib, sys
import numpy
from pympipool.caching.values import digest_of
class Point:
    def __init__(self): self.names = {"x", "y", "z"}
from pympipool.caching.keys import Keys
print(Keys().of_call(abs, ({"a", "b", "c"}, [{"d", "e"}]), {}, 1, "all").hex())
print(Keys().of_call(abs, (1, "a"), {"x": {"f", "g"}}, 1, "all").hex())
print(digest_of({"a", "b", 3}, Point(), numpy.arange(3), {"k": {frozenset("abc")}}, pathlib.Path("x"), Point).hex())
"""


def test_digests_are_the_same_in_all_sessions():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            text=True,
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
        for seed in ("1", "2", "random")
    }
    assert len(outputs) == 1
