"""The function cache: a cached function always equals the one that fresh pickling would send.

The functions here are defined as in a notebook: in a namespace whose `__name__` is `__main__`.
"""

# ruff: noqa: E501  a scenario reads best on one line

from __future__ import annotations

import builtins
import functools
import gc
import importlib
import math
import operator
import pickle
import random
import subprocess
import sys
import textwrap
import threading
import types
import weakref

import cloudpickle
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pympipool._core.calls import FunctionHandle
from pympipool.execution import function_cache
from pympipool.execution.function_cache import FUNCTION_CACHE_SIZE, FunctionTable
from pympipool.serialization import reloads
from support.freed_definitions import frees_definitions


class Notebook:
    """A namespace that runs source piece by piece, like the cells of a notebook."""

    def __init__(self, source: str = "") -> None:
        self.names = {"__name__": "__main__", "__builtins__": builtins}
        self.run(source)

    def run(self, source: str) -> None:
        exec(textwrap.dedent(source), self.names)

    def __getitem__(self, name: str):
        return self.names[name]


@pytest.fixture
def table():
    return FunctionTable()


def settled(table: FunctionTable, function) -> FunctionHandle | None:
    """Look up a function twice, because the first lookup gives no number. Return the second result."""
    table.lookup(function)
    return table.lookup(function)


def test_function_gets_number_at_second_lookup(table):
    f = Notebook("def f(x): return x")["f"]
    assert table.lookup(f) is None
    found = table.lookup(f)
    assert (found.number, found.name) == (1, "f")
    assert pickle.loads(found.payload)(7) == 7
    assert table.lookup(f) is found


DISPATCHER = """
import functools
N = 1
@functools.singledispatch
def g(x): return N
@g.register
def _(x: int): return x, N
"""

CONSTANT = {
    "nothing": "def f(x): return x",
    "a lambda": "f = lambda x: x",
    "a cache": "import functools\n@functools.lru_cache\ndef g(x): return x\ndef f(x): return g(x)",
    "itself cached": "import functools\n@functools.lru_cache\ndef f(x): return x",
    "a dispatcher": f"{DISPATCHER}def f(x): return g(x)",
    "itself a dispatcher": f"{DISPATCHER}f = g",
    "numbers, strings and tuples": "A, B, C = 1, 'two', (3.0, (None, b'x'), ...)\ndef f(x): return A, B, C",
    "defaults": "def f(x, y=2, *, z=(3, 'a')): return y, z",
    "a module": "import math\ndef f(x): return math.sqrt(x)",
    "a submodule": "import os.path\ndef f(x): return os.path.join('a', 'b')",
    "an importable function": "from textwrap import dedent\ndef f(x): return dedent('  a')",
    "an importable class": "from fractions import Fraction\ndef f(x): return Fraction(x)",
    "a ufunc": "from numpy import sin\ndef f(x): return sin(x)",
    "a builtin": "def f(x): return len(str(x))",
    "another function": "def g(x): return x + 1\ndef f(x): return g(x)",
    "itself": "def f(x): return 1 if x < 2 else x * f(x - 1)",
    "a function that refers back": "def g(x): return f(x - 1) if x else 0\ndef f(x): return g(x - 1) if x else 1",
    "a closure": "def make(y):\n    def f(x): return x + y\n    return f\nf = make(3)",
    "a recursive closure": "def make():\n    def f(x): return f(x - 1) if x > 0 else x\n    return f\nf = make()",
    "a decorator": """
        import functools
        def twice(g):
            @functools.wraps(g)
            def wrapper(x): return 2 * g(x)
            return wrapper
        @twice
        def f(x): return x""",
    "attributes": "def f(x): return x\nf.unit = 'mm'",
    "a nested function and a comprehension": "N = 2\ndef f(x):\n    def g(y): return [N * z + y for z in range(3)]\n    return g(x)",
    "a nested class": "N = 2\ndef f(x):\n    class A:\n        def y(self): return N\n    return A().y()",
    "a generator": "def g(x):\n    yield x\ndef f(x): return list(g(x))",
    "its own variables changed inside": """
        def f(x):
            count = 0
            def up():
                nonlocal count
                count += 1
            up()
            return count""",
    "attributes of fresh objects": "import types\ndef f(x):\n    a = types.SimpleNamespace()\n    a.x = x\n    return a.x",
    "a class of main": "class C: y = 1\ndef f(x): return C.y",
    "nothing that is there yet": "def f(x): return later(x) if x > 99 else x",
}


@pytest.mark.parametrize("source", CONSTANT.values(), ids=CONSTANT)
def test_function_with_constant_references_is_cached(table, source):
    f = Notebook(source)["f"]
    found = settled(table, f)
    assert found is not None
    assert pickle.loads(found.payload)(4) == f(4)
    for _ in range(3):
        gc.collect()
        assert table.lookup(f) is found


IMPORTABLE = [sum, len, int, dict, math.sqrt, np.sin, np.linalg.inv, np.dot, textwrap.dedent, operator.add,
              functools.partial, str.join, functools.lru_cache, random.Random, gc.collect]  # fmt: skip


@pytest.mark.parametrize("function", IMPORTABLE, ids=lambda function: function.__name__)
def test_importable_objects_are_cached(table, function):
    if function is str.join:  # a method descriptor is pickled by getattr, not by reference
        assert settled(table, function) is None
        return
    found = settled(table, function)
    assert found is not None
    assert len(found.payload) < 100
    assert pickle.loads(found.payload) is function
    assert table.lookup(function) is found


CHANGEABLE = {
    "a list": "L = [1]\ndef f(x): return L",
    "a dict": "D = {}\ndef f(x): return D",
    "an array": "import numpy\nA = numpy.zeros(3)\ndef f(x): return A",
    "a list in a tuple": "T = (1, [2])\ndef f(x): return T",
    "a bytearray of a class of main": "class C: y = bytearray(b'1')\ndef f(x): return C.y",
    "an instance": "import types\nI = types.SimpleNamespace()\ndef f(x): return I",
    "a partial": "import functools\ndef g(x): return x\np = functools.partial(g, 1)\ndef f(x): return p()",
    "a bound method": "m = [].append\ndef f(x): return m(x)",
    "a mutable default": "def f(x, seen=[]):\n    seen.append(x)\n    return len(seen)",
    "a mutable keyword default": "def f(x, *, seen={}):\n    seen[x] = 1\n    return len(seen)",
    "a mutable attribute": "def f(x): return f.seen\nf.seen = []",
    "a list in a closure": "def make(y):\n    def f(x): return y\n    return f\nf = make([1])",
    "a list behind another function": "L = [1]\ndef g(x): return L\ndef f(x): return g(x)",
    "a list used in a nested function": "L = [1]\ndef f(x):\n    def g(): return L\n    return g()",
    "a list used in a nested class": "L = [1]\ndef f(x):\n    class A:\n        y = L\n    return A.y",
    "a list in a default of another function": "def g(x, l=[]): return l\ndef f(x): return g(x)",
    "main": "import __main__\ndef f(x): return __main__",
    "a module made by hand": "import types\nm = types.ModuleType('made')\ndef f(x): return m",
}

REMEMBERS = {
    "a global": "N = 0\ndef f(x):\n    global N\n    N += 1\n    return N",
    "a global it deletes": "N = 0\ndef f(x):\n    global N\n    del N",
    "a global it imports": "def f(x):\n    global math\n    import math",
    "a global, in a nested function": "N = 0\ndef f(x):\n    def g():\n        global N\n        N += 1\n    g()\n    return N",
    "a global, in another function": "N = 0\ndef g():\n    global N\n    N += 1\n    return N\ndef f(x): return g()",
    "a cell": "def make():\n    n = 0\n    def f(x):\n        nonlocal n\n        n += 1\n        return n\n    return f\nf = make()",
    "a cell, in a nested function": """
        def make():
            n = 0
            def f(x):
                def g():
                    nonlocal n
                    n += 1
                g()
                return n
            return f
        f = make()""",
    "an attribute of itself": "def f(x):\n    f.n = getattr(f, 'n', 0) + 1\n    return f.n",
    "an attribute of another function": "def g(): pass\ndef f(x):\n    g.n = getattr(g, 'n', 0) + 1\n    return g.n",
    "an attribute, by setattr": "def f(x):\n    setattr(f, 'n', getattr(f, 'n', 0) + 1)\n    return f.n",
    "an attribute, by __dict__": "def f(x):\n    f.__dict__['n'] = f.__dict__.get('n', 0) + 1\n    return f.n",
    "an implementation": f"{DISPATCHER}def f(x):\n    g.register(int, lambda x: 2)\n    return g(x)",
    "its namespace": "def f(x):\n    globals()['n'] = globals().get('n', 0) + 1\n    return n",
    "its namespace, by exec": "def f(x):\n    exec('global n; n = 1')\n    return n",
    "its namespace, by another name": "from builtins import exec as run\ndef f(x):\n    f.__globals__['n'] = 1",
}


@pytest.mark.parametrize("source", [*CHANGEABLE.values(), *REMEMBERS.values()], ids=[*CHANGEABLE, *REMEMBERS])
def test_function_with_mutable_references_is_not_cached(table, source):
    f = Notebook(source)["f"]
    assert settled(table, f) is None
    assert table.lookup(f) is None


def test_other_callables_are_not_cached(table):
    class Called:
        def __call__(self):
            pass

        def method(self):
            pass

    class Masked:
        """A callable whose attributes claim that it is an importable function."""

        __module__ = "math"
        __qualname__ = "sqrt"

        def __call__(self):
            pass

    called = Called()
    for one in (
        called,
        called.method,
        functools.partial(max, 1),
        [].append,
        "x".join,
        Masked(),
        np.vectorize(len),
    ):
        assert settled(table, one) is None


# ---- changes are detected: run the setup, then the edit; f must get another number or none ----

DECORATOR = """
import functools
def d(g):
    @functools.wraps(g)
    def w(x): return g(x)
    return w
"""

EDITS = {
    "a global number": ("N = 1\ndef f(x): return N", "N = 2"),
    "an equal number of another type": ("N = 1\ndef f(x): return N", "N = True"),
    "an equal default of another type": ("def f(x, y=1): return y", "f.__defaults__ = (1.0,)"),
    "a global tuple": ("N = (1, 2)\ndef f(x): return N", "N = (1, 3)"),
    "a global number to a list": ("N = 1\ndef f(x): return N", "N = [1]"),
    "a global taken away": ("N = 1\ndef f(x): return N", "del N"),
    "a global defined later": ("def f(x): return N if x > 99 else 0", "N = 1"),
    "a builtin shadowed later": ("def f(x): return len(x)", "def len(x): return 42"),
    "a shadowed builtin freed": ("def len(x): return 42\ndef f(x): return len(x)", "del len"),
    "another function redefined": ("def g(): return 1\ndef f(x): return g()", "def g(): return 2"),
    "another function's code": ("def g(): return 1\ndef h(): return 2\ndef f(x): return g()", "g.__code__ = h.__code__"),
    "another function's global": ("N = 1\ndef g(): return N\ndef f(x): return g()", "N = 2"),
    "another function's default": ("def g(y=1): return y\ndef f(x): return g()", "g.__defaults__ = (2,)"),
    "its code": ("def g(x): return 2\ndef f(x): return 1", "f.__code__ = g.__code__"),
    "its defaults": ("def f(x, y=1): return y", "f.__defaults__ = (2,)"),
    "its defaults taken away": ("def f(x, y=1): return y", "f.__defaults__ = None"),
    "its keyword defaults": ("def f(x, *, y=1): return y", "f.__kwdefaults__ = {'y': 2}"),
    "its keyword defaults in place": ("def f(x, *, y=1): return y", "f.__kwdefaults__['y'] = 2"),
    "its keyword defaults taken away": ("def f(x, *, y=1): return y", "f.__kwdefaults__ = None"),
    "keyword defaults given later": ("def f(x, *, y): return y", "f.__kwdefaults__ = {'y': 2}"),
    "an attribute given later": ("def f(x): return getattr(f, 'unit', None)", "f.unit = 'mm'"),
    "a second attribute given later": ("def f(x): return getattr(f, 'b', 0)\nf.a = 1", "f.b = 1"),
    "an attribute changed": ("def f(x): return f.unit\nf.unit = 'mm'", "f.unit = 'm'"),
    "an attribute taken away": ("def f(x): return getattr(f, 'unit', None)\nf.unit = 'mm'", "del f.unit"),
    "all attributes replaced": ("def f(x): return f.unit\nf.unit = 'mm'", "f.__dict__ = {'unit': 'm'}"),
    "its name, which it asks for": ("def f(x): return f.__name__", "f.__name__ = 'g'"),
    "another's name": ("def g(): pass\ndef f(x): return g.__name__", "g.__name__ = 'h'"),
    "another's doc, asked for by a third": (
        "def g(): pass\ndef ask(h): return h.__doc__\ndef f(x): return ask(g)", "g.__doc__ = 'new'"),
    "a closure's cell": (
        "def make(y):\n    def f(x): return y\n    return f\nf = make(1)", "f.__closure__[0].cell_contents = 2"),
    "a closure's cell emptied": (
        "def make(y):\n    def f(x): return y\n    return f\nf = make(1)", "del f.__closure__[0].cell_contents"),
    "a closure's cell by a sibling": (
        "def make(y):\n    def f(x): return y\n    def up():\n        nonlocal y\n        y += 1\n    return f, up\nf, up = make(1)",
        "up()"),
    "a function in a closure": (
        "def make(g):\n    def f(x): return g()\n    return f\ndef g(): return 1\ndef h(): return 2\nf = make(g)",
        "g.__code__ = h.__code__"),
    "a nested function's global": ("N = 1\ndef f(x):\n    def g(): return N\n    return g()", "N = 2"),
    "a comprehension's global": ("N = 1\ndef f(x): return [N for _ in range(2)]", "N = 2"),
    "a nested class's global": ("N = 1\ndef f(x):\n    class A:\n        y = N\n    return A.y", "N = 2"),
    "a doubly nested lambda's global": ("N = 1\ndef f(x): return (lambda: (lambda: N)())()", "N = 2"),
    "a decorated function's global": (
        f"{DECORATOR}N = 1\n@d\ndef f(x): return N", "N = 2"),
    "a decorated function's code": (
        f"{DECORATOR}@d\ndef f(x): return 1\ndef h(x): return 2", "f.__wrapped__.__code__ = h.__code__"),
    "the second of a recursive pair": (
        "N = 1\ndef g(x): return f(0) if x else N\ndef f(x): return g(x)", "N = 2"),
    "the second of a recursive pair redefined": (
        "def g(x): return f(0) if x else 1\ndef f(x): return g(x)", "def g(x): return 2"),
    "the fourth function down": (
        "N = 1\ndef i(): return N\ndef h(): return i()\ndef g(): return h()\ndef f(x): return g()", "N = 2"),
    "a default that is a function": ("def g(): return 1\ndef h(): return 2\ndef f(x, y=g): return y()", "g.__code__ = h.__code__"),
    "a function in a tuple": (
        "def g(): return 1\ndef h(): return 2\nT = (g,)\ndef f(x): return T[0]()", "g.__code__ = h.__code__"),
    "a module exchanged": ("import math as m\ndef f(x): return m.floor(x)", "import cmath as m"),
    "an imported function exchanged": ("from math import sqrt as g\ndef f(x): return g(x)", "from math import exp as g"),
    "an imported class by one's own": (
        "from fractions import Fraction\ndef f(x): return Fraction(x)", "class Fraction(float): pass"),
    "a cached function's global": ("import functools\nN = 1\n@functools.cache\ndef g(): return N\ndef f(x): return g()", "N = 2"),
    "a cached function": ("import functools\n@functools.cache\ndef g(): return 1\ndef f(x): return g()", "g = functools.cache(lambda: 2)"),
    "a dispatcher's global": (f"{DISPATCHER}def f(x): return g(x)", "N = 2"),
    "a dispatcher's implementation": (f"{DISPATCHER}f = g", "for kind in (object, int): g.register(kind, lambda x: 2)"),
    "an operator's function": ("N = 1\nf = lambda x: x + N", "N = 3"),
    "globals, by exec": ("N = 1\ndef f(x): return N", "exec('N = 2', globals())"),
    "the name of the module": ("def f(x): return __name__", "__name__ = 'other'"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "edit"), EDITS.values(), ids=EDITS)
def test_edit_between_lookups_is_detected(table, source, edit):
    notebook = Notebook(source)
    f = notebook["f"]
    before = settled(table, f)
    assert before is not None, "this scenario shows nothing unless the function hits"
    assert table.lookup(f) is before
    notebook.run(edit)
    after = table.lookup(f)
    assert after is None or after.number > before.number
    assert notebook["f"] is f


@pytest.mark.parametrize(("source", "edit"), EDITS.values(), ids=EDITS)
def test_redefined_function_gets_new_number(table, source, edit):
    notebook = Notebook(source)
    before = settled(table, notebook["f"])
    notebook.run(edit)
    notebook.run(source)
    after = settled(table, notebook["f"])
    assert after is not None
    assert after.number > before.number
    assert after.payload is not before.payload


def test_new_number_comes_with_new_pickle(table):
    notebook = Notebook("N = 1\ndef f(x): return x + N")
    f = notebook["f"]
    first = settled(table, f)
    notebook.run("N = 10")
    second = table.lookup(f)
    assert [pickle.loads(one.payload)(1) for one in (first, second)] == [2, 11]
    notebook.run("N = 1")  # the same value as at first; small ints are the same object
    third = table.lookup(f)
    assert third.number > second.number
    assert pickle.loads(third.payload)(1) == 2


def test_unrelated_edit_changes_nothing(table):
    notebook = Notebook("N = 1\nL = []\ndef f(x): return x + N")
    found = settled(table, notebook["f"])
    notebook.run("L.append(1)\nM = 2\ndef g(): pass\nN = 1")
    assert table.lookup(notebook["f"]) is found


# ---- modules ----


@pytest.fixture
def module(tmp_path, monkeypatch):
    source = """
        N = 1
        def f(x): return N
        class C:
            def m(self): pass
            def __call__(self): pass
        like_a_function = C()
        like_a_function.__qualname__ = "like_a_function"
    """
    (tmp_path / "their_module.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_module", raising=False)
    for kept in (
        reloads.SPECS,
        reloads._versions,
    ):  # else the module of the next test is an edited one of the same name
        monkeypatch.delitem(kept, "their_module", raising=False)
    yield importlib.import_module("their_module")
    sys.modules.pop("their_module", None)


def test_module_function_is_cached_with_any_references(table, module):
    found = settled(table, module.f)
    assert pickle.loads(found.payload) is module.f
    module.N = [2]  # workers import the module, so they never see this value
    assert table.lookup(module.f) is found
    assert pickle.loads(settled(table, module.C).payload) is module.C
    assert pickle.loads(settled(table, module.C.m).payload) is module.C.m


def test_function_like_object_of_module_is_not_cached(table, module):
    assert settled(table, module.like_a_function) is None
    notebook = Notebook("from their_module import like_a_function\ndef f(x): return like_a_function")
    assert settled(table, notebook["f"]) is None


def test_replaced_module_function_is_pickled_by_value(table, module):
    f = module.f
    before = settled(table, f)
    module.f = lambda x: "patched"
    after = table.lookup(f)
    assert after.number > before.number
    assert pickle.loads(after.payload)(0) == 1


def test_module_registered_by_value_is_detected(table, module):
    notebook = Notebook("import their_module\nfrom their_module import f as theirs\ndef f(x): return theirs(x)")
    functions = [module.f, notebook["f"]]
    before = [settled(table, f) for f in functions]
    cloudpickle.register_pickle_by_value(module)
    try:
        for f, found in zip(functions, before, strict=True):
            after = table.lookup(f)
            assert after.number > found.number
            module.N = 2
            assert table.lookup(f) is not after  # it is pickled by value now, so its globals matter
            module.N = 1
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert len(table.lookup(module.f).payload) < 100


def test_reloaded_module_gives_new_functions(table, module):
    old, before = module.f, settled(table, module.f)
    importlib.reload(module)
    assert settled(table, module.f).number > before.number
    after = table.lookup(old)  # no longer importable, so it is pickled by value
    assert after is None or after.number > before.number


def test_later_submodule_import_is_detected(table, monkeypatch):
    """cloudpickle has workers import the submodules that a function uses, if they are imported in the master."""
    code = """
        import xml
        import pickle, sys
        from pympipool.execution.function_cache import FunctionTable
        namespace = {"__name__": "__main__", "xml": xml}
        exec("def f(x): return xml.dom.Node", namespace)
        exec("def g(x): return xml.no_such", namespace)
        f, g = namespace["f"], namespace["g"]
        table = FunctionTable()
        for one in (f, g, f, g): table.lookup(one)
        before = table.lookup(f), table.lookup(g)
        assert all(before)
        import xml.dom
        after = table.lookup(f), table.lookup(g)
        assert after[0].number > before[0].number
        assert after[1] is before[1]
        assert table.lookup(f) is after[0]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


# ---- the table ----


def test_change_during_pickling_delays_the_number(table, monkeypatch):
    notebook = Notebook("N = 1\ndef f(x): return N")
    f = notebook["f"]

    def change_and_dump(value, _classes):
        pickled = cloudpickle.dumps(value)
        notebook.run("N = 2")  # as another thread might do
        return pickled

    table.lookup(f)
    with monkeypatch.context() as patched:
        patched.setattr(function_cache, "dump_function", change_and_dump)
        assert table.lookup(f) is None
    assert pickle.loads(table.lookup(f).payload)(0) == 2


def test_table_is_bounded_and_evicts_the_oldest(table):
    functions = [Notebook(f"def f(x): return {number}")["f"] for number in range(FUNCTION_CACHE_SIZE + 10)]
    found = [settled(table, f) for f in functions]
    assert [one.number for one in found] == list(range(1, FUNCTION_CACHE_SIZE + 11))
    assert table.lookup(functions[-1]) is found[-1]
    assert table.lookup(functions[10]) is found[10]
    again = settled(table, functions[0])
    assert again.number > found[-1].number
    assert len(table.known) == FUNCTION_CACHE_SIZE


@frees_definitions
def test_cached_function_stays_alive_until_evicted(table):
    notebook = Notebook("def f(x): return 0")
    watched = weakref.ref(notebook["f"])
    settled(table, notebook["f"])
    notebook.run("f = None")
    gc.collect()
    assert watched() is not None
    for number in range(FUNCTION_CACHE_SIZE):
        settled(table, Notebook(f"def f(x): return {number}")["f"])
    gc.collect()
    assert watched() is None


def test_uncached_functions_are_not_kept_alive(table):
    class Data:
        pass

    def make(data):
        return lambda: data

    data = Data()
    watched = weakref.ref(data)
    f = make([data])
    assert settled(table, f) is None
    seen_once = make((data,))
    table.lookup(seen_once)
    known = make(1)
    assert settled(table, known) is not None
    known.__closure__[0].cell_contents = [data]
    assert table.lookup(known) is None
    del f, seen_once, known, data
    gc.collect()
    assert watched() is None


def test_lambdas_called_once_get_no_numbers(table):
    for number in range(1000):
        assert table.lookup(lambda number=number: number) is None
    assert settled(table, sum).number == 1


def test_reused_address_does_not_confuse_functions(table):
    for number in range(3000):
        f = Notebook(f"L = {'[1]' if number % 2 else '(1,)'}\ndef f(x): return L, {number}")["f"]
        found = settled(table, f)
        assert (found is None) == bool(number % 2)
        if found is not None:
            assert pickle.loads(found.payload)(0) == ((1,), number)


def test_concurrent_redefinition_never_gives_stale_function():
    table = FunctionTable()
    notebook = Notebook("N = 0\ndef f(x): return N")
    f = notebook["f"]
    failures = []
    stop = threading.Event()

    def look_up():
        while not stop.is_set():
            least = notebook["N"]
            found = table.lookup(f)
            if found is not None and not least <= pickle.loads(found.payload)(0) <= notebook["N"]:
                failures.append(found)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=look_up) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        for number in range(3000):
            notebook.names["N"] = number
            table.lookup(f)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not failures
    numbers = [one.number for one in table._slots if one]
    assert len(set(numbers)) == len(numbers)


# ---- after any edit, a cached function behaves like a freshly pickled one ----

TEMPLATES = [
    "def {f}(x): return ({a}, {b})",
    "def {f}(x, y={k}): return ({a}, y)",
    "def {f}(x): return ({g}(x - 1) if x > 0 else {k}, {a})",
    "def {f}(x): return ([{a} for _ in range(2)], (lambda: {b})())",
    "def make(c):\n    def {f}(x): return (c, {a})\n    return {f}\n{f} = make({k})",
    "def {f}(x):\n    global {a}\n    {a} = ({a}, 1)[:1]\n    return repr({a})[:9]",
    "{f} = {g}",
    "{f}.{a} = {k}",
    "def {f}(x): return repr(getattr({f}, '{a}', None))",
    "{a} = {k}",
    "{a} = [{k}]",
    "{a} = ({k}, '{b}')",
    "{a}.append({k}) if isinstance({a}, list) else None",
    "{f}.__defaults__ = ({k},)",
    "{f}.__code__ = {g}.__code__ if not ({f}.__closure__ or {g}.__closure__) else {f}.__code__",
    "{f}.__closure__[0].cell_contents = {k} if {f}.__closure__ else None",
]
START = "a, b, c = 1, 2, [3]\ndef f(x): return a\ndef g(x): return b\ndef h(x): return (f(x), g(x))\n"

edits = st.builds(
    lambda template, f, g, a, b, k: template.format(f=f, g=g, a=a, b=b, k=k),
    st.sampled_from(TEMPLATES),
    *[st.sampled_from("fgh")] * 2,
    *[st.sampled_from("abc")] * 2,
    st.integers(0, 3),
)


def outcome(function) -> str:
    try:
        return repr(function(2))
    except Exception as error:
        return type(error).__name__


@given(st.lists(edits, min_size=1, max_size=12))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.slow
def test_cached_function_behaves_like_freshly_pickled_one(cells):
    notebook = Notebook(START)
    table = FunctionTable()
    in_worker: dict[int, types.FunctionType] = {}
    for cell in ["pass", *cells]:
        try:
            notebook.run(cell)
        except (TypeError, ValueError, AttributeError):  # the edit does not apply to the present state
            continue
        for name in "fgh" * 2:
            function = notebook[name]
            found = table.lookup(function)
            fresh = pickle.loads(cloudpickle.dumps(function))
            if found is None:
                continue
            kept = in_worker.setdefault(found.number, pickle.loads(found.payload))
            assert outcome(kept) == outcome(fresh), cell
