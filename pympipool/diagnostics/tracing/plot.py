"""Draw a `Timeline`: what each worker did at which time, in the colours of the functions, and how many calls waited.

    worker 1   ▏██████ ████████████ ▓▓▓▓▓▓▓ ██████
    worker 2   ▏▓▓▓▓ ██████ ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓  ████        a track of too many calls to tell them apart
    worker 3   ▏▃▅▇▇▇▇▅▃▇▇▇▇▇▇▇▇▅▃▁▇▇▇▇▇▇▅▇▇▇▇        shows the share of time that each function took
    waiting    ▂▄▆██▇▆▅▄▃▂▁

This module imports matplotlib only when it draws.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from math import nan
from typing import TYPE_CHECKING

from pympipool._util.formatting import format_count, format_duration
from pympipool.diagnostics.tracing.timeline import ERROR, LOST, Call, Timeline
from pympipool.diagnostics.tracing.tracks import Track, assign_tracks
from pympipool.diagnostics.tracing.utilization import run_span, work_span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pympipool.diagnostics.figures import ThemedFigure

COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")
"""Colours of the functions that took most time. Colour-blind readers can tell them apart (Paul Tol, "bright",
https://personal.sron.nl/~pault/). The red of failures is not among them."""

OTHERS = "#BBBBBB"
STARTING = "#E4E4E4"
FAILURE = "#B00020"
INK = "#333333"
FAINT = "#8A8A8A"

SINGLE_CALLS_MAX = 400
"""Maximum number of calls that a track shows one by one.

A track with more calls shows the short ones as shares of time.
"""

BINS = 500
"""Number of time steps of a track that shows shares of time."""

TRACKS_MAX = 64
"""Maximum number of tracks for one executor. Further workers are not shown."""

NARROW = 1 / 400
"""Share of the width of the picture from which on a bar has an edge, and is drawn by itself among many."""

TRACK_HEIGHT_IN = 0.32
"""Height of a track in inches."""

SECONDS = 1e9


def draw(
    timeline: Timeline,
    path: str | os.PathLike[str] | None = None,
    *,
    width: float = 11.0,
    title: str | None = None,
    dpi: int = 150,
) -> ThemedFigure:
    """Draw a trace.

    Args:
        timeline: The trace.
        path: File to save the picture to. Its ending gives the format: .png, .svg, .pdf, or another one that matplotlib
            knows.
        width: Width of the picture in inches.
        title: Title of the picture; default: the number of calls and the time that they took.
        dpi: Dots per inch of a saved bitmap.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The trace has no calls, or matplotlib does not know the format of path.
    """
    try:
        from pympipool.diagnostics.figures import ThemedFigure, save
    except ImportError as error:
        raise ImportError(f"pictures are drawn by matplotlib ({error}): pip install matplotlib") from error
    if not timeline.calls:
        raise ValueError("the trace has no calls: there is nothing to draw")
    parts = [_Part(timeline, executor.number) for executor in timeline.executors]
    parts = [part for part in parts if part.calls]
    heights = [height for part in parts for height in (max(len(part.tracks), 1) * TRACK_HEIGHT_IN + 0.25, 0.75)]
    figure = ThemedFigure(figsize=(width, sum(heights) + 1.35), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    colours = _colours(timeline.calls)
    begin_ns, end_ns = work_span(timeline.calls, timeline.duration_ns)
    for part, tracks, waiting in zip(parts, axes[::2], axes[1::2], strict=True):
        _draw_tracks(tracks, part, colours, len(parts) > 1)
        _draw_waiting(waiting, part, end_ns)
    last = axes[-1]
    last.set_xlim(begin_ns / SECONDS, end_ns / SECONDS)
    last.tick_params(axis="x", length=3, colors=INK, labelbottom=True)
    last.set_xlabel("seconds since the start of the trace", color=INK)
    figure.suptitle(title or _title(timeline), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    _add_legend(figure, parts, colours)
    if path is not None:
        save(figure, path, dpi=dpi)
    return figure


class _Part:
    """The part of the picture that shows one executor."""

    def __init__(self, timeline: Timeline, number: int) -> None:
        tracks = [track for track in dict.fromkeys(assign_tracks(timeline).values()) if track.executor == number]
        self.number = number
        self.executor = timeline.executors[number - 1]
        self.calls = [call for call in timeline.calls if call.executor == number]
        self.tracks: Sequence[Track] = tracks[:TRACKS_MAX]
        self.left_out = len(tracks) - len(self.tracks)
        self.end_ns = timeline.duration_ns
        begin_ns, last_ns = work_span(timeline.calls, timeline.duration_ns)
        self.narrow_ns = NARROW * (last_ns - begin_ns)
        self._by_worker: dict[int, list[Call]] = {}
        for call in self.calls:
            self._by_worker.setdefault(call.worker, []).append(call)

    def calls_of(self, track: Track) -> list[Call]:
        return [call for worker in track.workers for call in self._by_worker.get(worker.number, ())]


def _colours(calls: Iterable[Call]) -> dict[str, str]:
    """Return a colour for each function.

    The functions that took most time have colours of their own, all others the same.
    """
    times: Counter[str] = Counter()
    for call in calls:
        times[call.name] += call.run_ns + 1
    names = [name for name, _ in times.most_common()]
    return {name: COLOURS[position] if position < len(COLOURS) else OTHERS for position, name in enumerate(names)}


def _title(timeline: Timeline) -> str:
    begin_ns, end_ns = work_span(timeline.calls, timeline.duration_ns)
    return f"{format_count(sum(call.size for call in timeline.calls), 'call')} in {format_duration(end_ns - begin_ns)}"


# ---- tracks ----


def _draw_tracks(axes: Axes, part: _Part, colours: dict[str, str], named: bool) -> None:
    _clean(axes)
    axes.set_ylim(len(part.tracks) - 0.4, -0.6)
    axes.set_yticks(range(len(part.tracks)), [track.name for track in part.tracks], fontsize=9, color=INK)
    for place, track in enumerate(part.tracks):
        axes.axhspan(place - 0.4, place + 0.4, color="#F7F7F7", linewidth=0)
        starts = [(max(worker.started_ns, 0), max(worker.ready_ns, 0)) for worker in track.workers]
        bars = [(begin / SECONDS, (end - begin) / SECONDS) for begin, end in starts if end > begin]
        axes.broken_barh(bars, (place - 0.4, 0.8), facecolor=STARTING, hatch="////", edgecolor="white", linewidth=0)
        calls = part.calls_of(track)
        if len(calls) > SINGLE_CALLS_MAX:
            _draw_shares(axes, place, [call for call in calls if call.run_ns <= part.narrow_ns], colours, part.end_ns)
            calls = [call for call in calls if call.run_ns > part.narrow_ns]
        _draw_calls(axes, place, calls, colours, part)
    if named or part.left_out:
        kind = "block allocation" if part.executor.is_block else "a process for each call"
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
        edge = "white" if span[1] - span[0] > part.narrow_ns else colour  # a narrow bar would consist of its edge only
        by_colour.setdefault((colour, edge), []).append(bar)
        if call.outcome in (ERROR, LOST):
            failed.append(span[1] / SECONDS)
    for (colour, edge), bars in by_colour.items():
        axes.broken_barh(bars, (place - 0.4, 0.8), facecolor=colour, edgecolor=edge, linewidth=0.5)
    if failed:
        axes.plot(failed, [place] * len(failed), "x", color=FAILURE, markersize=6, markeredgewidth=2)


def _draw_shares(axes: Axes, place: int, calls: Sequence[Call], colours: dict[str, str], end_ns: int) -> None:
    """Draw bars as high as the share that each function took of each time step."""
    spans = [(call, span) for call in calls if (span := run_span(call, end_ns)) is not None]
    begin = min(span[0] for _, span in spans)
    step = max((max(span[1] for _, span in spans) - begin) / BINS, 1.0)
    shares: dict[str, list[float]] = {}
    for call, span in spans:
        own = shares.setdefault(colours[call.name], [0.0] * (BINS + 1))
        _add_to_bins(own, (span[0] - begin) / step, (span[1] - begin) / step)
    edges = [(begin + bin_ * step) / SECONDS for bin_ in range(BINS + 2)]
    below = [0.0] * (BINS + 1)
    for colour, own in shares.items():
        above = [low + share for low, share in zip(below, own, strict=True)]
        lower = [place + 0.4 - 0.8 * low for low in below]
        upper = [place + 0.4 - 0.8 * min(high, 1.0) for high in above]
        axes.stairs(upper, edges, baseline=lower, fill=True, facecolor=colour, linewidth=0)
        below = above


def _add_to_bins(bins: list[float], begin: float, end: float) -> None:
    """Add a span, whose unit is a step, to the bins that it touches."""
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
    """Draw the numbers of calls that waited for a worker, and of calls that waited for the results of others."""
    _clean(axes)
    ready = _steps((call.ready_ns, _waiting_end_ns(call, end_ns)) for call in part.calls if call.ready_ns is not None)
    blocked = _steps(
        (call.submitted_ns, _waiting_end_ns(call, end_ns) if call.ready_ns is None else call.ready_ns)
        for call in part.calls
        if call.inputs is not None
    )
    most = max([*ready[1], *blocked[1], 1])
    axes.fill_between(*ready, step="post", color="#9AA5B1", linewidth=0)
    if any(blocked[1]):
        counts = [count or nan for count in blocked[1]]  # no curve where no call waits
        axes.step(blocked[0], counts, where="post", color=INK, linewidth=1, linestyle=(0, (2, 1)))
    axes.set_ylim(0, most * 1.1)
    axes.set_yticks([0, most], ["0", f"{most}"], fontsize=8, color=FAINT)
    axes.set_ylabel("calls\nwaiting", rotation=0, ha="right", va="center", fontsize=9, color=INK)


def _waiting_end_ns(call: Call, end_ns: int) -> int:
    if call.started_ns is not None:
        return call.started_ns
    return end_ns if call.received_ns is None else call.received_ns


def _steps(spans: Iterable[tuple[int, int]]) -> tuple[list[float], list[int]]:
    """Return times, and for each time the number of spans that contain it and the times up to the next one."""
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


# ---- axes and legend ----


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
    if any(call.outcome in (ERROR, LOST) for call in calls):
        handles.append(Line2D([], [], marker="x", linestyle="", color=FAILURE, markeredgewidth=2, label="no result"))
    if any(call.inputs is not None for call in calls):
        handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=(0, (2, 1)), label="waiting for other calls"))
    figure.legend(handles=handles, loc="outside lower center", ncols=8, fontsize=8, frameon=False, labelcolor=INK)


def _short(name: str) -> str:
    name = name.rpartition("<locals>.")[2]
    return name if len(name) <= 24 else f"{name[:10]}...{name[-11:]}"
