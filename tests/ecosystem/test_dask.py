"""dask: an executor as the pool of a local scheduler, and as the scheduler itself."""

from __future__ import annotations

import os

import pytest

from ecosystem.calls import fail_at, square, square_and_pid
from ecosystem.needs import package

dask = package("dask")


@pytest.fixture(
    params=[
        pytest.param({"pool": ...}, id="pool"),
        pytest.param({"pool": ..., "scheduler": "threads"}, id="pool_of_threads"),
        pytest.param({"pool": ..., "scheduler": "processes"}, id="pool_of_processes"),
        pytest.param({"scheduler": ...}, id="scheduler"),
    ]
)
def configured(request, executor):
    """Configure dask to use the executor, in each of the ways that dask offers."""
    with dask.config.set(**{name: executor if value is ... else value for name, value in request.param.items()}):
        yield


def test_delayed_calls_run_on_the_workers(configured):
    calls = [dask.delayed(square_and_pid)(i) for i in range(4)]
    results = dask.compute(*calls)
    assert [result for result, _ in results] == [0, 1, 4, 9]
    assert os.getpid() not in {pid for _, pid in results}


def test_a_graph_of_calls_is_followed(configured):
    squares = [dask.delayed(square)(i) for i in range(5)]
    assert dask.delayed(square)(dask.delayed(sum)(squares)).compute() == 900


def test_an_exception_arrives(configured):
    with pytest.raises(ArithmeticError, match="no result for 2"):
        dask.compute(*(dask.delayed(fail_at)(i, 2) for i in range(4)))


def test_arrays_are_computed(configured):
    np = package("numpy")
    array = pytest.importorskip("dask.array", reason='dask.array needs numpy: pip install ".[ecosystem]"')
    x = array.arange(40_000, chunks=10_000).reshape(200, 200)
    assert int((x + x.T).sum().compute()) == 2 * int(np.arange(40_000).sum())


def test_bags_are_computed(configured):
    bag = pytest.importorskip("dask.bag", reason='dask.bag needs more than dask alone: pip install ".[ecosystem]"')
    assert bag.range(30, npartitions=3).map(square).sum().compute() == sum(i * i for i in range(30))
