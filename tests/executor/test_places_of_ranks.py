"""How the ranks of a worker get their calls: those on the master's host share a ring, others get them from rank 0 by MPI."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from pympipool import Executor
from pympipool.backends import program
from pympipool.backends.registry import BACKENDS
from pympipool.pool import rank_services
from support.calls import echo, fail, way_of_calls
from support.loopback_tcp import UNREACHABLE_ADDRESS, LoopbackTcpBackend, LoopbackTcpSpawner

pytestmark = pytest.mark.mpi

RANKS = 3

USES_RELAY = f"""
from pympipool.worker.mpi import launched_rank
if launched_rank(os.environ) == %d:
    os.environ["PYMPIPOOL_ADDRESS"] = {UNREACHABLE_ADDRESS!r}
from {{module}} import main"""
"""What a worker's program imports as if one of its ranks were on another host."""


def start(opened, block_allocation, backend="tcp"):
    parameters = {"max_workers": 1, "cores_per_worker": RANKS, "block_allocation": block_allocation}
    opened.append(Executor(backend=backend, **parameters))
    return opened[-1]


def check(exe, way):
    """Check that calls come in this way, and that results, errors and large data arrive."""
    assert exe.submit(way_of_calls).result() == [way] * RANKS
    with pytest.raises(ValueError, match="everywhere"):
        exe.submit(fail, "everywhere").result()
    array = np.arange(300_000)
    assert [(received == array).all() for received in exe.submit(echo, array).result()] == [True] * RANKS


def test_ranks_that_mpiexec_starts_use_ring(opened, block_allocation):
    check(start(opened, block_allocation, "mpi"), "ring")


def test_ranks_on_another_host_use_mpi(opened, block_allocation, monkeypatch):
    monkeypatch.setitem(BACKENDS, "tcp", LoopbackTcpBackend)
    check(start(opened, block_allocation), "MPI")


@pytest.mark.parametrize("far", [0, RANKS - 1])
def test_one_rank_on_another_host_suffices(opened, block_allocation, monkeypatch, far):
    monkeypatch.setitem(BACKENDS, "tcp", LoopbackTcpBackend)
    monkeypatch.setattr(LoopbackTcpSpawner, "hides_address", False)
    monkeypatch.setattr(program, "BOOTSTRAP", program.BOOTSTRAP.replace("from {module} import main", USES_RELAY % far))
    check(start(opened, block_allocation), "MPI")


def test_without_memory_for_links_ranks_use_mpi(opened, block_allocation, monkeypatch):
    def make_link(*_):
        raise OSError(errno.ENOMEM, "no shared memory")

    monkeypatch.setattr(rank_services, "ShmLink", make_link)
    check(start(opened, block_allocation, "mpi"), "MPI")
