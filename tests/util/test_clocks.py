from __future__ import annotations

import pytest

from pympipool._util import clocks
from pympipool._util.clocks import RunningClock


def test_clock_stands_still_while_process_is_stopped(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clocks, "monotonic", lambda: now[0])
    clock = RunningClock()
    now[0] += 1.0
    assert clock.elapsed() == pytest.approx(1.0)
    now[0] += 3600.0  # the process was stopped
    assert clock.elapsed() == pytest.approx(3.0)
    now[0] += 0.5
    assert clock.elapsed() == pytest.approx(3.5)
    clock.restart()
    assert clock.elapsed() == 0.0
