from __future__ import annotations

import sys
import warnings

import pytest

from pympipool import Executor


def test_executor_without_gil_warns(monkeypatch):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with pytest.warns(RuntimeWarning, match="needs the GIL, which PYTHON_GIL=0 or -X gil=0 has switched off"):
        Executor(max_workers=1).shutdown()


@pytest.mark.parametrize("is_known", [True, False])
def test_executor_with_gil_says_nothing(monkeypatch, is_known):
    if is_known:
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)
    else:
        monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Executor(max_workers=1).shutdown()
