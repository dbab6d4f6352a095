import pytest

from pympipool import Executor
from pympipool.detached import engine as engines
from pympipool.detached import watches
from support.detached_project import project  # noqa: F401  a fixture
from support.made_up_scheduler import MadeUpScheduler


@pytest.fixture
def scheduler(monkeypatch):
    made = MadeUpScheduler()
    monkeypatch.setattr(engines, "make_scheduler", lambda *_: made)
    monkeypatch.setattr("pympipool.detached.watcher.FIRST_QUESTION_S", 0.02)
    monkeypatch.setattr(watches, "LATE_S", 0.3)
    monkeypatch.setattr(watches, "FORGOTTEN_S", 0.5)
    return made


@pytest.fixture
def exe(scheduler, tmp_path):
    made = Executor(backend="slurm", cache_directory=tmp_path / "cache", detached=True)
    yield made
    made.kill_workers()  # also calls that the thread has not seen yet
    made.shutdown()
