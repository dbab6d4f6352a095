"""The memory that the limits of control groups leave."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from pympipool._util.cgroups import cgroup_folders, memory_left

GB = 1 << 30


def make_group(root, tree, limit_name, limit, used_name, used, stat):
    folder = root / "sys/fs/cgroup" / tree
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit_name).write_text(f"{limit}\n")
    (folder / used_name).write_text(f"{used}\n")
    (folder / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"a/b": "max", "a": "max"}, None),
        ({"a/b": 4 * GB, "a": "max"}, 2 * GB),
        ({"a/b": 4 * GB, "a": 3 * GB}, 1 * GB),
        ({"a/b": 1 * GB}, 0),
        ({}, None),
    ],
)
def test_version_2_leaves_what_lowest_limit_allows(root, limits, expected):
    (root / "proc/self/cgroup").write_text("0::/a/b\n")
    for tree, limit in limits.items():
        # of 3 GB in use, files take 1 GB besides 0.5 GB of shared memory
        stat = {"anon": 3 * GB // 2, "file": 3 * GB // 2, "shmem": GB // 2}
        make_group(root, tree, "memory.max", limit, "memory.current", 3 * GB, stat)
    assert memory_left(root) == expected


@pytest.mark.parametrize(("limit", "expected"), [(4 * GB, 2 * GB), (9223372036854771712, None)])
def test_version_1_leaves_what_limit_allows(root, limit, expected):
    (root / "proc/self/cgroup").write_text("4:memory:/a\n0::/\n")
    stat = {"cache": 0, "total_cache": 3 * GB // 2, "total_shmem": GB // 2}
    make_group(root, "memory/a", "memory.limit_in_bytes", limit, "memory.usage_in_bytes", 3 * GB, stat)
    assert memory_left(root) == expected


def test_without_cgroup_there_is_no_limit(root):
    assert memory_left(root) is None


SHARES_TWICE = """
import sys
import numpy as np
from pympipool import share

open(sys.argv[1] + "/cgroup.procs", "w").write("0")
first = share(np.ones(20_000_000))
try:
    share(np.ones(20_000_000))
except MemoryError as error:
    print(error)
"""


@pytest.fixture
def limited_group():
    """A cgroup of this machine that allows 400 MB."""
    if sys.platform != "linux":
        pytest.skip("cgroups are of Linux")
    for folder, version in cgroup_folders("memory"):
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        group = Path(folder, f"pympipool-test-{uuid.uuid4().hex}")
        if (Path(folder) / name).exists() and os.access(folder, os.W_OK):
            try:
                group.mkdir()
                (group / name).write_text(f"{400 << 20}\n")
            except OSError:
                if group.exists():
                    group.rmdir()
                continue
            yield group
            group.rmdir()
            return
    pytest.skip("needs a memory cgroup in which folders can be made: run as root, outside of a restricted container")


def test_share_heeds_limit_of_cgroup(limited_group):
    command = [sys.executable, "-c", SHARES_TWICE, str(limited_group)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    assert "no memory to share 160 MB" in done.stdout, done
    assert "within the limit of this job or container" in done.stdout
