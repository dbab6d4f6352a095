"""The tests of the interface again, with workers that are reached over a network, or started by SLURM, or both."""

from __future__ import annotations

from pathlib import Path

import pytest

from pympipool.backends.registry import BACKENDS
from slurm.cluster import everything_is_wanted
from support.loopback_tcp import LoopbackTcpBackend

PLACES = ["tcp", "slurm", "second host"]


def pytest_collection_modifyitems(items):
    """Leaves out what runs nowhere else: those tests have run with the others already."""
    here = Path(__file__).parent
    items[:] = [item for item in items if here not in item.path.parents or "where_workers_are" in item.fixturenames]


@pytest.fixture(scope="module", params=PLACES)
def where_workers_are(request):
    """Parameters of executors whose workers are there."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tcp":
            patch.setitem(BACKENDS, "tcp", LoopbackTcpBackend)
            yield {"backend": "tcp"}
            return
        cluster = request.getfixturevalue("running_cluster")
        patch.setenv("SLURM_CONF", cluster.conf)
        cluster.repair()
        host = cluster.first if request.param == "slurm" else cluster.second
        if host is None and not everything_is_wanted():
            host = cluster.first  # rather than none of these tests
        if host is None:
            pytest.skip(f"one host only: {cluster.why_no_second}")
        job = cluster.allocate()
        patch.setenv("SLURM_JOB_ID", job)
        yield {"backend": "slurm", "command_line_argument_lst": [f"--nodelist={host}"]}
        cluster.run("scancel", job)
        assert cluster.wait_until_empty() == ""


@pytest.fixture(scope="module")
def block_allocation():
    """A thousand steps would take SLURM many minutes; `test_slurm` has the calls that get one each."""
    return True
