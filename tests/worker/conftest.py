from __future__ import annotations

import pytest

from pympipool.backends.local.direct import LocalSpawner
from pympipool.backends.local.mpiexec import MpiexecSpawner
from support.tiny_master import TinyMaster


@pytest.fixture
def start():
    """Start workers of one process, which are killed after the test."""
    with _Factory(LocalSpawner) as factory:
        yield factory


@pytest.fixture(params=["ring", "MPI"], scope="module")
def way(request):
    """How the ranks of a worker get their calls: on a ring for all of them, or from rank 0 by MPI."""
    return request.param


@pytest.fixture
def start_mpi(way):
    """Start workers of two ranks, or of the given number."""
    with _Factory(MpiexecSpawner, ranks=2, way=way) as factory:
        yield factory


@pytest.fixture(scope="module")
def worker():
    """A worker that many tests share; none changes its state."""
    with TinyMaster(LocalSpawner()).ready() as master:
        yield master


@pytest.fixture(scope="module")
def mpi_worker(way):
    """A worker of two ranks that many tests share; none changes its state."""
    with TinyMaster(MpiexecSpawner(), ranks=2, link_ranks=2 if way == "ring" else 1).ready() as master:
        yield master


class _Factory:
    def __init__(self, spawner, **parameters):
        self.spawner = spawner
        self.parameters = parameters
        self.masters = []

    def __call__(self, **parameters):
        """Return a master whose worker was started, without waiting until it is ready."""
        parameters = {**self.parameters, **parameters}
        if parameters.pop("way", "MPI") == "ring":
            parameters["link_ranks"] = parameters["ranks"]
        self.masters.append(TinyMaster(self.spawner(), **parameters))
        return self.masters[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for master in self.masters:
            master.close()
