"""Reads the file that `pympipool.trace` has written back into a `Timeline`."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

from pympipool.diagnostics.tracing.export import FORMAT
from pympipool.diagnostics.tracing.timeline import Call, ExecutorPart, Timeline, Worker

_GZIP = b"\x1f\x8b"


def read(path: str | os.PathLike[str]) -> Timeline:
    """The trace in a file, compressed or not.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no trace of pympipool, or one of a later version.
    """
    data = Path(path).read_bytes()
    try:
        content = json.loads(gzip.decompress(data) if data.startswith(_GZIP) else data)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{str(path)!r} is no trace: {error}. A trace is what `with pympipool.trace(...)` writes"
        ) from error
    rest = content.get("pympipool") if isinstance(content, dict) else None
    if not isinstance(rest, dict) or "traceEvents" not in content:
        raise ValueError(
            f"{str(path)!r} is no trace of pympipool: write one with `with pympipool.trace({str(path)!r}):`"
        )
    if rest.get("format") != FORMAT:
        raise ValueError(
            f"{str(path)!r} has format {rest.get('format')!r}, written by pympipool {rest.get('version')}; this version reads"
            f" format {FORMAT}: install that one to read it"
        )
    try:
        return _timeline(rest, content["traceEvents"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {type(error).__name__}: {error}") from error


def _timeline(rest: dict[str, Any], events: list[dict[str, Any]]) -> Timeline:
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
        rest["begun"],
        rest["duration_ns"],
        rest["host"],
        rest["pid"],
        [ExecutorPart(**executor) for executor in rest["executors"]],
        [_worker(worker) for worker in rest["workers"]],
        [calls[number] for number in sorted(calls)],
        rest["dropped"],
    )


def _worker(told: dict[str, Any]) -> Worker:
    return Worker(**{**told, **{name: tuple(tuple(one) for one in told[name]) for name in ("ranks", "clocks")}})


def _ns(us: float) -> int:
    return round(us * 1000)


def _end_ns(event: dict[str, Any]) -> int:
    return _ns(event["ts"]) + _ns(event["dur"])


def _call(event: dict[str, Any]) -> Call:
    args = event["args"]

    def told(name: str) -> int | None:
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
        outcome=args["outcome"],
        submitted_ns=_ns(args["submitted_us"]),
        ready_ns=told("ready_us"),
        sent_ns=told("sent_us"),
        started_ns=_ns(event["ts"]) if has_run else None,
        ended_ns=_end_ns(event) if has_ended else None,
        received_ns=told("received_us"),
        inputs=None if inputs is None else tuple(inputs),
    )
