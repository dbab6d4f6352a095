"""What Windows lacks is refused at once, with a remedy."""

import re

import pytest

from pympipool import Executor
from pympipool._util import platform
from pympipool.resources import process_limits

REFUSED = {
    "backend is 'slurm'": {"backend": "slurm"},
    "hosts is ['node1']": {"hosts": ["node1"]},
    "detached is True": {"detached": True, "cache_directory": "cache"},
    "mp_context is 'fork'": {"mp_context": "fork", "backend": "mpi"},
}


@pytest.mark.parametrize("refused", REFUSED)
def test_what_windows_lacks_is_refused(refused, monkeypatch):
    monkeypatch.setattr(platform, "IS_WINDOWS", True)
    monkeypatch.setenv("PYMPIPOOL_START_METHOD", "spawn")
    with pytest.raises(ValueError, match=re.escape(f"{refused}, which pympipool does not have on Windows") + ".*WSL"):
        Executor(**REFUSED[refused])


def test_more_workers_than_sockets_are_refused(monkeypatch):
    monkeypatch.setattr(process_limits, "HAS_LIMITS", False)
    with pytest.raises(ValueError, match=r"max_workers is 401: .* can have 400, .* several executors"):
        Executor(max_workers=401, block_allocation=True, backend="mpi")
    with pytest.raises(ValueError, match=r"max_workers is 101 of 4 ranks each: .* can have 100, .* several executors"):
        list(process_limits.raise_limits(101, 4))


def test_variable_that_asks_for_forks_is_refused(monkeypatch):
    monkeypatch.setattr(platform, "IS_WINDOWS", True)
    monkeypatch.setenv("PYMPIPOOL_START_METHOD", "fork")
    with pytest.raises(ValueError, match="PYMPIPOOL_START_METHOD is 'fork', which pympipool does not have on Windows"):
        Executor(max_workers=1, backend="mpi")
