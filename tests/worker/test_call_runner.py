from __future__ import annotations

import gc
import importlib
import sys
import weakref

import pytest

from pympipool.errors import SerializationError
from pympipool.serialization.payload import dump, dump_call
from pympipool.worker.call_runner import FUNCTION_CACHE_SIZE, CallRunner, Kept
from support.pickling import define_in_main


class Thing:
    pass


@pytest.fixture
def calls():
    return CallRunner({})


def test_call_with_its_function(calls):
    assert calls.run(0, dump_call(0, lambda x, y: (x, y), (1,), {"y": 2})) == (1, 2)


def test_call_by_function_number(calls):
    calls.remember(5, dump(lambda x: x + 1))
    assert calls.run(5, dump_call(5, None, (2,), {})) == 3


def test_functions_of_one_slot_replace_each_other(calls):
    calls.remember(5, dump(lambda: "old"))
    calls.remember(5 + FUNCTION_CACHE_SIZE, dump(lambda: "new"))
    assert calls.run(5 + FUNCTION_CACHE_SIZE, dump_call(5, None, (), {})) == "new"
    with pytest.raises(RuntimeError, match=f"refers to function 5, but that slot holds {5 + FUNCTION_CACHE_SIZE}"):
        calls.run(5, dump_call(5, None, (), {}))


def test_unknown_function_number_is_an_error(calls):
    with pytest.raises(RuntimeError, match="that slot holds 0"):
        calls.run(7, dump_call(7, None, (), {}))


def test_unpicklable_function_fails_every_call_alike(calls):
    calls.remember(5, [b"no pickle"])
    said = set()
    lengths = set()
    for _ in range(3):
        with pytest.raises(SerializationError, match="the function") as raised:
            calls.run(5, dump_call(5, None, (), {}))
        said.add(str(raised.value))
        lengths.add(len(raised.traceback))
    assert len(said) == 1
    assert len(lengths) == 1


def test_broken_arguments_fail_only_their_call(calls):
    calls.remember(5, dump(len))
    with pytest.raises(SerializationError, match="the arguments"):
        calls.run(5, [b"no pickle"])
    assert calls.run(5, dump_call(5, None, ([],), {})) == 0


def test_parts_are_released_before_the_function_runs(calls):
    parts = dump_call(0, lambda: None, (), {})
    calls.run(0, parts)
    assert parts == []


def test_no_reference_to_a_call_is_kept(calls):
    gc.disable()
    try:
        made = []

        def function(thing):
            made.append(weakref.ref(thing))
            return thing

        calls.functions[1] = Kept(1, function)
        calls.functions[1].is_current = lambda: True
        result = calls.run(1, dump_call(1, None, (Thing(),), {}))
        assert made[0]() is result
        del result
        assert made[0]() is None
    finally:
        gc.enable()


def test_init_values_reach_both_kinds_of_calls():
    calls = CallRunner({"k": 3})
    calls.remember(1, dump(lambda x, k: (x, k)))
    assert calls.run(1, dump_call(1, None, (1,), {})) == (1, 3)
    assert calls.run(0, dump_call(0, lambda k: k, (), {})) == 3


def script_function(source, name="f"):
    names = define_in_main(source)
    return dump(names[name])


@pytest.mark.parametrize(
    "source",
    [
        "import functools\n@functools.cache\ndef table(): return []\ndef f(): table().append(1); return len(table())\n",
        "import functools\ndef f():\n    n = getattr(f, 'n', 0)\n    functools.update_wrapper(f, type('X', (), {'n': n + 1}), ['n'], [])\n    return n\n",  # noqa: E501
        "def helper(): pass\ndef f():\n    n = len(vars(helper))\n    vars(helper)[n] = n\n    return n\n",
        "def f():\n    names = getattr(f, '__glo' + 'bals__')\n    names['n'] = names.get('n', 0) + 1\n    return names['n']\n",
    ],
    ids=["cache", "attribute", "attribute of another", "globals"],
)
def test_what_calls_leave_in_their_function_is_gone(calls, source):
    calls.remember(5, script_function(source))
    assert len({calls.run(5, dump_call(5, None, (), {})) for _ in range(4)}) == 1


@pytest.mark.parametrize(
    "source", ["", "from pympipool_test_reloaded import g\ndef f(): return g()\n"], ids=["module", "script"]
)
def test_module_reloaded_by_a_call_is_used(calls, tmp_path, monkeypatch, source):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "pympipool_test_reloaded", raising=False)
    path = tmp_path / "pympipool_test_reloaded.py"
    path.write_text("def g(): return 1\n")
    importlib.invalidate_caches()
    module = importlib.import_module("pympipool_test_reloaded")
    calls.remember(5, script_function(source) if source else dump(module.g))
    for _ in range(3):
        assert calls.run(5, dump_call(5, None, (), {})) == 1
    path.write_text("def g(): return 2  # edited\n")
    importlib.reload(module)
    assert calls.run(5, dump_call(5, None, (), {})) == 2


def test_function_is_unpickled_again_after_failure(calls, tmp_path, monkeypatch):
    """Its module may come to the host's file system later."""
    monkeypatch.syspath_prepend(str(tmp_path))
    pickled = b"cappearing_later\nanswer\n."
    calls.remember(5, [pickled])
    for _ in range(2):
        with pytest.raises(SerializationError, match="No module named 'appearing_later'"):
            calls.run(5, dump_call(5, None, (), {}))
    (tmp_path / "appearing_later.py").write_text("def answer(): return 42")
    assert calls.run(5, dump_call(5, None, (), {})) == 42
    assert calls.run(5, dump_call(5, None, (), {})) == 42
