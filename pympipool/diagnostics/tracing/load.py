"""Load the file that `pympipool.trace` has written into a `Timeline`."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

from pympipool.diagnostics.tracing.export import FORMAT
from pympipool.diagnostics.tracing.timeline import ERROR, LOST, Call, ExecutorRecord, Timeline, Worker

_GZIP = b"\x1f\x8b"

_RENAMED_KEYS = {
    "begun": "start_time",
    "length_ns": "duration_ns",
    "shift_ns": "clock_offset_ns",
    "doubt_ns": "clock_uncertainty_ns",
    "about": "info",
}
"""Keys of format 1, with their present names."""

_RENAMED_OUTCOMES = {"raised": ERROR, "failed": LOST}
"""Outcomes of format 1, with their present names."""


def read(path: str | os.PathLike[str]) -> Timeline:
    """Read a trace from a file, compressed or not.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not a trace of pympipool, or was written by a later version.
    """
    data = Path(path).read_bytes()
    try:
        content = json.loads(gzip.decompress(data) if data.startswith(_GZIP) else data)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{str(path)!r} is no trace: {error}. A trace is what `with pympipool.trace(...)` writes"
        ) from error
    header = content.get("pympipool") if isinstance(content, dict) else None
    if not isinstance(header, dict) or "traceEvents" not in content:
        raise ValueError(
            f"{str(path)!r} is no trace of pympipool: write one with `with pympipool.trace({str(path)!r}):`"
        )
    if header.get("format") not in range(1, FORMAT + 1):
        raise ValueError(
            f"{str(path)!r} has format {header.get('format')!r}, written by pympipool {header.get('version')}; this version reads"
            f" formats up to {FORMAT}: install that one to read it"
        )
    try:
        return _timeline(_renamed(header), content["traceEvents"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {type(error).__name__}: {error}") from error


def _timeline(header: dict[str, Any], events: list[dict[str, Any]]) -> Timeline:
    calls: dict[int, Call] = {}
    for event in events:
        match event.get("cat"):
            case "call":
                call = _call(event)
                calls[call.number] = call
            case "item":
                calls[event["args"]["call"]].items_ns += (_end_ns(event),)
            case "rank":
                calls[event["args"]["call"]].ranks_ns += ((_ns(event["ts"]), _end_ns(event)),)
    return Timeline(
        header["start_time"],
        header["duration_ns"],
        header["host"],
        header["pid"],
        [ExecutorRecord(**_renamed(executor)) for executor in header["executors"]],
        [_worker(worker) for worker in header["workers"]],
        [calls[number] for number in sorted(calls)],
        header["dropped"],
        header.get("shared_bytes", 0),  # traces of earlier versions have none
    )


def _renamed(header: dict[str, Any]) -> dict[str, Any]:
    """Return the header, or one of its executors or workers, with the present names of its keys."""
    return {_RENAMED_KEYS.get(key, key): value for key, value in header.items()}


def _worker(data: dict[str, Any]) -> Worker:
    pairs = {name: tuple(tuple(pair) for pair in data[name]) for name in ("ranks", "clocks")}
    return Worker(**{**_renamed(data), **pairs})


def _ns(us: float) -> int:
    return round(us * 1000)


def _end_ns(event: dict[str, Any]) -> int:
    return _ns(event["ts"]) + _ns(event["dur"])


def _call(event: dict[str, Any]) -> Call:
    args = event["args"]

    def optional_ns(name: str) -> int | None:
        return _ns(args[name]) if name in args else None

    has_run = event["ph"] in ("X", "B")
    has_ended = event["ph"] == "X" and "ended_us" not in args
    inputs = args.get("inputs")
    return Call(
        number=args["call"],
        name=event["name"],
        executor=event["pid"],
        worker=args["worker"],
        size=args["calls"],
        outcome=_RENAMED_OUTCOMES.get(args["outcome"], args["outcome"]),
        submitted_ns=_ns(args["submitted_us"]),
        ready_ns=optional_ns("ready_us"),
        sent_ns=optional_ns("sent_us"),
        started_ns=_ns(event["ts"]) if has_run else None,
        ended_ns=_end_ns(event) if has_ended else None,
        received_ns=optional_ns("received_us"),
        inputs=None if inputs is None else tuple(inputs),
        argument_bytes=args.get("argument_bytes"),
        result_bytes=args.get("result_bytes"),
        imports_ns={package: _ns(time_us) for package, time_us in args.get("imports_us", {}).items()},
    )
