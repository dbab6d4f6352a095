"""Traces that earlier versions wrote, and attributes under their earlier names."""

from pathlib import Path

import pytest

from pympipool.diagnostics.tracing.export import write
from pympipool.tracing import format_report, read, summarize

FORMAT_1 = Path(__file__).parent / "data" / "format_1.json"
"""A file of format 1, without the events that only viewers need.

The clocks of its first worker were edited, to be not zero.
"""


def test_file_of_format_1_loads(tmp_path):
    timeline = read(FORMAT_1)
    assert (timeline.start_time[:10], timeline.duration_ns) == ("2026-11-29", 1_454_516_229)
    assert [(call.name, call.outcome) for call in timeline.calls] == [
        ("nap", "returned"),
        ("add", "returned"),
        ("fail", "error"),
        ("die", "lost"),
        *[("nap", "returned")] * 3,
        ("nap", "cancelled"),
        ("work", "returned"),
        ("work", "unfinished"),
    ]
    nap, add, _, die, batch, *_, work, _ = timeline.calls
    assert (nap.inputs, add.inputs, die.ended_ns) == (None, (1,), None)
    assert (batch.size, len(batch.items_ns), len(work.ranks_ns)) == (3, 3, 2)
    assert timeline.executors[1].info["cores_per_worker"] == 2
    worker = timeline.workers[0]
    assert (worker.clock_offset_ns, worker.clock_uncertainty_ns, worker.clocks) == (-4000, 250, (("far", 70, 30),))
    assert "2 calls of 12 ended without a result" in format_report(summarize(timeline)).replace("\n    ", " ")
    write(timeline, tmp_path / "format_2.json", compressed=False)
    assert read(tmp_path / "format_2.json") == timeline


@pytest.mark.parametrize(("old", "new"), [("begun", "start_time"), ("length_ns", "duration_ns")])
def test_old_attributes_of_timeline_warn(old, new):
    timeline = read(FORMAT_1)
    with pytest.warns(DeprecationWarning, match=f"Timeline.{old} is now called {new}") as caught:
        assert getattr(timeline, old) == getattr(timeline, new)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(("old", "new"), [("shift_ns", "clock_offset_ns"), ("doubt_ns", "clock_uncertainty_ns")])
def test_old_attributes_of_worker_warn(old, new):
    worker = read(FORMAT_1).workers[0]
    with pytest.warns(DeprecationWarning, match=f"Worker.{old} is now called {new}"):
        assert getattr(worker, old) == getattr(worker, new)
