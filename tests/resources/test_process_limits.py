"""Limits of open files and processes are raised as far as many workers need it, and what does not fit is said at once."""

import subprocess
import sys

import pytest

from pympipool.resources import raise_limits
from support.scripts import script_environment

SCRIPT = """
import os, resource, sys, time, warnings
from pympipool import Executor

kind, soft, hard, workers = (int(word) for word in sys.argv[1:])
if os.geteuid() == 0 and kind == resource.RLIMIT_NPROC:
    os.setuid(65534)  # the limit does not hold for root
resource.setrlimit(kind, (soft, hard))
if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        executor = Executor(backend="mpi", max_workers=workers, block_allocation=True)
        with executor:
            deadline = time.monotonic() + 60
            while not caught and len(executor.info["workers"]) < workers:
                assert time.monotonic() < deadline, executor.info["workers"]
                time.sleep(0.02)
            assert executor.submit(pow, 2, 3).result() == 8
    print(resource.getrlimit(kind)[0])
    for warning in caught:
        print(warning.category.__name__, warning.filename == __file__, warning.message)
"""


def run(path, mark, kind, soft, hard, workers):
    path.write_text(SCRIPT)
    command = [sys.executable, str(path), *map(str, (kind, soft, hard, workers))]
    done = subprocess.run(
        command, env=script_environment(mark), check=True, timeout=100, stdout=subprocess.PIPE, text=True
    )
    limit, *said = done.stdout.splitlines()
    return int(limit), said


@pytest.fixture
def files():
    return pytest.importorskip("resource", reason="the system has no such limits").RLIMIT_NOFILE


def test_soft_limit_is_raised_for_all_workers(tmp_path, mark, files):
    limit, said = run(tmp_path / "script.py", mark, files, 100, 1000, 30)
    assert not said
    assert limit == 256  # the next power of two above 5 for each worker, and what else is open


def test_soft_limit_that_suffices_stays(tmp_path, mark, files):
    assert run(tmp_path / "script.py", mark, files, 200, 1000, 2) == (200, [])


def test_hard_limit_that_does_not_suffice_is_said(tmp_path, mark, files):
    limit, (said,) = run(tmp_path / "script.py", mark, files, 100, 150, 60)
    assert limit == 150
    assert said.startswith("RuntimeWarning True 60 workers need 300 file descriptors, but this process may open 150")
    assert "max_workers" in said
    assert "ulimit -Hn" in said


def test_workers_of_agents_need_few_files(files):
    import resource

    limits = resource.getrlimit(files)
    workers = limits[1] // 3
    try:
        assert list(raise_limits(workers, 1, are_remote=True)) == []
        assert len(list(raise_limits(workers, 1))) >= 1
    finally:
        resource.setrlimit(files, limits)
