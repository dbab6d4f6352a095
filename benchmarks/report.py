"""Comparisons to tables in Markdown and to plots in SVG.

A table has a row for each peer and a column for each quantity of each case of its section. A cell is the median of the
rounds, the smallest and the largest round, and how many times better ours is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.cases import show_seconds
from benchmarks.peers import OURS, PEERS
from benchmarks.rounds import LIMIT, Comparison

RingTable = Sequence[tuple[int, float, float, float]]

INTRODUCTION = """\
Written by `python -m benchmarks`; do not edit. Each cell: the median of the rounds, in parentheses the smallest and the
largest round, and how many times better pympipool is (below 1: worse). The executors take turns, and only the one
that is measured lives. Ratios travel to other machines, times do not."""


def format_report(
    comparisons: Sequence[Comparison],
    ring: RingTable,
    machine: Mapping[str, str],
    run: Mapping[str, str],
    plots: Sequence[Path],
) -> str:
    """The whole page.

    Args:
        comparisons: what was measured; those of a section follow each other.
        ring: as from `limits.ring_by_record_size`.
        machine: as from `machine.description`.
        run: date, command and the like.
        plots: files to show, relative to the page.
    """
    lines = [
        "# Benchmarks",
        "",
        INTRODUCTION,
        "",
        *(f"- **{name}**: {text}" for name, text in {**run, **machine}.items()),
        "",
    ]
    for section, cases in groupby(comparisons, key=lambda comparison: comparison.case.section):
        lines += [f"## {section}", "", *format_table(list(cases)), ""]
    if ring:
        lines += ["## The ring alone", "", *format_ring(ring), ""]
    lines += [line for plot in plots for line in (f"![{plot.stem}]({plot.as_posix()})", "")]
    return "\n".join(lines).rstrip() + "\n"


def format_table(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """The table of one section, and why peers are not in it."""
    columns = [(comparison, i) for comparison in comparisons for i in range(len(comparison.case.quantities))]
    yield "| |" + "".join(f" {_head(comparison, i)} |" for comparison, i in columns)
    yield "| --- |" + " ---: |" * len(columns)
    for name in [*(peer.name for peer in PEERS), LIMIT]:
        cells = [format_cell(comparison, name, i) for comparison, i in columns]
        if any(cells):
            yield f"| {name} |" + "".join(f" {cell or '–'} |" for cell in cells)
    yield ""
    absent: dict[str, dict[str, None]] = {}  # reason: peers, each once
    for comparison in comparisons:
        for peer, reason in comparison.absent.items():
            absent.setdefault(reason, {})[peer] = None
    if absent:
        groups = (f"{', '.join(peers)} ({reason})" for reason, peers in absent.items())
        yield f"Not measured, or not in all rounds: {'; '.join(groups)}."


def _head(comparison: Comparison, i: int) -> str:
    quantities = comparison.case.quantities
    return comparison.case.title if len(quantities) == 1 else f"{comparison.case.title}, {quantities[i].name}"


def format_cell(comparison: Comparison, name: str, i: int) -> str:
    """Median, spread and ratio; empty where nothing was measured."""
    values = comparison.values(name, i)
    if not values:
        return ""
    show = comparison.case.quantities[i].unit.text
    text = show(comparison.median(name, i))
    if len(set(values)) > 1:
        text += f" ({show(min(values))} – {show(max(values))})"
    times = comparison.times_better(name, i)
    if name == OURS.name or times is None:
        return text
    return f"{text}, **{show_ratio(times)} ×**"


def show_ratio(times: float) -> str:
    if times < 0.1:
        return f"1/{1 / times:.3g}"
    return f"{times:.3g}" if times < 1000 else f"{times:.0f}"


def format_ring(ring: RingTable) -> Iterator[str]:
    yield "Two processes that spin, each record written and read."
    yield ""
    yield "| bytes of a record | there and back | stream, each | stream | memcpy, each | memcpy |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: |"
    for size_bytes, there_and_back_ns, stream_ns, copy_ns in ring:
        times = (f"{show_seconds(ns * 1e-9)}" for ns in (there_and_back_ns, stream_ns, copy_ns))
        there_and_back, stream, copy = times
        speeds = [f"{size_bytes / ns:.3g} GB/s" for ns in (stream_ns, copy_ns)]
        yield f"| {size_bytes} | {there_and_back} | {stream} | {speeds[0]} | {copy} | {speeds[1]} |"


# ---- plots ----


def draw_plots(comparisons: Sequence[Comparison], ring: RingTable, folder: Path) -> list[Path]:
    """Draws what was measured into SVG files.

    Returns:
        The files, in the order to be shown.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; names the extra to install.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('plots need matplotlib: pip install "pympipool[plot]"') from error
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "pympipool", "svg.fonttype": "none", "font.size": 9})
    folder.mkdir(parents=True, exist_ok=True)
    sections: dict[str, list[Comparison]] = {comparison.case.section: [] for comparison in comparisons}
    for comparison in comparisons:
        sections[comparison.case.section].append(comparison)
    files = []
    for section, of_section in sections.items():
        if any(comparison.samples for comparison in of_section):
            files.append(_save(_draw_section(of_section), folder / f"{section.lower().replace(' ', '-')}.svg"))
    if ring:
        files.append(_save(_draw_ring(ring), folder / "ring.svg"))
    return files


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    return path


def _draw_section(comparisons: Sequence[Comparison]) -> Any:
    """One field for each case: a point for each peer, a line over the range of its rounds."""
    import matplotlib.pyplot as plt

    comparisons = [comparison for comparison in comparisons if comparison.samples]
    width = min(len(comparisons), 3)
    height = -(-len(comparisons) // width)
    figure, fields = plt.subplots(
        height, width, figsize=(4.2 * width, 2.6 * height), squeeze=False, layout="constrained"
    )
    for axes in fields.flat[len(comparisons) :]:
        axes.set_visible(False)
    for axes, comparison in zip(fields.flat, comparisons, strict=False):
        names = [name for name in _names() if comparison.values(name)][::-1]
        medians = [comparison.median(name) for name in names]
        reach = [
            [median - min(comparison.values(name)) for name, median in zip(names, medians, strict=True)],
            [max(comparison.values(name)) - median for name, median in zip(names, medians, strict=True)],
        ]
        colors = ["tab:red" if name == OURS.name else "gray" if name == LIMIT else "tab:blue" for name in names]
        axes.errorbar(medians, names, xerr=reach, fmt="none", ecolor="gray", capsize=2)
        axes.scatter(medians, names, color=colors, zorder=3)
        axes.grid(axis="x", alpha=0.3)
        quantity = comparison.case.quantities[0]
        best = "more" if quantity.unit.higher_is_better else "less"
        axes.set_title(f"{comparison.case.title} ({best} is better)", fontsize=9)
        if all(median > 0 for median in medians) and max(medians) > 10 * min(medians):
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _, show=quantity.unit.text: show(value) if value > 0 else "0")
        axes.tick_params(axis="x", labelrotation=30)
    return figure


def _names() -> Iterable[str]:
    return (*(peer.name for peer in PEERS), LIMIT)


def _draw_ring(ring: RingTable) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    sizes = [row[0] for row in ring]
    for column, label in ((1, "there and back"), (2, "stream"), (3, "memcpy")):
        axes.loglog(sizes, [row[column] for row in ring], "o-", label=label)
    axes.set(xlabel="bytes of a record", ylabel="ns each")
    axes.legend()
    return figure
