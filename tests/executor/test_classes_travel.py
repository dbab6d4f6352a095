"""Classes of the script: a result never changes them, on any path from worker to master."""

import pytest

from pympipool import Executor

SCRIPT = """
import dataclasses

class Failure(Exception):
    limit = 1

class Model:
    made = 0
    known = []

    def __init__(self, payload=None):
        Model.made += 1
        self.payload = payload

def make(size=0): return Model(b"x" * size)
def fail(): raise Failure("x")
def made(model): return type(model).made, len(model.payload), Model
def same(x): return x
"""


@pytest.fixture
def script():
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(SCRIPT, names)
    return names


@pytest.fixture
def untouched(script):
    """Check after the test that the classes of the script are unchanged."""
    model, failure = kinds = script["Model"], script["Failure"]
    failure.limit = 7
    model.known.append("a")
    model().__reduce_ex__(4)  # pickling an instance caches an attribute
    model.made = 5
    before = [dict(vars(kind)) for kind in kinds]
    yield
    assert [dict(vars(kind)) for kind in kinds] == before
    for kind, attributes in zip(kinds, before, strict=True):
        assert all(vars(kind)[name] is value for name, value in attributes.items())
    assert model.known == ["a"]


@pytest.mark.anywhere
@pytest.mark.usefixtures("untouched")
def test_results_and_exceptions_leave_classes_alone(executor, script, any_registration):
    any_registration(script["Failure"])
    for _ in range(2):
        assert type(executor.submit(script["make"]).result()) is script["Model"]
        error = executor.submit(script["fail"]).exception()
        assert type(error) is script["Failure"]
    assert executor.submit(script["same"], [script["Model"], 1]).result() == [script["Model"], 1]


@pytest.mark.usefixtures("untouched")
def test_results_of_a_map_leave_classes_alone(executor, script):
    assert {type(one) for one in executor.map(script["make"], range(50), chunksize=7)} == {script["Model"]}


@pytest.mark.anywhere
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("size", [10, 100_000])
def test_result_feeds_a_call_on_another_worker(make_executor, script, size):
    first, second = make_executor(), make_executor()
    model = first.submit(script["make"], size)
    made, length, kind = second.submit(script["made"], model).result()
    assert (made, length) == (5, size)  # the class as it is in the master, without the changes of the first worker
    assert kind is script["Model"]
    assert type(model.result()) is kind


@pytest.mark.usefixtures("untouched")
def test_init_function_may_use_classes_of_the_script(make_block_executor, script):
    kind = script["Model"]

    def init():
        return {"model": kind()}

    exe = make_block_executor(init_function=init)
    for _ in range(2):
        assert type(exe.submit(lambda model: model).result()) is kind


@pytest.mark.mpi
@pytest.mark.usefixtures("untouched")
def test_results_of_several_ranks_leave_classes_alone(script):
    with Executor(max_workers=1, cores_per_worker=2, block_allocation=True) as exe:
        assert {type(one) for one in exe.submit(script["make"]).result()} == {script["Model"]}
        assert type(exe.submit(script["fail"]).exception()) is script["Failure"]
