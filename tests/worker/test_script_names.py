"""A worker's `__main__` has the classes and functions of the script: pickle stores them by name."""

from __future__ import annotations

import pytest

from support.scripts import run_script

SCRIPT = """
import dataclasses, multiprocessing, pickle
from pympipool import Executor

@dataclasses.dataclass
class State:
    step: int

def double(state):
    return State(2 * state.step)

def load(pickled):
    return pickle.loads(pickled)

def steps(state):
    return pickle.loads(pickle.dumps((double, State(state.step))))

def pool(n):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.map(double, [State(n)])

def first(value):
    return value[0] if {ranks} > 1 else value

if __name__ == "__main__":
    with Executor(max_cores={ranks}, cores_per_worker={ranks}, block_allocation={block}, backend="mpi") as exe:
        assert first(exe.submit(load, pickle.dumps(State(1))).result()) == State(1)
        assert first(exe.submit(pickle.loads, pickle.dumps([double])).result())[0](State(1)) == State(2)
        for n in range(3):
            function, state = first(exe.submit(steps, State(n)).result())
            assert function(state) == State(2 * n)
            if {ranks} == 1:
                assert exe.submit(pool, n).result() == [State(2 * n)]
        error = exe.submit(load, b"c__main__\\nnowhere\\n.").exception()
        assert type(error) is AttributeError and "nowhere" in str(error), repr(error)
    print("right")
"""


@pytest.mark.parametrize(("ranks", "block"), [(1, True), (1, False), (2, True)])
def test_calls_pickle_objects_of_the_script(tmp_path, ranks, block):
    script = SCRIPT.replace("{ranks}", str(ranks)).replace("{block}", str(block))
    assert run_script(script, tmp_path) == "right\n"


def test_redefined_class_is_loaded_as_it_is_now(tmp_path):
    script = """
import pickle
from pympipool import Executor

class State:
    version = 1

def load(pickled):
    return pickle.loads(pickled).version

def version():
    return State.version

with Executor(max_workers=1, block_allocation=True, backend="mpi") as exe:
    assert exe.submit(version).result() == 1
    assert exe.submit(load, pickle.dumps(State())).result() == 1

    class State:
        version = 2

    assert exe.submit(load, pickle.dumps(State())).result() == 2
print("right")
"""
    assert run_script(script, tmp_path) == "right\n"


def test_redefined_function_is_loaded_as_it_is_now(tmp_path):
    script = """
import pickle
from pympipool import Executor

def version():
    return 1

def load(pickled):
    return pickle.loads(pickled)()

def call(function):
    return function()

def outer():
    return version(), pickle.loads(pickle.dumps(version)) is version

with Executor(max_workers=1, block_allocation=True, backend="mpi") as exe:
    by_name = pickle.dumps(version)
    for _ in range(3):
        assert exe.submit(outer).result() == (1, True)
        assert exe.submit(call, version).result() == 1
        assert exe.submit(load, by_name).result() == 1

    def version():
        return 2

    assert exe.submit(load, by_name).result() == 2
    for _ in range(3):
        assert exe.submit(outer).result() == (2, True)
        assert exe.submit(load, by_name).result() == 2
print("right")
"""
    assert run_script(script, tmp_path) == "right\n"


def test_names_that_cannot_be_pickled_do_not_hang(tmp_path):
    script = """
import sys
from pympipool import Executor

class State:
    frame = sys._getframe()

def look(name):
    import __main__
    return hasattr(__main__, name)

with Executor(max_workers=1, block_allocation=True, backend="mpi") as exe:
    print([exe.submit(look, name).result(timeout=60) for name in ("State", "exe", "__file__", "missing", "look")])
"""
    assert run_script(script, tmp_path) == "[False, False, False, False, True]\n"
