"""Draw the measurements with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pympipool._util.formatting import format_bytes, format_seconds
from pympipool.cli.bench.measuring import Measured

COLORS = ("#d62839", "#1d70a2", "#d98e04")
FAINT = "#8d99ae"


def supported_suffixes() -> list[str]:
    """Return the suffixes of file names that matplotlib supports, without the dot."""
    from matplotlib.backend_bases import FigureCanvasBase

    return sorted(FigureCanvasBase.get_supported_filetypes())


def draw(measured: Measured, path: Path) -> None:
    """Draw the results for lengths of calls, numbers of workers and sizes of values into a file.

    Raises:
        OSError: The file cannot be written.
    """
    from pympipool.diagnostics.figures import ThemedFigure, save

    figure = ThemedFigure(figsize=(12, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    _draw_lengths(panels[0], measured)
    _draw_speed_ups(panels[1], measured)
    _draw_echoes(panels[2], measured)
    for axes in panels:
        axes.set_title(axes.get_title(), fontsize=10)
        axes.grid(color="#dfe3ea")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    title = f"pympipool on {measured.host}: backend {measured.backend!r}, {measured.cores} cores"
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    save(figure, path)


def _draw_lengths(axes: Any, measured: Measured) -> None:
    lengths = measured.lengths
    lengths_s = [length.call_s for length in lengths]
    curves = (
        ("map", [length.mapped for length in lengths]),
        ("submit, block_allocation=True", [length.block for length in lengths]),
        ("submit, a process for each call", [length.alone for length in lengths]),
    )
    for (label, shares), color in zip(curves, COLORS, strict=True):
        axes.plot(lengths_s, shares, "o-", color=color, label=label)
    axes.set_xscale("log")
    axes.set_xticks(lengths_s, [format_seconds(call_s) for call_s in lengths_s])
    axes.minorticks_off()
    axes.set_ylim(0, 1.25)  # room for the legend
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set(xlabel="length of a call", title="share of time inside calls")
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)


def _draw_speed_ups(axes: Any, measured: Measured) -> None:
    workers = list(measured.speed_ups)
    axes.plot(workers, workers, "--", color=FAINT, label="ideal")
    axes.plot(workers, list(measured.speed_ups.values()), "o-", color=COLORS[0], label="measured")
    axes.set_xticks(workers)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="workers", title="speed of calls that compute, 1 worker = 1")
    axes.legend(frameon=False, fontsize=8)


def _draw_echoes(axes: Any, measured: Measured) -> None:
    from matplotlib.ticker import LogLocator

    sizes = list(measured.echoes_s)
    axes.loglog(sizes, list(measured.echoes_s.values()), "o-", color=COLORS[0])
    axes.yaxis.set_major_locator(LogLocator(base=10, numticks=6))
    axes.set_xticks(sizes, [format_bytes(size_bytes) for size_bytes in sizes])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda seconds, _: format_seconds(seconds))
    axes.set(xlabel="size", title=f"{measured.kind} to a worker and back")
