"""joblib: parallel loops on an executor, and scikit-learn through joblib."""

from __future__ import annotations

import os

import pytest

from ecosystem.calls import fail_at, sleep_and_pid, square
from ecosystem.needs import package
from pympipool import Executor

joblib = package("joblib")

from joblib import Parallel, delayed, parallel_config  # noqa: E402

from pympipool.joblib import ExecutorBackend  # noqa: E402


@pytest.fixture
def configured(executor):
    with parallel_config("pympipool", executor=executor):
        yield


def test_a_loop_has_its_results_in_order(configured):
    assert Parallel()(delayed(square)(i) for i in range(500)) == [i * i for i in range(500)]


def test_a_loop_runs_on_the_workers(configured, executor):
    pids = set(Parallel()(delayed(sleep_and_pid)(0.05) for _ in range(4)))
    assert os.getpid() not in pids


def test_loop_works_after_exception_in_another_loop(configured):
    with pytest.raises(ArithmeticError, match="no result for 3"):
        Parallel()(delayed(fail_at)(i, 3) for i in range(6))
    assert Parallel()(delayed(square)(i) for i in range(3)) == [0, 1, 4]


def test_results_can_be_asked_for_one_by_one(configured):
    assert list(Parallel(return_as="generator")(delayed(square)(i) for i in range(4))) == [0, 1, 4, 9]


def loop_in_loop(count):
    return sum(Parallel(n_jobs=2)(delayed(square)(i) for i in range(count)))


def test_a_loop_in_a_loop_ends(configured):
    assert Parallel()(delayed(loop_in_loop)(i) for i in (3, 4)) == [5, 14]


def test_the_executor_stays_open(executor):
    backend = ExecutorBackend(executor)
    with parallel_config(backend):
        Parallel()(delayed(square)(i) for i in range(2))
    assert executor.submit(square, 3).result() == 9


def test_default_executor_is_created_and_closed():
    with Parallel(n_jobs=2, backend="pympipool") as parallel:
        first = set(parallel(delayed(sleep_and_pid)(0.05) for _ in range(4)))
        again = set(parallel(delayed(sleep_and_pid)(0.05) for _ in range(4)))
    assert first & again  # the same workers
    assert not any(os.path.exists(f"/proc/{pid}") for pid in first | again)


def test_effective_n_jobs_is_limited_by_workers(executor):
    backend = ExecutorBackend(executor)
    assert [backend.effective_n_jobs(n) for n in (-1, -2, 1, 2, 50)] == [2, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="n_jobs is 0"):
        backend.effective_n_jobs(0)


@pytest.mark.mpi
def test_an_executor_whose_calls_return_lists_is_refused():
    with Executor(max_cores=2, cores_per_worker=2) as exe, pytest.raises(ValueError, match="cores_per_worker=1"):
        ExecutorBackend(exe)


def test_scikit_learn_validates_on_the_workers(executor):
    package("sklearn")
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    x, y = make_classification(100, random_state=1)
    serial = cross_val_score(LogisticRegression(), x, y, cv=4)
    with parallel_config("pympipool", executor=executor):
        assert cross_val_score(LogisticRegression(), x, y, cv=4).tolist() == serial.tolist()
