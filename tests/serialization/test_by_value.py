"""Functions, classes and instances that a worker cannot import arrive by value."""

from __future__ import annotations

import copyreg
import dataclasses
import sys
import threading
import types

import cloudpickle
import numpy as np
import pytest

from pympipool.errors import SerializationError
from pympipool.serialization import by_value
from pympipool.serialization.payload import (
    dump,
    dump_call,
    dump_for_start,
    load,
)
from pympipool.serialization.reloads import SPAWNED_SCRIPT
from support.pickling import define_in_main, round_trip


def test_class_of_main_round_trips_as_same_class(other_process):
    names = define_in_main(
        "import dataclasses, enum\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int\n    def twice(self): return Point(2 * self.x)\n"
        "class Colour(enum.Enum):\n    RED = 1\n"
        "def f(p, *more): return p.twice()\n"
        "def g(c): return c, type(c)\n"
    )
    point, red = names["Point"](3), names["Colour"].RED
    arrived = other_process.run(names["f"], point, [point], {"a": (point,)})
    assert arrived == names["Point"](6)
    assert type(arrived) is names["Point"]
    assert other_process.run(names["g"], red) == (red, names["Colour"])


@pytest.mark.parametrize("depth", range(6))
def test_main_function_in_nested_containers_travels_by_value(other_process, depth):
    value = define_in_main("def f(): return 'of main'")["f"]
    for _ in range(depth):
        value = {"deeper": [1, (value,)]}
    dump(value)  # alone: beside a function, cloudpickle is used anyway. Pickling by reference would fail here
    dump_call(1, max, (value,), {"k": value})

    def dig(value):
        while isinstance(value, dict):
            value = value["deeper"][1][0]
        return value()

    assert other_process.run(dig, value) == "of main"


@pytest.mark.parametrize(
    ("name", "dump_first"),
    [
        ("add", lambda function: dump_for_start((function,), "a function")),
        ("add_cached", lambda function: dump_call(0, function, (), {})),
    ],
)
def test_first_function_of_spawned_script_travels_by_value(name, dump_first, monkeypatch):
    script = types.ModuleType(SPAWNED_SCRIPT)
    source = "import functools\ndef add(x): return x + 1\n@functools.cache\ndef add_cached(x): return x + 1"
    exec(source, vars(script))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, SPAWNED_SCRIPT, script)
        try:
            parts = dump_first(vars(script)[name])
        finally:
            cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES.discard(SPAWNED_SCRIPT)
    assert load(parts)[0](1) == 2  # it cannot be imported here


def test_functions_by_value_keep_their_file_names(other_process):
    def outer():
        return outer.__code__.co_filename, (lambda: None).__code__.co_filename

    assert other_process.run(outer) == (__file__, __file__)


def test_main_instances_in_arrays_and_long_lists_arrive(other_process):
    names = define_in_main("class Thing:\n    word = 'of main'\n")
    array = np.array([names["Thing"]()], dtype=object)
    assert round_trip(array)[0].word == "of main"
    long = [0] * 10_000 + [names["Thing"]()]
    assert other_process.run(lambda a, b: (a[0].word, b[-1].word), array, long) == ("of main", "of main")


def test_class_defined_in_main_module_travels_by_value(other_process, monkeypatch):
    kind = define_in_main("class OfMain:\n    word = 'of main'\n")["OfMain"]
    monkeypatch.setattr(sys.modules["__main__"], "OfMain", kind, raising=False)
    assert other_process.run(lambda one: one.word, kind()) == "of main"


def test_lambdas_closures_and_their_globals_arrive(other_process):
    names = define_in_main("N = 5\nhelper = lambda x: x * N\ndef outer(y):\n    return lambda x: helper(x) + y\n")
    assert other_process.run(names["outer"](2), 3) == 17


def test_modules_and_functions_by_reference_arrive(other_process):
    assert (
        other_process.run(lambda module, function: function(module.pi), __import__("math"), str) == "3.141592653589793"
    )


def test_module_registered_by_value_need_not_be_importable(other_process, tmp_path, monkeypatch):
    (tmp_path / "travels_by_value.py").write_text("class Thing:\n    word = 'sent along'\ndef f(t): return t.word\n")
    monkeypatch.syspath_prepend(tmp_path)
    import travels_by_value

    with pytest.raises(SerializationError, match="No module named 'travels_by_value'"):
        other_process.run(travels_by_value.f, travels_by_value.Thing())
    cloudpickle.register_pickle_by_value(travels_by_value)
    try:
        assert other_process.run(travels_by_value.f, travels_by_value.Thing()) == "sent along"
    finally:
        cloudpickle.unregister_pickle_by_value(travels_by_value)


def test_reducers_registered_later_are_used(monkeypatch):
    @dataclasses.dataclass
    class Odd:
        lock: object

    monkeypatch.setitem(copyreg.dispatch_table, Odd, lambda odd: (Odd, ("by copyreg",)))
    assert round_trip(Odd(threading.Lock())).lock == "by copyreg"
    monkeypatch.setitem(copyreg.dispatch_table, Odd, lambda odd: (Odd, ("by another",)))
    assert round_trip(Odd(threading.Lock())).lock == "by another"
    monkeypatch.setitem(cloudpickle.Pickler.dispatch_table.maps[0], Odd, lambda odd: (Odd, ("by cloudpickle",)))
    assert round_trip(Odd(threading.Lock())).lock == "by cloudpickle"


def test_plain_values_do_not_use_cloudpickle(monkeypatch):
    monkeypatch.setattr(by_value, "dump", None)
    for value in (
        1,
        "a",
        [1, 2],
        {"a": (1, [2.5])},
        np.arange(3),
        {"x": np.zeros((2, 2))},
        np.float64(2),
        [np.int8(1)],
    ):
        dump(value)
        dump_call(1, max, (value,), {"k": value})


@pytest.mark.parametrize("name", ["str", "int", "dict", "list", "tuple", "float", "frozenset"])
def test_instances_of_builtin_subclasses_are_not_plain(other_process, name):
    mine = define_in_main(f"class Mine({name}):\n    word = 'of main'\n")["Mine"]()
    assert other_process.run(lambda one: one.word, mine) == "of main"
    if name not in ("dict", "list"):
        assert other_process.run(lambda some: next(iter(some)).word, {mine: 1}) == "of main"
