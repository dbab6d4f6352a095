"""`pympipool bench`: measure this machine or an allocation, and print which settings to use.

measuring.py   measures ─► Measured ─┬─► advice.py   settings, as sentences
├─► tables.py   tables and bars for the terminal
└─► plot.py     a picture, with matplotlib
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path

from pympipool.cli.bench.advice import advice as advice_on
from pympipool.cli.bench.measuring import Measured, Progress, measure
from pympipool.cli.bench.tables import format_advice, format_measured

__all__ = ["HELP", "add_arguments", "run"]

HELP = "measure this machine or an allocation in about a minute, and say what to set"

CANNOT_MEASURE = 1
"""Exit code if nothing could be measured, because no workers could be started."""

WRONG_OPTION = 2
"""Exit code if an option is wrong, as with argparse."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `pympipool bench`."""
    parser.add_argument(
        "--backend", default="auto", help="where workers run, as for Executor: auto (default), mpi, slurm, flux"
    )
    parser.add_argument(
        "--cores", type=int, metavar="N", help="cores to use; default: those of this machine, or of the allocation"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="a picture as well, with matplotlib: .svg, .png, .pdf"
    )
    parser.add_argument("--json", action="store_true", help="for programs: all figures as JSON, in seconds and bytes")


def run(options: argparse.Namespace) -> int:
    """Measure and print. Return 0, or 1 if no workers could be started, or 2 if an option is wrong."""
    try:
        if options.plot is not None:
            _check_plot(options.plot)
        with _progress() as show:
            measured = measure(options.backend, options.cores, show)
    except (ValueError, TypeError) as error:
        return _complain(str(error), WRONG_OPTION)
    except BrokenExecutor as error:
        return _complain(str(error), CANNOT_MEASURE)
    _print(measured, as_json=options.json)
    if options.plot is not None:
        from pympipool.cli.bench.plot import draw

        try:
            draw(measured, options.plot)
        except OSError as error:
            return _complain(f"--plot {options.plot}: {error}", WRONG_OPTION)
        print(f"wrote {options.plot}", file=sys.stderr)
    return 0


def _check_plot(path: Path) -> None:
    """Check before the measurement, which takes a minute, that the picture can be drawn.

    Raises:
        ValueError: The picture cannot be drawn.
    """
    folder = path.resolve().parent
    if not folder.is_dir():
        raise ValueError(f"--plot {path}: there is no folder {folder}")
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ValueError(f"--plot {path}: {'it is a folder' if path.is_dir() else 'it is not writable'}")
    from pympipool.cli.bench.plot import supported_suffixes

    try:
        known = supported_suffixes()
    except ImportError as error:
        raise ValueError(f"--plot needs matplotlib ({error}): pip install matplotlib") from error
    if path.suffix.lstrip(".") not in known:
        raise ValueError(f"--plot {path}: the name must end with one of {', '.join(f'.{suffix}' for suffix in known)}")


def _print(measured: Measured, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**dataclasses.asdict(measured), "advice": advice_on(measured)}, indent=2))
        return
    print("\n".join(format_measured(measured)))
    print("\n".join(format_advice(advice_on(measured))))


def _complain(text: str, code: int) -> int:
    print(f"pympipool bench: {text}", file=sys.stderr)
    return code


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show the current activity if stderr is a terminal."""
    is_terminal = sys.stderr.isatty()

    def show(text: str) -> None:
        if is_terminal:
            print(f"\r\x1b[K{text} ...", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
