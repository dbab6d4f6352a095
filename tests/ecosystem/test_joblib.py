"""joblib: parallel loops on an executor, and scikit-learn through joblib."""

from __future__ import annotations

import _thread
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from ecosystem.calls import fail_at, sleep_and_pid, square
from ecosystem.needs import package
from pympipool import Executor
from support.waiting import LIMIT_S, wait_until

joblib = package("joblib")

from joblib import Parallel, delayed, effective_n_jobs, parallel_config  # noqa: E402

import pympipool.joblib  # noqa: E402
from pympipool.joblib import ExecutorBackend  # noqa: E402


@pytest.fixture(autouse=True)
def end_idle_workers():
    yield
    pympipool.joblib._idle.end()


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


def pids_of_workers(**options):
    """Return the pids of the workers of a loop on the backend's own executor."""
    with parallel_config("pympipool", n_jobs=2, **options):
        return set(Parallel()(delayed(sleep_and_pid)(0.05) for _ in range(4)))


def end_of_processes(pids):
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_workers_of_a_loop_serve_the_next_one(monkeypatch):
    first = pids_of_workers()
    with Parallel(n_jobs=2, backend="pympipool") as parallel:
        assert first & set(parallel(delayed(sleep_and_pid)(0.05) for _ in range(4)))
    monkeypatch.setattr(pympipool.joblib, "IDLE_S", 0.05)
    last = pids_of_workers()
    assert first & last
    end_of_processes(first | last)


def test_changed_environment_gets_new_workers(monkeypatch):
    first = pids_of_workers()
    monkeypatch.setenv("LOOP_STATE", "changed")
    monkeypatch.setattr(pympipool.joblib, "IDLE_S", 0.05)
    with parallel_config("pympipool", n_jobs=2):
        assert Parallel()([delayed(environment)("LOOP_STATE")] * 2) == ["changed"] * 2
    end_of_processes(first)


def test_workers_with_initializer_serve_one_loop():
    first = pids_of_workers(**INITIALIZER)
    assert not first & pids_of_workers(**INITIALIZER)
    end_of_processes(first)


def test_idle_workers_end_with_the_script():
    script = (
        "import os, joblib, pympipool.joblib\n"
        "with joblib.parallel_config('pympipool', n_jobs=2):\n"
        "    print(*set(joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(8))))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    end_of_processes(ended.stdout.split())


def test_effective_n_jobs_is_limited_by_workers(executor):
    backend = ExecutorBackend(executor)
    assert [backend.effective_n_jobs(n) for n in (-1, -2, 1, 2, 50)] == [2, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="n_jobs == 0 in Parallel has no meaning"):
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


# ---- the backend's own executor ----


def test_without_n_jobs_all_workers_are_used():
    with parallel_config("pympipool"):
        assert effective_n_jobs(None) == effective_n_jobs(-1)
        assert Parallel()(delayed(square)(i) for i in range(3)) == [0, 1, 4]


def write_pid_and_wait(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(300)


def wait_until_two_run(folder):
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    return [int(file.name) for file in folder.iterdir()]


def assert_all_ended(folder):
    assert not any(os.path.exists(f"/proc/{file.name}") for file in folder.iterdir())


def fail_when_two_run(folder):
    (folder / str(os.getpid())).touch()
    wait_until_two_run(folder)
    raise ArithmeticError("no")


def test_exception_ends_running_calls(tmp_path):
    with parallel_config("pympipool", n_jobs=2), pytest.raises(ArithmeticError):
        Parallel()([delayed(fail_when_two_run)(tmp_path), *[delayed(write_pid_and_wait)(tmp_path)] * 3])
    assert_all_ended(tmp_path)


def test_time_limit_ends_running_calls(tmp_path):
    with parallel_config("pympipool", n_jobs=2), pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=1)([delayed(write_pid_and_wait)(tmp_path)] * 4)
    assert_all_ended(tmp_path)


def test_ctrl_c_ends_running_calls(tmp_path):
    def interrupt():
        wait_until_two_run(tmp_path)
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with parallel_config("pympipool", n_jobs=2), pytest.raises(KeyboardInterrupt):
        Parallel()([delayed(write_pid_and_wait)(tmp_path)] * 4)
    thread.join()
    assert_all_ended(tmp_path)


@pytest.mark.filterwarnings("ignore:.* tasks which were still being processed")
def test_closed_generator_ends_running_calls(tmp_path):
    with parallel_config("pympipool", n_jobs=2):
        results = Parallel(return_as="generator")([delayed(write_pid_and_wait)(tmp_path)] * 4)
        wait_until_two_run(tmp_path)
        results.close()
    assert_all_ended(tmp_path)


def test_managed_loop_works_after_exception():
    with Parallel(n_jobs=2, backend="pympipool") as parallel:
        with pytest.raises(ArithmeticError):
            parallel(delayed(fail_at)(i, 1) for i in range(4))
        assert parallel(delayed(square)(i) for i in range(3)) == [0, 1, 4]


def test_two_generators_of_one_backend_end():
    with parallel_config("pympipool", n_jobs=2):
        first, second = (Parallel(return_as="generator")(delayed(square)(i) for i in range(9)) for _ in range(2))
        assert list(first) == list(second) == [i * i for i in range(9)]


def set_variable(name, value):
    os.environ[name] = value


def environment(name):
    return os.environ.get(name)


INITIALIZER = {"initializer": set_variable, "initargs": ("LOOP_STATE", "ready")}


def test_initializer_of_backend_runs_in_workers():
    with parallel_config("pympipool", n_jobs=2, **INITIALIZER):
        assert Parallel()([delayed(environment)("LOOP_STATE")] * 2) == ["ready"] * 2


def test_initializer_of_loop_runs_in_workers():
    parallel = Parallel(n_jobs=2, backend="pympipool", **INITIALIZER)
    assert parallel([delayed(environment)("LOOP_STATE")] * 2) == ["ready"] * 2
    assert "LOOP_STATE" not in os.environ


def test_inner_max_num_threads_overrides_the_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with parallel_config("pympipool", n_jobs=2, inner_max_num_threads=3):
        variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        assert Parallel()(delayed(environment)(name) for name in variables) == ["3"] * 3
    with parallel_config("pympipool", n_jobs=2):
        assert Parallel()([delayed(environment)("OMP_NUM_THREADS")] * 2) == ["7"] * 2


@pytest.mark.parametrize(
    ("options", "remedy"), [(INITIALIZER, "initializer"), ({"inner_max_num_threads": 2}, "threads_per_core")]
)
def test_worker_options_with_open_executor_are_refused(executor, options, remedy):
    with (
        pytest.raises(ValueError, match=f"without it: use {remedy} of the Executor"),
        parallel_config("pympipool", executor=executor, **options),
    ):
        Parallel()(delayed(square)(i) for i in range(2))


def test_misspelt_option_is_an_error():
    with pytest.raises(TypeError, match="initialiser"), parallel_config("pympipool", initialiser=print):
        pass


def test_batch_size_is_forgotten_after_a_loop(executor):
    backend = ExecutorBackend(executor)
    with parallel_config(backend):
        Parallel()(delayed(square)(i) for i in range(500))
    assert backend._effective_batch_size == 1


def test_forests_and_bagging_run_with_defaults():
    package("sklearn")
    from sklearn.datasets import make_classification
    from sklearn.ensemble import BaggingClassifier, RandomForestClassifier

    x, y = make_classification(60, random_state=1)
    with parallel_config("pympipool"):
        for model in (RandomForestClassifier(10), BaggingClassifier()):
            assert model.fit(x, y).score(x, y) > 0.5


def test_a_kept_executor_is_taken_once():
    """The next loop and the timer may come at the same time."""
    kept = pympipool.joblib._Kept("like this", Executor(1, block_allocation=True))
    with kept.take() as executor:
        assert kept.take() is None
        kept.end()
        assert executor.submit(square, 3).result() == 9
