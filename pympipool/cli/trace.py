"""`pympipool trace FILE`: what a trace says, in words and tables, as data, or as a picture."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from pympipool.diagnostics.tracing.findings import advise
from pympipool.diagnostics.tracing.load import read
from pympipool.diagnostics.tracing.report import as_text
from pympipool.diagnostics.tracing.summary import Summary, summarise

HELP = "show where the time of a traced run went, and what to change"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `pympipool trace`."""
    parser.add_argument("file", help="what `with pympipool.trace(FILE):` has written")
    parser.add_argument("--json", action="store_true", help="for programs: the summary as JSON, all times in ns")
    parser.add_argument("--plot", metavar="PICTURE", help="draw workers and calls to this file (.png, .svg, .pdf)")


def run(options: argparse.Namespace) -> int:
    """Shows it; 1 if the file cannot be read, or the picture not be drawn."""
    try:
        timeline = read(options.file)
        if options.plot is not None:
            from pympipool.diagnostics.tracing.plot import draw

            draw(timeline, options.plot)
    except (OSError, ValueError, ImportError) as error:
        print(f"pympipool trace: {error}", file=sys.stderr)
        return 1
    summary = summarise(timeline)
    if options.json:
        print(json.dumps(as_data(summary), indent=2))
    else:
        print(as_text(summary), end="")
    return 0


def as_data(summary: Summary) -> dict[str, object]:
    """The summary and the advice, as JSON can hold them; without the calls, which are in the trace itself."""
    bare = dataclasses.replace(summary, timeline=dataclasses.replace(summary.timeline, calls=[]))
    return {**dataclasses.asdict(bare), "advice": [dataclasses.asdict(one) for one in advise(summary)]}
