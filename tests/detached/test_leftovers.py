"""What scripts that were killed have left in the folder of the submissions is removed by the next one."""

import contextlib
import os
import time

import pytest

from pympipool import Executor
from pympipool.caching.store import Store
from pympipool.detached import spool as spools
from pympipool.detached.records import Records, Submission
from pympipool.detached.spool import Spool
from pympipool.serialization import payload

KEY = bytes(range(20))


@pytest.fixture
def open_executor(scheduler, tmp_path):
    return lambda: Executor(backend="slurm", cache_directory=tmp_path / "cache", detached=True)


@pytest.fixture
def root(open_executor, tmp_path):
    """The folder of all submissions."""
    open_executor().shutdown()
    return tmp_path / "cache" / "detached"


def test_calls_whose_results_are_cached_are_forgotten(root, open_executor):
    """Their script was killed between the two."""
    with contextlib.closing(Records(str(root), is_shared=False)) as records:
        submission = Submission("0" * 16, "slurm", "host", "square", time.time(), 1, 1, None, "{}")
        records.claim(submission, [(KEY, "3"), (KEY[::-1], "4")], lambda keys: ())
        records.note_job(submission.id, "7")
        os.close(Spool(str(root), submission.id).create())
        with contextlib.closing(Store(root.parent)) as store:
            store.write([(KEY, payload.dump(9), "square", "3", 1)])
            open_executor().shutdown()
            assert list(records.calls_of(submission.id)) == [KEY[::-1]]
            store.write([(KEY[::-1], payload.dump(16), "square", "4", 1)])
        open_executor().shutdown()
        assert records.submissions() == []
    assert [path for path in root.iterdir() if path.is_dir()] == []


def test_only_folders_that_nobody_makes_are_removed(root, open_executor, monkeypatch):
    names = ["0" * 16, "1" * 16, "2" * 16, "folder of the user"]
    locks = [Spool(str(root), name).create() for name in names]
    for name, lock in zip(names, locks, strict=True):
        age_s = 0 if name == "1" * 16 else spools.UNKNOWN_S + 10
        os.utime(root / name, (time.time() - age_s,) * 2)
        if name != "2" * 16:
            os.close(lock)
    open_executor().shutdown()
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == names[1:]
    os.close(locks[2])
    monkeypatch.setattr(spools, "UNKNOWN_S", -1)
    open_executor().shutdown()
    assert [path.name for path in root.iterdir() if path.is_dir()] == names[3:]


def test_folders_of_tasks_that_began_stay(root, open_executor, monkeypatch):
    """The records may have been removed."""
    monkeypatch.setattr(spools, "UNKNOWN_S", -1)
    os.close(Spool(str(root), "0" * 16).create())
    (root / ("0" * 16) / "logs" / "0.log").touch()
    open_executor().shutdown()
    assert (root / ("0" * 16)).is_dir()


def test_calls_that_have_just_ended_are_not_submitted(root, open_executor):
    """Their job has ended between the script's look into the cache and its claims: the tasks of the others have no gaps."""
    keys = [bytes([number]) * 20 for number in range(5)]
    with contextlib.closing(Records(str(root), is_shared=False)) as records:
        first = Submission("0" * 16, "slurm", "host", "square", time.time(), 0, 1, None, "{}")
        records.claim(first, [(keys[0], "0")], lambda keys: ())
        second = first._replace(id="1" * 16, chunk=2)
        claims = records.claim(second, [(key, "") for key in keys], lambda asked: {*keys[:3]} & {*asked})
        assert {key: (claim.submission, claim.number) for key, claim in claims.items()} == {
            keys[0]: (first.id, 0),
            keys[3]: (second.id, 0),
            keys[4]: (second.id, 1),
        }
        assert records.submission(second.id).tasks == 1
        assert records.claim(first._replace(id="2" * 16), [(b"x" * 20, "")], list) == {}
        assert records.submission("2" * 16) is None
