"""Measures all cases and writes docs/benchmarks.md: python -m benchmarks [--quick] [--only WORD] [--output FILE]"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import limits, machine, report
from benchmarks.cases import CASES
from benchmarks.peers import OURS, PEERS
from benchmarks.rounds import FULL, QUICK, Comparison, Effort, compare


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases, peers and rounds: under 3 minutes")
    parser.add_argument("--only", metavar="WORD", action="append", help="only cases whose name has this word in it")
    parser.add_argument("--peer", metavar="WORD", action="append", help="only peers whose name has this word in it")
    parser.add_argument("--rounds", type=int, help="of each case")
    parser.add_argument("--list", action="store_true", help="show the cases and the peers, and what is missing")
    parser.add_argument("--output", type=Path, default=limits.ROOT / "docs/benchmarks.md", help="the page to write")
    return parser.parse_args(words)


def has_any(name: str, words: Sequence[str] | None) -> bool:
    return not words or any(word.lower() in name.lower() for word in words)


def show_progress(text: str) -> None:
    print(f"{time.monotonic() - START:6.0f} s  {text}", file=sys.stderr)


def measure(options: argparse.Namespace, effort: Effort) -> list[Comparison]:
    peers = [peer for peer in PEERS if has_any(peer.name, options.peer)]
    comparisons = []
    for case in CASES:
        if has_any(case.name, options.only) and (case.core or not options.quick):
            comparisons.append(compare(case, effort, peers, show_progress))
            print("\n".join(["", *report.format_table(comparisons[-1:])]), flush=True)
    return comparisons


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    if options.list:
        show_list()
        return
    # Workers of every peer find the functions they are asked to run.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(limits.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = Effort(options.rounds, min(effort.heavy_rounds, options.rounds), effort.budget_s)
    head = {
        "date": f"{dt.datetime.now(dt.timezone.utc):%Y-%m-%d %H:%M} UTC",
        "command": f"`python -m benchmarks {' '.join(sys.argv[1:] if words is None else words)}`".replace(" `", "`"),
        "rounds": f"{effort.rounds} ({effort.heavy_rounds} of peers that take seconds to start)",
    }
    description = machine.description()
    comparisons = measure(options, effort)
    ring = limits.ring_by_record_size(effort.rounds) if not options.only else []
    head["duration"] = f"{time.monotonic() - START:.0f} s"
    folder = options.output.parent / options.output.stem
    try:
        plots = [plot.relative_to(options.output.parent) for plot in report.draw_plots(comparisons, ring, folder)]
    except ModuleNotFoundError as error:
        print(f"no plots: {error}", file=sys.stderr)
        plots = []
    options.output.write_text(report.format_report(comparisons, ring, description, head, plots))
    print(f"wrote {options.output}")
    failed = [f"{one.case.name}: {one.absent[OURS.name]}" for one in comparisons if OURS.name in one.failed]
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
