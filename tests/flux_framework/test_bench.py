"""`pympipool bench --backend flux` in an instance."""

from __future__ import annotations

import pytest

from pympipool.cli.bench import measuring
from pympipool.cli.bench.advice import advice

pytestmark = pytest.mark.usefixtures("job_each")


@pytest.mark.mpi
def test_an_instance_is_measured(instance, monkeypatch):
    monkeypatch.setattr(measuring, "BUDGET_S", 0.02)
    monkeypatch.setattr(measuring, "LENGTHS_S", (1e-2, 1e-1))
    monkeypatch.setattr(measuring, "SIZES_BYTES", (8_000,))
    measured = measuring.measure("flux", 2)
    assert (measured.backend, measured.cores) == ("flux", 2)
    assert measured.trip_s > 0
    assert measured.alone_s > 0
    assert all(0 < length.alone <= 1 for length in measured.lengths)
    assert [found.ranks for found in measured.mpi] == [2], measured.no_mpi
    assert advice(measured)
