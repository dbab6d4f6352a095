"""Runs a step of a self-test: never longer than its limit, and leaves nothing of it behind.

Whatever a step starts carries a mark in its environment, so that what it leaves is found even if its parents have ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import IO, Any

from pympipool.backends.slurm.spawner import cancel
from pympipool.cli.selftest.processes import MARK, is_guard, job_names, marked
from pympipool.cli.selftest.steps import Step

GONE_S = 10.0
"""How long what a step has started may take to end after it; pympipool promises 2 s, schedulers do not."""

TIDY_UP_S = 5.0
"""How long a step that has run out of time may take to close its executor."""

LAST_LINES = 8


class Outcome(Enum):
    """What came out."""

    WORKS = "works"
    FAILS = "fails"
    LACKS = "lacks"


@dataclass(frozen=True)
class Verdict:
    """What came out of a step.

    Attributes:
        said: In words: what was seen, or what went wrong.
        last_lines: The last of what the script and its workers printed.
        timed_out: Whether it had to be killed.
    """

    outcome: Outcome
    said: str
    seconds: float
    last_lines: tuple[str, ...] = ()
    timed_out: bool = False


def try_step(step: Step, backend: str, cores: int, limit_s: float) -> Verdict:
    """Tries a step in a process of its own.

    Args:
        limit_s: Seconds that it may take; then it is killed, and has failed.
    """
    mark, start = uuid.uuid4().hex, time.monotonic()
    with _scratch_file() as printed:
        try:
            reports = _run(step, backend, cores, start + limit_s, mark, printed)
            seconds = limit_s if reports["timed_out"] else time.monotonic() - start
            outcome, said = _judge(reports, seconds)
            left = _left(mark, reports.get("jobs", [])) if outcome is not Outcome.FAILS else []
        finally:
            _end(mark)
        if left:
            outcome, said = Outcome.FAILS, f"it leaves behind what does not end within {GONE_S:g} s: {', '.join(left)}"
        printed.seek(0)
        lines = printed.read().decode(errors="replace").splitlines()[-LAST_LINES:]
    return Verdict(outcome, said, seconds, tuple(lines), reports["timed_out"])


def _judge(reports: dict[str, Any], seconds: float) -> tuple[Outcome, str]:
    """What came out, and what is to be said about it."""
    if "outcome" not in reports:
        did = "did not end" if reports["timed_out"] else f"ended by itself (exit code {reports['code']})"
        return Outcome.FAILS, f"it {did} after {seconds:.0f} s, while {reports.get('doing', 'its script was starting')}"
    outcome, said = Outcome(reports["outcome"]), reports["said"]
    if reports["timed_out"] and outcome is Outcome.WORKS:
        return Outcome.FAILS, f"it works ({said}), but then its script did not end within {seconds:.0f} s"
    return outcome, said


def _scratch_file() -> IO[bytes]:
    """A file for what the step prints: what it leaves behind may keep it open, and nobody waits for that as with a pipe."""
    try:
        return open(os.memfd_create("selftest"), "w+b")
    except (OSError, AttributeError):
        return tempfile.TemporaryFile()


def _run(step: Step, backend: str, cores: int, deadline_s: float, mark: str, printed: IO[bytes]) -> dict[str, Any]:
    """The last of what the step has reported of each kind, whether it ran out of time, and its exit code."""
    ours, theirs = os.pipe()
    try:
        script = subprocess.Popen(
            [sys.executable, "-m", __package__, step.name, backend, str(cores), str(theirs)],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), MARK: mark},
        )
    finally:
        os.close(theirs)
    reports: dict[str, Any] = {"timed_out": False}
    try:
        with open(ours, "rb") as pipe:
            for line in _lines(pipe, deadline_s):
                reports |= json.loads(line)
        script.wait(max(0.0, deadline_s - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        reports["timed_out"] = True
        script.send_signal(signal.SIGINT)  # so that the executor takes back what it has asked a scheduler for
        with contextlib.suppress(subprocess.TimeoutExpired):
            script.wait(TIDY_UP_S)
    finally:
        script.kill()
        reports["code"] = script.wait()
    return reports


def _lines(pipe: IO[bytes], deadline_s: float) -> Iterator[bytes]:
    """The whole lines that come until the pipe is closed.

    Raises:
        TimeoutError: It was not closed in time.
    """
    begun = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline_s - time.monotonic())):
            data = os.read(pipe.fileno(), 1 << 16)
            *lines, begun = (begun + data).split(b"\n")
            yield from lines
            if not data:
                return
    raise TimeoutError


def _left(mark: str, jobs: list[str]) -> list[str]:
    """What a step has started and what does not end in time."""
    deadline_s = time.monotonic() + GONE_S
    while (left := [*_described(mark), *_running_jobs(jobs)]) and time.monotonic() < deadline_s:
        time.sleep(0.05)  # who is not our child cannot be waited for
    return left


def _described(mark: str) -> list[str]:
    return [f"process {pid} ({' '.join(command)[:60].strip()})" for pid, command in marked(mark).items()]


def _running_jobs(names: list[str]) -> list[str]:
    """Those of the jobs and steps of these names that SLURM still has."""
    if not names:
        return []
    found: set[str] = set()
    for kind in ((), ("--steps",)):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            found |= set(
                subprocess.run(
                    ["squeue", "--me", "--noheader", "--format=%j", *kind],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=GONE_S,
                    check=False,
                ).stdout.split()
            )
    return [f"SLURM's {name}" for name in names if name in found]


def _end(mark: str) -> None:
    """Ends what is left of a step."""
    left = marked(mark)
    _kill(pid for pid, command in left.items() if not is_guard(command))
    _left(mark, [])  # a guard cancels now what waits in flux's queue, and ends
    _kill(marked(mark))
    for name in job_names(left.values()):
        cancel(name, os.environ.get("SLURM_JOB_ID"))


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            os.kill(pid, signal.SIGKILL)
