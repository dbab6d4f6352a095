"""Draws comparisons as SVG, one file for each section.

Cases with a position on an axis (sizes, lengths of calls) are drawn as lines, with a panel for each table. Other cases
are drawn as rows of points, with a panel for each case. A peer has the same colour in all plots. Thin lines span the
rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.limits import RingTable
from benchmarks.peers import OURS, PEERS
from benchmarks.results import Conditions
from benchmarks.rounds import LIMIT, Comparison
from benchmarks.units import SECONDS, SHARE, Quantity, format_bytes, format_seconds

INK = "#2b2d42"
FAINT = "#dfe3ea"
OURS_COLOR = "#d62839"
LIMIT_COLOR = "#8d99ae"
COLORS = (
    "#1d70a2",
    "#6fb1d6",
    "#3a8f5c",
    "#7b5ea7",
    "#d98e04",
    "#f0c36d",
    "#c2699c",
    "#7a6c5d",
    "#9aa63b",
    "#4d5361",
    "#a34a28",
    "#3aa6a0",
    "#b04a6e",
)
"""Colours of the peers other than pympipool, in the order of `PEERS`."""

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#b8bfcc",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}


def draw_plots(
    comparisons: Sequence[Comparison], ring: tuple[RingTable, Conditions] | None, folder: Path
) -> dict[str, Path]:
    """Draw all comparisons.

    Returns:
        The file of each section, by the title of the section.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; names the extra to install.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plots need matplotlib: pip install matplotlib") from error
    mpl.use("svg")
    mpl.rcParams.update(STYLE)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for section, of_section in groupby(comparisons, key=lambda comparison: comparison.case.section):
        shown = [comparison for comparison in of_section if comparison.samples]
        if shown:
            figure = draw_lines(shown) if _have_x_values(shown) else draw_points(shown)
            files[section] = _save(figure, folder / f"{section.lower().replace(' ', '-')}.svg")
    if ring is not None:
        files["The ring alone"] = _save(draw_ring(ring[0]), folder / "ring.svg")
    return files


def _have_x_values(comparisons: Sequence[Comparison]) -> bool:
    tables = {comparison.case.table for comparison in comparisons}
    return len(comparisons) > len(tables) and all(comparison.case.x is not None for comparison in comparisons)


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    from pympipool.diagnostics.figures import save

    save(figure, path, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    return path


def color_of(name: str) -> str:
    """Return the colour of a peer, which is the same in all plots."""
    if name in {OURS.name, LIMIT}:
        return OURS_COLOR if name == OURS.name else LIMIT_COLOR
    return dict(zip([peer.name for peer in PEERS if peer is not OURS], COLORS, strict=True))[name]


def _names(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the names of the peers that have values, pympipool first."""
    all_names = [*(peer.name for peer in PEERS), LIMIT]
    return [name for name in all_names if any(comparison.values(name) for comparison in comparisons)]


# ---- rows of points ----


def draw_points(comparisons: Sequence[Comparison]) -> Any:
    """Draw a panel for each case with a row for each peer. All panels have the same rows."""
    import matplotlib.pyplot as plt

    pairs = [(comparison, i) for comparison in comparisons for i in range(len(comparison.case.quantities))]
    names = _names(comparisons)
    # A case may have got a quantity since it was measured.
    panels = [(comparison, i) for comparison, i in pairs if any(comparison.values(name, i) for name in names)]
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    size = (1.6 + 3.6 * columns, rows * (0.8 + 0.27 * len(names)))
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (comparison, i) in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, comparison, i, names)
    return figure


def _draw_panel(axes: Any, comparison: Comparison, quantity: int, names: Sequence[str]) -> None:
    unit = comparison.case.quantities[quantity].unit
    medians = {name: comparison.median(name, quantity) for name in names if comparison.values(name, quantity)}
    begin, end = min(medians.values()), max(medians.values())
    if begin > 0 and end > 10 * begin:
        axes.set_xscale("log")
        reach = max(end / begin, 3)
        axes.set_xlim(begin / reach**0.12, begin * reach**1.45)  # room for the figures
    else:
        axes.set_xlim(0, 1.4 * end or 1)
    for row, name in enumerate(names):
        if name not in medians:
            continue
        values = comparison.values(name, quantity)
        color = color_of(name)
        axes.plot([axes.get_xlim()[0], medians[name]], [row, row], color=FAINT, linewidth=2, solid_capstyle="butt")
        axes.plot([min(values), max(values)], [row, row], color=color, linewidth=1.6, alpha=0.5)
        axes.scatter([medians[name]], [row], color=color, s=34 if name == OURS.name else 22, zorder=3, clip_on=False)
        axes.annotate(
            unit.text(medians[name]),
            (max(values), row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=color if name == OURS.name else INK,
            fontweight="bold" if name == OURS.name else "normal",
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    for label in axes.get_yticklabels():
        is_ours = label.get_text() == OURS.name
        label.set_color(OURS_COLOR if is_ours else LIMIT_COLOR if label.get_text() == LIMIT else INK)
        label.set_fontweight("bold" if is_ours else "normal")
    axes.set_title(_title(comparison, quantity), pad=16)
    better = "→ more is better" if unit.higher_is_better else "← less is better"
    axes.text(0, 1.02, better, transform=axes.transAxes, fontsize=8, color=LIMIT_COLOR, va="bottom")
    _few_ticks(axes.xaxis, unit.text)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _title(comparison: Comparison, quantity: int) -> str:
    quantities: tuple[Quantity, ...] = comparison.case.quantities
    names = [comparison.case.table, comparison.case.title, quantities[quantity].name if len(quantities) > 1 else ""]
    return ", ".join(filter(None, names))


def _few_ticks(axis: Any, show: Callable[[float], str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    is_log = axis.get_scale() == "log"
    axis.set_major_locator(LogLocator(base=10, numticks=6) if is_log else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value) if value > 0 else "0"))
    axis.set_minor_locator(NullLocator())


# ---- lines ----


def draw_lines(comparisons: Sequence[Comparison]) -> Any:
    """Draw a panel for each table with a line for each peer."""
    import matplotlib.pyplot as plt

    tables = [list(group) for _, group in groupby(comparisons, key=lambda comparison: comparison.case.table)]
    quantity = comparisons[0].case.quantities[0]
    columns = min(len(tables), 3)
    rows = -(-len(tables) // columns)
    size = (6.5, 4.0) if len(tables) == 1 else (3.0 * columns + 0.6, 2.9 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", sharey=True)
    names = _names(comparisons)
    for axes in grid.flat[len(tables) :]:
        axes.set_axis_off()
    for axes, of_table in zip(grid.flat, tables, strict=False):
        for name in reversed(names):  # pympipool last, on top of the others
            _draw_line(axes, of_table, name)
        _finish_lines(axes, of_table, quantity)
    handles = {line.get_label(): line for axes in grid.flat for line in axes.get_lines() if line.get_label() in names}
    ordered = [handles[name] for name in names]
    if len(tables) % columns:
        grid.flat[-1].legend(handles=ordered, loc="center left")
    else:
        figure.legend(handles=ordered, loc="outside right center")
    return figure


def _draw_line(axes: Any, comparisons: Sequence[Comparison], name: str) -> None:
    shown = [comparison for comparison in comparisons if comparison.values(name)]
    if not shown:
        return
    is_ours, is_limit = name == OURS.name, name == LIMIT
    x_values = [comparison.case.x for comparison in shown]
    axes.plot(
        x_values,
        [comparison.median(name) for comparison in shown],
        "--" if is_limit else "o-",
        label=name,
        color=color_of(name),
        linewidth=2.4 if is_ours else 1.4,
        markersize=5.5 if is_ours else 3.5,
    )
    for x, comparison in zip(x_values, shown, strict=True):
        values = comparison.values(name)
        axes.plot([x, x], [min(values), max(values)], color=color_of(name), linewidth=1, alpha=0.5)


def _finish_lines(axes: Any, comparisons: Sequence[Comparison], quantity: Quantity) -> None:
    case = comparisons[0].case
    axes.set_xscale("log")
    show = format_seconds if quantity.unit is SHARE else format_bytes
    axes.set_xticks([comparison.case.x for comparison in comparisons])
    axes.xaxis.set_major_formatter(lambda value, _: show(value))
    axes.xaxis.set_minor_locator(_no_ticks())
    axes.set_xlabel("length of a call" if quantity.unit is SHARE else "size")
    axes.set_title(case.table or case.section)
    axes.grid()
    if quantity.unit is SECONDS:
        axes.set_yscale("log")
        _few_ticks(axes.yaxis, quantity.unit.text)
        axes.set_ylabel("round trip")
    else:
        axes.set_ylim(0, 1.05)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


# ---- the ring ----


def draw_ring(ring: RingTable) -> Any:
    """Draw the times of the ring by the size of a record."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
    sizes = [row[0] for row in ring]
    lines = ((1, "round trip", COLORS[0], "o-"), (2, "stream", OURS_COLOR, "o-"), (3, "memcpy", LIMIT_COLOR, "--"))
    for column, label, color, mark in lines:
        axes.plot(sizes, [row[column] * 1e-9 for row in ring], mark, label=label, color=color, markersize=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(lambda value, _: format_bytes(value))
    axes.xaxis.set_minor_locator(_no_ticks())
    _few_ticks(axes.yaxis, format_seconds)
    axes.set_xlabel("bytes of a record")
    axes.set_ylabel("time per record")
    axes.set_title("The ring alone")
    axes.grid()
    axes.legend()
    return figure
