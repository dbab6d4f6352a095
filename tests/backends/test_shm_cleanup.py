"""Only files that MPI libraries and launchers left behind are removed: those that no process maps or has created."""

import mmap
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from pympipool.backends import shm_cleanup
from pympipool.backends.shm_cleanup import CLOCK_MARGIN_S, remove_stale_shm, remove_stale_topology

SHM = Path("/dev/shm")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux" or not SHM.is_dir(), reason="looks at Linux's /dev/shm"),
    pytest.mark.alone,  # any MPI job that is killed meanwhile removes these files
]


@pytest.fixture(params=["mpich_shm_", "ucx_shm_posix_", "sm_segment.", "vader_segment.", "unrelated_"])
def file(request):
    path = SHM / f"{request.param}{uuid.uuid4().hex}"
    path.write_bytes(bytes(4096))
    yield path
    path.unlink(missing_ok=True)


def test_unmapped_file_is_removed(file):
    remove_stale_shm(file.stat().st_ctime)
    assert file.exists() == file.name.startswith("unrelated_")


def test_mapped_file_stays(file):
    with open(file, "r+b") as opened, mmap.mmap(opened.fileno(), 4096):
        remove_stale_shm(file.stat().st_ctime)
    assert file.exists()


def test_file_older_than_the_job_stays(file):
    remove_stale_shm(os.stat(file).st_ctime + 60)
    assert file.exists()


# ---- descriptions of the hardware ----


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """Return a process that is taken for an agent of mpiexec, started some time after an older file was made."""
    monkeypatch.setattr(shm_cleanup, "_AGENT", "agent_of_test")
    program = shutil.copy(shutil.which("sleep"), tmp_path / "agent_of_test")
    (tmp_path / "hydra_hwloc_xmlfile_older").touch()
    time.sleep(CLOCK_MARGIN_S + 0.5)  # files and processes are told apart by their times
    with subprocess.Popen([program, "60"]) as process:
        yield process
        process.kill()


def test_topology_of_a_running_agent_stays(agent, tmp_path):
    ours, other = tmp_path / "hydra_hwloc_xmlfile_ours", tmp_path / "unrelated"
    ours.touch()
    other.touch()
    remove_stale_topology(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "agent_of_test",
        "hydra_hwloc_xmlfile_ours",
        "unrelated",
    ]


def test_topology_without_agents_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(shm_cleanup, "_AGENT", "no program has this name")
    (tmp_path / "hydra_hwloc_xmlfile_left").touch()
    remove_stale_topology(tmp_path)
    assert list(tmp_path.iterdir()) == []
