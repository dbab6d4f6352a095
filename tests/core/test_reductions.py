"""What a pickler keeps about a class is right for all its instances, and for the class as it is now."""

# ruff: noqa: E501  a class reads best on one line

from __future__ import annotations

import copyreg
import importlib
import json
import pickle
import sys
import types
from fractions import Fraction

import cloudpickle
import pytest

from pympipool.serialization import by_value
from support.pickling import define_in_main

WAYS = {
    "dict": "class Kind:\n    def __init__(self): self.x = 1\n",
    "empty dict": "class Kind: pass\n",
    "slots": "class Kind:\n    __slots__ = ('x',)\n    def __init__(self): self.x = 1\n",
    "slots of a base": "class Base:\n    __slots__ = ('a',)\nclass Kind(Base):\n    def __init__(self): self.a = self.x = 1\n",
    "state": "class Kind:\n    def __getstate__(self): return 3\n    def __setstate__(self, state): self.x = state\n",
    "state that is set": "class Kind:\n    def __init__(self): self.x = 1\n    def __setstate__(self, state): self.y = state\n",
    "reduce": "class Kind:\n    def __reduce__(self): return Kind, (), {'x': 1}\n",
    "new arguments": "class Kind:\n    def __new__(cls, x): return super().__new__(cls)\n    def __getnewargs__(self): return (1,)\n",
    "getattr": "class Kind:\n    def __getattr__(self, name):\n        if name == '__getstate__': return lambda: {'x': 2}\n        raise AttributeError(name)\n",
    "list": "class Kind(list):\n    def __init__(self): self.append(1); self.x = 2\n",
    "int": "class Kind(int): pass\n",
    "property": "class Kind:\n    @property\n    def __dict__(self): return {'x': 3}\n",
}


def state_of(value):
    return [getattr(value, name, None) for name in "xay"], list(value) if isinstance(value, list) else None


@pytest.mark.parametrize("way", WAYS)
def test_instances_are_pickled_as_pickle_does(way):
    kind = define_in_main(WAYS[way])["Kind"]
    value = kind(1) if way in ("new arguments", "int") else kind()
    again = pickle.loads(by_value.dump(value))
    for _ in range(2):  # found out, and kept
        again = pickle.loads(by_value.dump([value, value]))[1]
        assert type(again) is kind
        assert state_of(again) == state_of(pickle.loads(cloudpickle.dumps(value)))


def test_shared_attributes_stay_shared():
    kind = define_in_main("class Kind: pass\n")["Kind"]
    one, other = kind(), kind()
    one.mine = other.mine = [one]
    first, second = pickle.loads(by_value.dump((one, other)))
    assert first.mine is second.mine
    assert first.mine[0] is first


def test_later_changes_of_a_class_count():
    kind = define_in_main("class Kind:\n    def __init__(self): self.x = 1\n")["Kind"]
    value = kind()
    by_value.dump(value)
    kind.__getstate__ = lambda self: {"x": 2}
    assert pickle.loads(by_value.dump(value)).x == 2
    copyreg.pickle(kind, lambda value: (int, (3,)))
    try:
        assert pickle.loads(by_value.dump(value)) == 3
        copyreg.pickle(kind, lambda value: (int, (4,)))
        assert pickle.loads(by_value.dump(value)) == 4
    finally:
        del copyreg.dispatch_table[kind]
    assert pickle.loads(by_value.dump(value)).x == 2


@pytest.fixture
def module():
    module = types.ModuleType("pympipool_test_importable")
    exec("def f(): return 1\nclass Kind: pass\n", module.__dict__)
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize("name", ["f", "Kind"])
def test_what_left_its_module_travels_by_value(module, name):
    value = getattr(module, name)
    for _ in range(2):
        assert len(by_value.dump(value)) < 100
    setattr(module, name, None)
    assert len(by_value.dump(value)) > 100


def test_functions_of_reloaded_modules_travel_by_value(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "pympipool_test_edited.py"
    path.write_text("def f(): return 1\n")
    module = importlib.import_module("pympipool_test_edited")
    assert len(by_value.dump(module.f)) < 100
    path.write_text("def f(): return 2  # edited\n")
    importlib.invalidate_caches()
    importlib.reload(module)
    try:
        assert len(by_value.dump(module.f)) > 100
        assert len(by_value.dump(importlib.reload)) < 100
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_only_modules_by_value_are_not_importable():
    reductions = by_value._Pickler.reductions
    by_value.dump([Fraction, json.JSONDecoder])  # from now on their modules are known
    cloudpickle.register_pickle_by_value(json)
    try:
        assert reductions.is_importable(Fraction)
        assert not reductions.is_importable(json.JSONDecoder)  # of json.decoder
    finally:
        cloudpickle.unregister_pickle_by_value(json)
    assert reductions.is_importable(json.JSONDecoder)
