"""A `Timeline` as a picture: what each worker did when, in the colours of the functions, and how many calls waited.

    worker 1   ▏██████ ████████████ ▓▓▓▓▓▓▓ ██████
    worker 2   ▏▓▓▓▓ ██████ ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓  ████        where there are more calls than could be told apart,
    worker 3   ▏▃▅▇▇▇▇▅▃▇▇▇▇▇▇▇▇▅▃▁▇▇▇▇▇▇▅▇▇▇▇        how much of the time each function took
    waiting    ▂▄▆██▇▆▅▄▃▂▁

matplotlib is imported here, and only here.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from math import nan
from typing import TYPE_CHECKING

from pympipool._util.formatting import format_count, format_duration
from pympipool.diagnostics.tracing.timeline import FAILED, RAISED, Call, Timeline
from pympipool.diagnostics.tracing.tracks import Track, lay_out
from pympipool.diagnostics.tracing.utilization import run_span, work_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")
"""Of the functions that took most time; also people who see colours otherwise can tell them apart (Paul Tol, "bright",
https://personal.sron.nl/~pault/). Without the red of failures."""

OTHERS = "#BBBBBB"
STARTING = "#E4E4E4"
FAILURE = "#B00020"
INK = "#333333"
FAINT = "#8A8A8A"

TOLD_APART = 400
"""Calls that one track shows one by one; of more, it shows the short ones as shares of time."""

BINS = 500
"""Steps of such a track."""

LANES_MAX = 64
"""Tracks of one executor; of more workers the first are shown."""

NARROW = 1 / 400
"""Part of the picture that a bar must fill to have an edge, and to be drawn by itself where there are many."""

LANE_IN = 0.32
"""Height of a track, inches."""

SECONDS = 1e9


def draw(
    timeline: Timeline,
    path: str | os.PathLike[str] | None = None,
    *,
    width: float = 11.0,
    title: str | None = None,
    dpi: int = 150,
) -> Figure:
    """Draws a trace.

    Args:
        timeline: The trace.
        path: Where to save the picture; its ending says what it is: .png, .svg, .pdf and whatever else matplotlib knows.
        width: Of the picture, inches.
        title: Default: how many calls took how long.
        dpi: Dots per inch of a saved picture made of dots.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: The trace has no calls, or matplotlib does not know the ending of path.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f'pictures are drawn by matplotlib ({error}): pip install "pympipool[plot]"') from error
    if not timeline.calls:
        raise ValueError("the trace has no calls: there is nothing to draw")
    parts = [_Part(timeline, executor.number) for executor in timeline.executors]
    parts = [part for part in parts if part.calls]
    heights = [height for part in parts for height in (max(len(part.lanes), 1) * LANE_IN + 0.25, 0.75)]
    figure = Figure(figsize=(width, sum(heights) + 1.35), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    colours = _colours(timeline.calls)
    begin_ns, end_ns = work_of(timeline.calls, timeline.duration_ns)
    for part, tracks, waiting in zip(parts, axes[::2], axes[1::2], strict=True):
        _draw_tracks(tracks, part, colours, len(parts) > 1)
        _draw_waiting(waiting, part, end_ns)
    last = axes[-1]
    last.set_xlim(begin_ns / SECONDS, end_ns / SECONDS)
    last.tick_params(axis="x", length=3, colors=INK, labelbottom=True)
    last.set_xlabel("seconds since the beginning of the trace", color=INK)
    figure.suptitle(title or _title(timeline), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    _add_legend(figure, parts, colours)
    if path is not None:
        figure.savefig(path, dpi=dpi)
    return figure


class _Part:
    """What is drawn of one executor."""

    def __init__(self, timeline: Timeline, number: int) -> None:
        lanes = [lane for lane in dict.fromkeys(lay_out(timeline).values()) if lane.executor == number]
        self.number = number
        self.about = timeline.executors[number - 1]
        self.calls = [call for call in timeline.calls if call.executor == number]
        self.lanes: Sequence[Track] = lanes[:LANES_MAX]
        self.left_out = len(lanes) - len(self.lanes)
        self.end_ns = timeline.duration_ns
        begin_ns, last_ns = work_of(timeline.calls, timeline.duration_ns)
        self.narrow_ns = NARROW * (last_ns - begin_ns)
        self._by_worker: dict[int, list[Call]] = {}
        for call in self.calls:
            self._by_worker.setdefault(call.worker, []).append(call)

    def calls_of(self, lane: Track) -> list[Call]:
        return [call for worker in lane.workers for call in self._by_worker.get(worker.number, ())]


def _colours(calls: Iterable[Call]) -> dict[str, str]:
    """Of the functions that took most time; the others are all the same."""
    times: Counter[str] = Counter()
    for call in calls:
        times[call.name] += call.run_ns + 1
    names = [name for name, _ in times.most_common()]
    return {name: COLOURS[place] if place < len(COLOURS) else OTHERS for place, name in enumerate(names)}


def _title(timeline: Timeline) -> str:
    begin_ns, end_ns = work_of(timeline.calls, timeline.duration_ns)
    return f"{format_count(sum(call.size for call in timeline.calls), 'call')} in {format_duration(end_ns - begin_ns)}"


# ---- tracks ----


def _draw_tracks(axes: Axes, part: _Part, colours: dict[str, str], named: bool) -> None:
    _clean(axes)
    axes.set_ylim(len(part.lanes) - 0.4, -0.6)
    axes.set_yticks(range(len(part.lanes)), [lane.name for lane in part.lanes], fontsize=9, color=INK)
    for place, lane in enumerate(part.lanes):
        axes.axhspan(place - 0.4, place + 0.4, color="#F7F7F7", linewidth=0)
        starts = [(max(worker.started_ns, 0), max(worker.ready_ns, 0)) for worker in lane.workers]
        bars = [(begin / SECONDS, (end - begin) / SECONDS) for begin, end in starts if end > begin]
        axes.broken_barh(bars, (place - 0.4, 0.8), facecolor=STARTING, hatch="////", edgecolor="white", linewidth=0)
        calls = part.calls_of(lane)
        if len(calls) > TOLD_APART:
            _draw_densely(axes, place, [call for call in calls if call.run_ns <= part.narrow_ns], colours, part.end_ns)
            calls = [call for call in calls if call.run_ns > part.narrow_ns]
        _draw_calls(axes, place, calls, colours, part)
    if named or part.left_out:
        kind = "block allocation" if part.about.is_block else "a process for each call"
        more = f", {part.left_out} more workers are not shown" if part.left_out else ""
        axes.set_title(f"executor {part.number}: {kind}{more}", loc="left", fontsize=9, color=FAINT)


def _draw_calls(axes: Axes, place: int, calls: Sequence[Call], colours: dict[str, str], part: _Part) -> None:
    by_colour: dict[tuple[str, str], list[tuple[float, float]]] = {}
    failed: list[float] = []
    for call in calls:
        span = run_span(call, part.end_ns)
        if span is None:
            continue
        bar = (span[0] / SECONDS, (span[1] - span[0]) / SECONDS)
        colour = colours[call.name]
        edge = "white" if span[1] - span[0] > part.narrow_ns else colour  # narrow ones would be nothing but edge
        by_colour.setdefault((colour, edge), []).append(bar)
        if call.outcome in (RAISED, FAILED):
            failed.append(span[1] / SECONDS)
    for (colour, edge), bars in by_colour.items():
        axes.broken_barh(bars, (place - 0.4, 0.8), facecolor=colour, edgecolor=edge, linewidth=0.5)
    if failed:
        axes.plot(failed, [place] * len(failed), "x", color=FAILURE, markersize=6, markeredgewidth=2)


def _draw_densely(axes: Axes, place: int, calls: Sequence[Call], colours: dict[str, str], end_ns: int) -> None:
    """Bars as high as the part of each step of time that the functions took."""
    spans = [(call, span) for call in calls if (span := run_span(call, end_ns)) is not None]
    begin = min(span[0] for _, span in spans)
    step = max((max(span[1] for _, span in spans) - begin) / BINS, 1.0)
    shares: dict[str, list[float]] = {}
    for call, span in spans:
        own = shares.setdefault(colours[call.name], [0.0] * (BINS + 1))
        _share_out(own, (span[0] - begin) / step, (span[1] - begin) / step)
    edges = [(begin + bin_ * step) / SECONDS for bin_ in range(BINS + 2)]
    below = [0.0] * (BINS + 1)
    for colour, own in shares.items():
        above = [low + share for low, share in zip(below, own, strict=True)]
        lower = [place + 0.4 - 0.8 * low for low in below]
        upper = [place + 0.4 - 0.8 * min(high, 1.0) for high in above]
        axes.stairs(upper, edges, baseline=lower, fill=True, facecolor=colour, linewidth=0)
        below = above


def _share_out(bins: list[float], begin: float, end: float) -> None:
    """Adds a span, in steps, to the bins that it touches."""
    first, last = int(begin), min(int(end), len(bins) - 1)
    if first >= last:
        bins[min(first, len(bins) - 1)] += end - begin
        return
    bins[first] += first + 1 - begin
    for middle in range(first + 1, last):
        bins[middle] += 1.0
    bins[last] += end - last


# ---- waiting ----


def _draw_waiting(axes: Axes, part: _Part, end_ns: int) -> None:
    """How many calls were ready and waited for a worker, and how many waited for the results of others."""
    _clean(axes)
    ready = _steps((call.ready_ns, _begun_ns(call, end_ns)) for call in part.calls if call.ready_ns is not None)
    blocked = _steps(
        (call.submitted_ns, _begun_ns(call, end_ns) if call.ready_ns is None else call.ready_ns)
        for call in part.calls
        if call.inputs is not None
    )
    most = max([*ready[1], *blocked[1], 1])
    axes.fill_between(*ready, step="post", color="#9AA5B1", linewidth=0)
    if any(blocked[1]):
        there = [count or nan for count in blocked[1]]  # no line where there are none
        axes.step(blocked[0], there, where="post", color=INK, linewidth=1, linestyle=(0, (2, 1)))
    axes.set_ylim(0, most * 1.1)
    axes.set_yticks([0, most], ["0", f"{most}"], fontsize=8, color=FAINT)
    axes.set_ylabel("calls\nwaiting", rotation=0, ha="right", va="center", fontsize=9, color=INK)


def _begun_ns(call: Call, end_ns: int) -> int:
    if call.started_ns is not None:
        return call.started_ns
    return end_ns if call.received_ns is None else call.received_ns


def _steps(spans: Iterable[tuple[int, int]]) -> tuple[list[float], list[int]]:
    """How many of the spans there are at a time: from each of the times on, so many."""
    changes: Counter[int] = Counter()
    for begin, end in spans:
        changes[begin] += 1
        changes[end] -= 1
    times, counts, count = [0.0], [0], 0
    for at in sorted(changes):
        count += changes[at]
        times.append(at / SECONDS)
        counts.append(count)
    return times, counts


# ---- around ----


def _clean(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#CCCCCC")
    axes.tick_params(axis="both", length=0, labelbottom=False)


def _add_legend(figure: Figure, parts: Sequence[_Part], colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Patch | Line2D] = [
        Patch(color=colour, label=_short(name)) for name, colour in colours.items() if colour != OTHERS
    ]
    others = sum(colour == OTHERS for colour in colours.values())
    if others:
        handles.append(Patch(color=OTHERS, label=f"{others} other functions"))
    handles.append(Patch(facecolor=STARTING, hatch="////", edgecolor="white", label="worker starts"))
    calls = [call for part in parts for call in part.calls]
    if any(call.outcome in (RAISED, FAILED) for call in calls):
        handles.append(Line2D([], [], marker="x", linestyle="", color=FAILURE, markeredgewidth=2, label="no result"))
    if any(call.inputs is not None for call in calls):
        handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=(0, (2, 1)), label="waiting for other calls"))
    figure.legend(handles=handles, loc="outside lower center", ncols=8, fontsize=8, frameon=False, labelcolor=INK)


def _short(name: str) -> str:
    name = name.rpartition("<locals>.")[2]
    return name if len(name) <= 24 else f"{name[:10]}...{name[-11:]}"
