"""The choice of a backend by its name, and by "auto"."""

from __future__ import annotations

import importlib.util

import pytest

from pympipool import Executor
from pympipool.backends.registry import choose


def test_flux_executor_makes_auto_choose_flux():
    class_of_flux = type("FluxExecutor", (), {"__module__": "flux.job.executor"})
    assert choose("auto", class_of_flux()) == ("flux", {})


def test_wrong_executor_raises_at_once():
    with pytest.raises(TypeError, match=r"executor is 'fast'; it must be a flux.job.FluxExecutor"):
        Executor(max_cores=1, executor="fast")


def test_auto_reports_skipped_backends(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    name, skipped = choose("auto")
    assert name == "mpi"
    assert list(skipped) == ["flux", "slurm", "pbs", "lsf", "gridengine"]
    assert "bindings are not installed" in skipped["flux"]
    with Executor(max_cores=1) as exe:
        assert exe.info["skipped_backends"] == skipped
