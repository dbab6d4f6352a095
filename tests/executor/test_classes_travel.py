"""Classes of the script: a result never changes them, on any path from worker to master."""

import pytest

from pympipool import Executor
from pympipool.errors import SerializationError

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
def count(model):
    type(model).made += 1
    return type(model).made
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


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("chunksize", [None, 5])
def test_calls_of_map_find_class_of_master(executor, script, chunksize):
    model = script["Model"]
    models = [model.__new__(model) for _ in range(20)]
    for _ in range(2):
        assert list(executor.map(script["count"], models, chunksize=chunksize)) == [6] * 20


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


CHANGING = """
from dataclasses import dataclass

SCALE = 1

class Base:
    made = 0
    def scaled(self, by=1): return self.x * by * SCALE

@dataclass
class Point(Base):
    x: int = 1
    def scaled(self, by=1, *, plus=0): return super().scaled(by) + plus
    def moved(self, by): return Point(self.x + by)
    @classmethod
    def count(cls): return cls.made, Base.made

def point(x): return Point(x)
def count(): return Point.made, Base.made
def spoil(): Point.made = Base.made = 9; Point.scaled = None; Point.more = 1
def has_more(point): return hasattr(point, "more")
"""


@pytest.fixture
def changing():
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(CHANGING, names)
    return names


@pytest.mark.anywhere
def test_methods_run_as_the_script_has_them(executor, changing):
    point = changing["Point"](2)
    for scale in (1, 10):
        changing["SCALE"] = scale
        for by in range(4):
            assert executor.submit(point.scaled, by).result() == 2 * by * scale
            assert executor.submit(point.scaled, by=by, plus=1).result() == 2 * by * scale + 1
        point.x += 1
        assert executor.submit(point.scaled).result() == 3 * scale
        point.x -= 1
    changing["Base"].scaled = lambda self, by: 7
    assert [executor.submit(point.scaled).result() for _ in range(3)] == [7, 7, 7]
    assert [executor.submit(point.moved, by).result() for by in range(5)] == [
        changing["Point"](2 + by) for by in range(5)
    ]
    assert [executor.submit(changing["Point"].count).result() for _ in range(4)] == [(0, 0)] * 4


@pytest.mark.anywhere
def test_class_changes_of_a_call_are_undone(executor, changing):
    point = changing["Point"](2)
    for _ in range(4):
        assert executor.submit(changing["count"]).result() == (0, 0)
        assert executor.submit(changing["point"], 3).result() == changing["Point"](3)
        assert executor.submit(point.scaled).result() == 2
        executor.submit(changing["spoil"]).result()
        assert executor.submit(changing["count"]).result() == (0, 0)
        assert executor.submit(point.scaled).result() == 2
        executor.submit(changing["spoil"]).result()
        assert executor.submit(changing["has_more"], point).result() is False


def test_functions_and_their_classes_are_current_together(make_block_executor, changing):
    exe = make_block_executor(max_workers=2)
    calls = []
    for number in range(30):
        changing["Point"].made = number // 5
        changing["Base"].made = number // 7
        calls += [(number, exe.submit(changing["count"])), (number, exe.submit(changing["Point"](1).count))]
    assert [call.result() for _, call in calls] == [(number // 5, number // 7) for number, _ in calls]


def test_method_of_an_unpicklable_instance_names_the_function(make_block_executor, changing):
    import threading

    exe = make_block_executor()
    point = changing["Point"](2)
    for _ in range(3):
        exe.submit(point.scaled).result()
    point.lock = threading.Lock()
    with pytest.raises(SerializationError, match=r"cannot pickle the function Point.scaled\(\)"):
        exe.submit(point.scaled).result()


def test_large_result_brings_no_old_class(make_block_executor, changing):
    exe = make_block_executor()
    names = changing
    exec("def big(): return [Point(1), 'x' * 100_000]\ndef made(value): return type(value[0]).made\n", names)
    for _ in range(4):
        assert exe.submit(names["made"], exe.submit(names["big"])).result() == 0
    big = exe.submit(names["big"])
    big.result()
    names["Point"].made = 3
    assert exe.submit(names["made"], big).result() == 3


@pytest.mark.mpi
def test_several_ranks_find_current_classes(changing):
    point = changing["Point"](2)
    with Executor(max_workers=1, cores_per_worker=2, block_allocation=True) as exe:
        for scale in (1, 10):
            changing["SCALE"] = scale
            for _ in range(4):
                assert exe.submit(point.scaled).result() == [2 * scale] * 2
                assert exe.submit(point.moved, 1).result() == [changing["Point"](3)] * 2
                exe.submit(changing["spoil"]).result()


def test_map_over_instances(make_block_executor, changing):
    exe = make_block_executor(max_workers=2)
    points = [changing["Point"](x) for x in range(40)]
    for chunksize in (None, 7):
        assert list(exe.map(changing["Point"].moved, points, range(40), chunksize=chunksize)) == [
            changing["Point"](2 * x) for x in range(40)
        ]
        assert list(exe.map(points[3].moved, range(40), chunksize=chunksize)) == [
            changing["Point"](3 + x) for x in range(40)
        ]
