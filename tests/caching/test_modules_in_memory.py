"""What this process has of a module in keys, in place of what its file has."""

import functools
import importlib
import importlib.util
import os
import sys

import cloudpickle
import numpy as np
import pytest

from pympipool import Executor, shared_array
from pympipool.caching import modules
from pympipool.caching.keys import Keys
from pympipool.caching.values import UnhashableError
from support.module_keys import function_in, key, write

BY_VALUE = """\
import made_by_value_deeper
VALUE, LOCKS = 1, []

class Model:
    factor = 1

    def method(self, x):
        return x * self.factor

def f(x):
    return deeper(x)

def deeper(x):
    return Model().method(x) + VALUE
"""

REACHES = [
    lambda module: module.f,
    lambda module: module.Model,
    lambda module: module.Model().method,
    lambda module: function_in({"__name__": "__main__", "module": module}, "return module.f(x)"),
    lambda module: function_in({"__name__": "__main__", "imported": module.f}, "return imported(x)"),
    lambda module: functools.partial(max, module),
]


@pytest.mark.parametrize("reach", REACHES)
def test_modules_by_value_count_as_they_are(folder, reach):
    write(folder / "made_by_value_deeper.py", "VALUE = 1\n")
    write(folder / "made_by_value.py", BY_VALUE)
    module = importlib.import_module("made_by_value")
    by_file = key(reach(module))
    cloudpickle.register_pickle_by_value(module)
    keys = Keys()
    assert by_file != key(reach(module), keys) == key(reach(module))
    digests = {key(reach(module), keys)}
    module.Model.factor = module.VALUE = 2
    digests.add(key(reach(module), keys))
    module.Model.factor = module.VALUE = 3
    digests.add(key(reach(module), keys))
    write(folder / "made_by_value.py", BY_VALUE + "# an edit of the file changes nothing\nOTHER = 1\n")
    digests.add(key(reach(module), keys))
    assert len(digests) == 3


def test_reloaded_modules_count_as_they_are(folder):
    write(folder / "made_reloaded.py", "VALUE = 1\n\ndef f(x):\n    return VALUE\n")
    import made_reloaded

    keys = Keys()
    first = key(made_reloaded.f, keys)
    write(folder / "made_reloaded.py", "VALUE = 22\n\ndef f(x):\n    return VALUE\n")
    importlib.reload(made_reloaded)
    second = key(made_reloaded.f, keys)  # by value, so it makes no difference what workers have imported
    write(folder / "made_reloaded.py", "VALUE = 333\n\ndef f(x):\n    return VALUE\n")
    assert first != second == key(made_reloaded.f, keys)


@pytest.mark.parametrize("reach", REACHES[:-1])
def test_calls_in_this_process_see_its_modules(folder, reach):
    write(folder / "made_by_value_deeper.py", "VALUE = 1\n")
    write(folder / "made_by_value.py", BY_VALUE.replace("[]", "[__import__('threading').Lock()]"))
    module = importlib.import_module("made_by_value")
    keys, workers = Keys(runs_here=True), Keys()
    first, by_file = key(reach(module), keys), key(reach(module), workers)
    assert first == key(reach(module), keys) != by_file
    module.Model.factor = module.VALUE = 2
    assert key(reach(module), keys) != first
    assert key(reach(module), workers) == by_file  # they import it anew
    module.Model.factor = module.VALUE = 1
    assert key(reach(module), keys) == first
    write(folder / "made_by_value_deeper.py", "VALUE = 22\n")
    assert key(reach(module), Keys(runs_here=True)) != first


def test_serial_calls_do_not_answer_those_of_workers(folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    write(folder / "edited_after_import.py", "VALUE = 1\n\ndef f(x):\n    return VALUE\n")
    import edited_after_import

    write(folder / "edited_after_import.py", "VALUE = 22\n\ndef f(x):\n    return VALUE\n")
    with Executor(backend="serial", cache_directory=folder / "cache") as exe:
        assert exe.submit(edited_after_import.f, 0).result() == 1
        edited_after_import.VALUE = 333
        assert exe.submit(edited_after_import.f, 0).result() == 333
    with Executor(max_workers=1, cache_directory=folder / "cache") as exe:
        assert exe.submit(edited_after_import.f, 0).result() == 22
    assert key(abs, Keys(runs_here=True)) != key(abs)  # a script may have changed an installed package, too


WITH_STATE = """\
import contextvars, queue, threading

class State:
    lock = threading.Lock()

    def __init__(self):
        self.condition, self.value = threading.Condition(), 1

STATE, LOCK, WAITING = State(), threading.RLock(), queue.Queue()
SHARED, LOCAL, VARIABLE = None, threading.local(), contextvars.ContextVar("made")

def state(x):
    with LOCK:
        return STATE.value + WAITING.qsize()

def shared(x):
    return SHARED.sum()

def local(x):
    return LOCAL.value

def variable(x, default=VARIABLE):
    return default.get()
"""


def test_serial_calls_see_values_beside_locks(folder):
    write(folder / "made_with_state.py", WITH_STATE)
    import made_with_state as module

    keys = Keys(runs_here=True)
    digests = [key(module.state, keys)]
    module.STATE.value = 2
    digests.append(key(module.state, keys))
    module.WAITING.put(1)
    digests.append(key(module.state, keys))
    assert len(set(digests)) == 3
    module.LOCK, module.STATE.value = type(module.LOCK)(), 1
    module.WAITING.get(), module.WAITING.task_done()
    assert key(module.state, Keys(runs_here=True)) == digests[0]


@pytest.mark.parametrize("name", ["shared", "local", "variable"])
def test_serial_calls_have_no_key_for_unreadable_state(folder, name):
    write(folder / "made_with_state.py", WITH_STATE)
    import made_with_state as module

    module.SHARED = shared_array((3,), np.float64, fill=1)
    script = function_in({"__name__": "__main__", "module": module}, f"return module.{name.upper()}")
    for function in (getattr(module, name), script):
        with pytest.raises(UnhashableError, match=f"{name}|{name.upper()}"):
            key(function, Keys(runs_here=True))
    assert key(getattr(module, name))  # workers import it anew


def test_names_in_installed_modules_are_not_the_users(folder):
    write(folder / "made_users.py", "VALUE = 1\n")
    for name, is_users in {
        "numpy.zeros": False,
        "os.path.join": False,
        "made_users.VALUE": True,
        "nowhere": True,
    }.items():
        assert modules._modules.is_users(name) == is_users
    keys = Keys(runs_here=True)
    imports_installed = function_in({"__name__": "__main__"}, "from numpy import zeros; return zeros(x)")
    key(imports_installed, keys)
    assert keys._functions._known[id(imports_installed)][1] is not None  # its digest is kept


IMPORTS_LATE = """\
def f(x):
    import made_late
    return made_late.f(x)

def g(x):
    if x > 10:
        import made_late
    return x
"""


def test_serial_calls_see_what_they_import_themselves(folder):
    write(folder / "made_early.py", "VALUE = 1\n")
    write(
        folder / "made_late.py", "import made_early\nVALUE = 1\n\ndef f(x):\n    return x + VALUE + made_early.VALUE\n"
    )
    namespace = {"__name__": "__main__"}
    exec(IMPORTS_LATE, namespace)
    f, g = namespace["f"], namespace["g"]

    def session(expected, found, value=1):
        """Call f twice, and then after a change, in a script that has changed `made_early` at its beginning."""
        import made_early

        made_early.VALUE = value
        with Executor(backend="serial", cache_directory=folder / "cache") as exe:
            first = exe.submit(f, 1)
            after = exe.submit(abs, first)  # known by the call before, whose key does not tell what it has seen
            assert after.result() == first.result() == exe.submit(f, 1).result() == expected
            sys.modules["made_late"].VALUE = 5
            assert exe.submit(f, 1).result() == expected + 4
            assert exe._cache.counts.found == found
        del sys.modules["made_late"], sys.modules["made_early"]

    session(3, 0)
    session(3, 2)
    session(12, 0, value=10)
    session(12, 2, value=10)
    for found in (0, 1):
        with Executor(backend="serial", cache_directory=folder / "cache") as exe:
            assert exe.submit(g, 1).result() == 1  # does not import it
            assert exe._cache.counts.found == found
