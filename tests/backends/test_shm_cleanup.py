"""Only files that MPI libraries left behind are removed: those of this job that no process maps."""

import mmap
import os
import sys
import uuid
from pathlib import Path

import pytest

from pympipool.backends.shm_cleanup import remove_stale_shm

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
