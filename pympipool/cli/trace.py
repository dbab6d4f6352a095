"""`pympipool trace FILE`: summarize a trace as text, as JSON, or as a picture."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from pympipool.diagnostics.tracing.findings import find_findings
from pympipool.diagnostics.tracing.load import read
from pympipool.diagnostics.tracing.report import format_report
from pympipool.diagnostics.tracing.summary import Summary, summarize

HELP = "show where the time of a traced run went, and what to change"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `pympipool trace`."""
    parser.add_argument("file", help="what `with pympipool.trace(FILE):` has written")
    parser.add_argument("--json", action="store_true", help="for programs: the summary as JSON, all times in ns")
    parser.add_argument("--plot", metavar="PICTURE", help="draw workers and calls to this file (.png, .svg, .pdf)")


def run(options: argparse.Namespace) -> int:
    """Print the summary. Return 1 if the file cannot be read or the picture cannot be drawn, otherwise 0."""
    try:
        timeline = read(options.file)
        if options.plot is not None:
            from pympipool.diagnostics.tracing.plot import draw

            draw(timeline, options.plot)
    except (OSError, ValueError, ImportError) as error:
        print(f"pympipool trace: {error}", file=sys.stderr)
        return 1
    summary = summarize(timeline)
    if options.json:
        print(json.dumps(as_data(summary), indent=2))
    else:
        print(format_report(summary), end="")
    return 0


def as_data(summary: Summary) -> dict[str, object]:
    """Return the summary and the findings as data for JSON, without the calls, which are in the trace itself."""
    bare = dataclasses.replace(summary, timeline=dataclasses.replace(summary.timeline, calls=[]))
    return {**dataclasses.asdict(bare), "findings": [dataclasses.asdict(finding) for finding in find_findings(summary)]}
