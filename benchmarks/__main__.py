"""Measures all cases and writes docs/benchmarks.md: python -m benchmarks [--quick] [--only WORD] [--continue]"""

from __future__ import annotations

import argparse
import datetime as dt
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import limits, machine, report
from benchmarks.cases import CASES, Case
from benchmarks.idle import busy_share
from benchmarks.limits import ROOT
from benchmarks.peers import OURS, PEERS
from benchmarks.results import RING, Circumstances, Results
from benchmarks.rounds import compare
from benchmarks.samples import FULL, QUICK, Effort
from benchmarks.station import Stations


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases, peers and rounds: under 3 minutes")
    parser.add_argument("--only", metavar="WORD", action="append", help="only cases whose name has this word in it")
    parser.add_argument("--peer", metavar="WORD", action="append", help="only peers whose name has this word in it")
    parser.add_argument("--rounds", type=int, help="of each case")
    parser.add_argument(
        "--continue",
        dest="younger_h",
        metavar="HOURS",
        type=float,
        nargs="?",
        const=24.0,
        default=0.0,
        help="go on with a run that was cut off: cases measured within so many hours (default: 24) are kept",
    )
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page from what there is")
    parser.add_argument("--list", action="store_true", help="show the cases and the peers, and what is missing")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page; plots and results lie in a folder of its name (default: docs/benchmarks.md, with --quick or"
        " --peer build/benchmarks.md)",
    )
    return parser.parse_args(words)


def has_any(name: str, words: Sequence[str] | None) -> bool:
    return not words or any(word.lower() in name.lower() for word in words)


def show_progress(text: str) -> None:
    print(f"{time.monotonic() - START:6.0f} s  {text}", file=sys.stderr)


def effort_of(options: argparse.Namespace) -> Effort:
    effort = QUICK if options.quick else FULL
    if not options.rounds:
        return effort
    return replace(effort, rounds=options.rounds, other_rounds=min(effort.other_rounds, options.rounds))


def measure(options: argparse.Namespace, effort: Effort, results: Results) -> Iterator[str]:
    """Measures what is asked for, and yields where ours failed."""
    description = machine.description()

    @contextmanager
    def circumstances() -> Iterator[list[Circumstances]]:
        """Filled when it is left."""
        date, busy, start = (
            f"{dt.datetime.now(dt.timezone.utc):%Y-%m-%dT%H:%M:%S+00:00}",
            busy_share(),
            time.monotonic(),
        )
        found: list[Circumstances] = []
        yield found
        found.append(Circumstances(date, round(time.monotonic() - start, 1), busy, effort, description))

    def is_wanted(name: str) -> bool:
        return has_any(name, options.only) and not results.is_younger(name, options.younger_h)

    def wanted() -> Iterator[Case]:
        return (case for case in CASES if is_wanted(case.name) and (case.core or effort.other_rounds))

    peers = [peer for peer in PEERS if has_any(peer.name, options.peer)]
    with Stations() as stations:
        for case in wanted():
            with circumstances() as found:
                comparison = compare(case, effort, stations, peers, show_progress)
            results.save(comparison, *found)
            print("\n".join(["", f"## {case.name}", "", *report.format_table([comparison])]), flush=True)
            if OURS.name in comparison.failed:
                yield f"{case.name}: {comparison.absent[OURS.name]}"
    if is_wanted(RING):
        show_progress("the ring alone")
        with circumstances() as found:
            table = limits.ring_by_record_size(effort.rounds)
        results.save_ring(table, *found)


def write_page(path: Path, results: Results) -> None:
    """The page and its plots, from all results there are."""
    measured = list(results.comparisons())
    try:
        plots = report.draw_plots([comparison for comparison, _ in measured], results.ring(), path.with_suffix(""))
    except ModuleNotFoundError as error:
        print(f"no plots: {error}", file=sys.stderr)
        plots = {}
    links = {section: plot.relative_to(path.parent).as_posix() for section, plot in plots.items()}
    path.write_text(report.format_page(measured, results.ring(), links))
    print(f"wrote {path}")


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # with a page, and without its stations
    if options.list:
        show_list()
        return
    partial = options.quick or options.peer
    output = options.output or ROOT / ("build" if partial else "docs") / "benchmarks.md"
    output.parent.mkdir(parents=True, exist_ok=True)
    results = Results(output.with_suffix("") / "results")
    failed: list[str] = []
    try:
        if not options.page:
            failed.extend(measure(options, effort_of(options), results))
    finally:
        write_page(output, results)
    if failed:
        sys.exit("\n".join(["pympipool failed in", *failed]))


def show_list() -> None:
    for case in CASES:
        print(f"{case.name}{'' if case.core else '  (not in the quick run)'}")
    for peer in PEERS:
        print(f"{peer.name}: {peer.version or 'not installed: pip install ' + peer.package}")


START = time.monotonic()

if __name__ == "__main__":
    main()
