"""Format measurements as tables and bars for the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from pympipool._util.formatting import format_bytes, format_rate, format_seconds
from pympipool.cli.bench.measuring import CHUNKSIZE, Measured
from pympipool.cli.text import wrap

BAR = 36
"""Width of a full bar in characters."""

LABEL = 46
"""Width of the first column in characters."""

EIGHTHS = " ▏▎▍▌▋▊▉█"
"""Characters that are filled by 0, 1, ... 8 eighths."""


def format_measured(measured: Measured) -> Iterator[str]:
    """Yield the lines of the tables and bars."""
    all_workers = f"{measured.cores} worker{'s' * (measured.cores > 1)}"
    yield f"pympipool on {measured.host}: backend {measured.backend!r}, {measured.cores} cores"
    yield ""
    yield from _rows("Starting", _start_rows(measured, all_workers))
    yield from _rows("Calls that do nothing", _call_rows(measured, all_workers))
    yield from _rows(f"Values to a worker and back ({measured.kind})", _echo_rows(measured))
    if measured.mpi:
        yield from _rows("Functions of several MPI ranks that do nothing", _mpi_rows(measured))
    yield from _length_bars(measured)
    yield from _speed_up_bars(measured)


def format_advice(sentences: Iterable[str]) -> Iterator[str]:
    """Yield the lines of the advice."""
    yield "What to set"
    for sentence in sentences:
        yield wrap("  * ", sentence)


def _rows(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield title
    for label, text in rows:
        yield f"  {label:{LABEL}} {text}"
    yield ""


def _start_rows(measured: Measured, all_workers: str) -> Iterator[tuple[str, str]]:
    yield "1 worker, first result", format_seconds(measured.first_s)
    yield f"{all_workers}, all have answered", format_seconds(measured.all_s)


def _call_rows(measured: Measured, all_workers: str) -> Iterator[tuple[str, str]]:
    trip = f"{format_seconds(measured.trip_s)}, p99 {format_seconds(measured.trip_p99_s)}"
    yield "round trip, block_allocation=True", trip
    yield "round trip, a process for each call", format_seconds(measured.alone_s)
    for workers, rate in sorted(measured.rates.items()):
        yield f"submit, {workers} worker{'s' * (workers > 1)}", format_rate(rate)
    yield f"map, {all_workers}", format_rate(measured.map_rate)
    yield f"map with chunksize={CHUNKSIZE}, {all_workers}", format_rate(measured.chunked_rate)


def _echo_rows(measured: Measured) -> Iterator[tuple[str, str]]:
    for size_bytes, taken_s in measured.echoes_s.items():
        yield format_bytes(size_bytes), f"{format_seconds(taken_s):8}  {format_bytes(2 * size_bytes / taken_s)}/s"


def _mpi_rows(measured: Measured) -> Iterator[tuple[str, str]]:
    for found in measured.mpi:
        yield f"{found.ranks} ranks, block_allocation=True", format_seconds(found.trip_s)
        yield f"{found.ranks} ranks, MPI started for each call", format_seconds(found.alone_s)


# ---- bars ----


def _length_bars(measured: Measured) -> Iterator[str]:
    yield f"Share of the time of {measured.cores} cores that is spent inside calls"
    for length in measured.lengths:
        modes = (
            ("map", length.mapped),
            ("submit, block_allocation=True", length.block),
            ("submit, a process for each call", length.alone),
        )
        for i, (mode, share) in enumerate(modes):
            begin = f"calls of {format_seconds(length.call_s)}" if i == 0 else ""
            yield f"  {begin:15} {mode:32} {bar(share)} {share:4.0%}"
    yield ""


def _speed_up_bars(measured: Measured) -> Iterator[str]:
    if measured.cores == 1:
        return
    yield "Speed with more workers, for calls that compute"
    for workers, speed_up in measured.speed_ups.items():
        yield f"  {workers:5} worker{'s' if workers > 1 else ' '} {'':34} {bar(speed_up / measured.cores)} {speed_up:.1f} ×"
    yield ""


def bar(share: float, encoding: str | None = None) -> str:
    """Draw a bar for a share, in characters that the terminal can show.

    Args:
        share: 0 to 1; values outside are clipped.
        encoding: Encoding of the terminal; default: encoding of the standard output.

    Examples:
        >>> bar(0.5, "ascii")
        '##################                  '
        >>> len(bar(0.3, "utf-8"))
        36
    """
    eighths = round(8 * BAR * min(max(share, 0.0), 1.0))
    try:
        EIGHTHS.encode(encoding or sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return ("#" * round(eighths / 8)).ljust(BAR)
    part = EIGHTHS[eighths % 8] if eighths % 8 else ""
    return ("█" * (eighths // 8) + part).ljust(BAR)
