"""Measure all cases and write docs/benchmarks.md: python -m benchmarks [--quick] [--only WORD] [--continue]"""

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
from benchmarks.peer_process import PeerProcesses
from benchmarks.peers import OURS, PEERS
from benchmarks.results import RING, Conditions, Results
from benchmarks.rounds import compare
from benchmarks.samples import FULL, QUICK, Effort
from benchmarks.summary import format_summary, with_summary

PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
"""Has the first table of the page, too."""


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases, peers and rounds: under 3 minutes")
    parser.add_argument("--only", metavar="WORD", action="append", help="only cases whose name contains this word")
    parser.add_argument("--peer", metavar="WORD", action="append", help="only peers whose name contains this word")
    parser.add_argument("--rounds", type=int, help="number of rounds of each case")
    parser.add_argument(
        "--continue",
        dest="resume_h",
        metavar="HOURS",
        type=float,
        nargs="?",
        const=24.0,
        default=0.0,
        help="resume an interrupted run: skip cases that were measured within the last HOURS (default: 24)",
    )
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page from the stored results")
    parser.add_argument(
        "--list", action="store_true", help="list the cases and the peers, and how to install missing peers"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page to write; plots and results are in a folder of the same name (default: docs/benchmarks.md;"
        " with --quick or --peer: build/benchmarks.md)",
    )
    return parser.parse_args(words)


def contains_any(name: str, words: Sequence[str] | None) -> bool:
    return not words or any(word.lower() in name.lower() for word in words)


def show_progress(text: str) -> None:
    print(f"{time.monotonic() - START:6.0f} s  {text}", file=sys.stderr)


def effort_of(options: argparse.Namespace) -> Effort:
    effort = QUICK if options.quick else FULL
    if not options.rounds:
        return effort
    return replace(effort, rounds=options.rounds, other_rounds=min(effort.other_rounds, options.rounds))


def measure(options: argparse.Namespace, effort: Effort, results: Results) -> Iterator[str]:
    """Measure the selected cases. Yield a message for each case in which pympipool failed."""
    description = machine.description()

    @contextmanager
    def recorded_conditions() -> Iterator[list[Conditions]]:
        """Yield a list. When the context exits, the conditions of the measurement are appended to it."""
        date = f"{dt.datetime.now(dt.timezone.utc):%Y-%m-%dT%H:%M:%S+00:00}"
        busy, start = busy_share(), time.monotonic()
        recorded: list[Conditions] = []
        yield recorded
        recorded.append(Conditions(date, round(time.monotonic() - start, 1), busy, effort, description))

    def is_wanted(name: str) -> bool:
        return contains_any(name, options.only) and not results.was_measured_within(name, options.resume_h)

    def wanted_cases() -> Iterator[Case]:
        return (case for case in CASES if is_wanted(case.name) and (case.core or effort.other_rounds))

    peers = [peer for peer in PEERS if contains_any(peer.name, options.peer)]
    with PeerProcesses() as peer_processes:
        for case in wanted_cases():
            with recorded_conditions() as conditions:
                comparison = compare(case, effort, peer_processes, peers, show_progress)
            results.save(comparison, *conditions)
            print("\n".join(["", f"## {case.name}", "", *report.format_table([comparison])]), flush=True)
            if OURS.name in comparison.failed:
                yield f"{case.name}: {comparison.not_measured[OURS.name]}"
    if is_wanted(RING):
        show_progress("the ring alone")
        with recorded_conditions() as conditions:
            table = limits.ring_by_record_size(effort.rounds)
        results.save_ring(table, *conditions)


def write_page(path: Path, results: Results) -> None:
    """Write the page and its plots from all stored results."""
    measured = list(results.comparisons())
    try:
        plots = report.draw_plots([comparison for comparison, _ in measured], results.ring(), path.with_suffix(""))
    except ModuleNotFoundError as error:
        print(f"no plots: {error}", file=sys.stderr)
        plots = {}
    links = {section: plot.relative_to(path.parent).as_posix() for section, plot in plots.items()}
    path.write_text(report.format_page(measured, results.ring(), links))
    print(f"wrote {path}")
    if path == PAGE:
        summary = list(format_summary([comparison for comparison, _ in measured]))
        README.write_text(with_summary(README.read_text(), summary))


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    # sys.exit, so that the page is written and the peer processes are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    if options.list:
        show_list()
        return
    partial = options.quick or options.peer
    output = options.output or (ROOT / "build" / "benchmarks.md" if partial else PAGE)
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
