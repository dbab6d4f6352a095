"""Run a step of a self-test with a timeout, and end all processes that it leaves behind.

All processes that a step starts carry a mark in their environment, so that they are found even if their parents have
ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

from pympipool._util.platform import HAS_SIGNALS, SIGKILL
from pympipool.backends.slurm.job_watch import cancel_all
from pympipool.cli.selftest.processes import (
    MARK,
    SEES_PROCESSES,
    is_job_reaper,
    job_names,
    marked_processes,
    report_start,
)
from pympipool.cli.selftest.steps import Outcome, Step

EXIT_TIMEOUT_S = 10.0
"""Seconds in which all processes of a step must end after it. pympipool promises 2 s, but schedulers are slower."""

SHUTDOWN_TIMEOUT_S = 5.0
"""Seconds in which a step must close its executor after its timeout."""

LAST_LINES = 8
"""Number of lines of output that a verdict quotes."""


@dataclass(frozen=True)
class Verdict:
    """The result of a step.

    Attributes:
        outcome: Its outcome.
        message: What was seen, or what went wrong.
        seconds: Its duration.
        last_lines: The last lines that the script and its workers printed.
        timed_out: True if it had to be killed.
    """

    outcome: Outcome
    message: str
    seconds: float
    last_lines: tuple[str, ...] = ()
    timed_out: bool = False


def try_step(step: Step, backend: str, cores: int, limit_s: float) -> Verdict:
    """Try a step in a process of its own.

    Args:
        step: The step.
        backend: Name of the backend.
        cores: Number of cores to use.
        limit_s: Timeout in seconds; then the step is killed, and has failed.
    """
    mark, start = uuid.uuid4().hex, time.monotonic()
    with _scratch_file() as printed:
        try:
            reports = _run(step, backend, cores, start + limit_s, mark, printed)
            seconds = limit_s if reports["timed_out"] else time.monotonic() - start
            outcome, message = _judge(reports, seconds)
            left = _left(mark, reports.get("jobs", [])) if outcome is not Outcome.FAILS else []
        finally:
            _end(mark)
        if left:
            outcome = Outcome.FAILS
            message = f"it leaves processes behind that do not end within {EXIT_TIMEOUT_S:g} s: {', '.join(left)}"
        printed.seek(0)
        lines = [*reports["lines"], *printed.read().decode(errors="replace").splitlines()]
    return Verdict(outcome, message, seconds, tuple(lines[-LAST_LINES:]), reports["timed_out"])


def _judge(reports: dict[str, Any], seconds: float) -> tuple[Outcome, str]:
    """Return the outcome and the message of a step from its reports."""
    if "outcome" not in reports:
        end = "did not end" if reports["timed_out"] else f"ended by itself (exit code {reports['code']})"
        warning = f" ({reports['warning']})" if "warning" in reports else ""
        activity = reports.get("activity", "its script was starting")
        return Outcome.FAILS, f"it {end} after {seconds:.0f} s, while {activity}{warning}"
    outcome, message = Outcome(reports["outcome"]), reports["message"]
    if reports["timed_out"] and outcome is Outcome.WORKS:
        return Outcome.FAILS, f"it works ({message}), but then its script did not end within {seconds:.0f} s"
    if outcome is Outcome.WORKS and not SEES_PROCESSES:
        message += " (whether processes are left cannot be seen on this system)"
    return outcome, message


def _scratch_file() -> IO[bytes]:
    """Open a file for the output of a step.

    Unlike a pipe, it can be read while processes that are left behind keep it open.
    """
    try:
        return open(os.memfd_create("selftest"), "w+b")
    except (OSError, AttributeError):
        return tempfile.TemporaryFile()


def _run(step: Step, backend: str, cores: int, deadline_s: float, mark: str, printed: IO[bytes]) -> dict[str, Any]:
    """Run a step. Return its last report of each kind, "timed_out", other lines of stdout as "lines", its exit code as "code"."""
    with _scratch_file() as stdout:
        script = subprocess.Popen(
            [sys.executable, "-m", __package__, step.name, backend, str(cores)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=printed,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), MARK: mark},
        )
        size_bytes = None
        try:
            script.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            size_bytes = os.fstat(stdout.fileno()).st_size  # what it reports after a signal does not count
            if HAS_SIGNALS:  # so that the executor cancels what it has requested from a scheduler
                script.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    script.wait(SHUTDOWN_TIMEOUT_S)
        finally:
            script.kill()
            code = script.wait()
        stdout.seek(0)  # not before its end: it shares the position
        return {
            **_reports(stdout.read(-1 if size_bytes is None else size_bytes), mark),
            "timed_out": size_bytes is not None,
            "code": code,
        }


def _reports(stdout: bytes, mark: str) -> dict[str, Any]:
    """Return the last report of each kind, and as "lines" what modules have printed while the interpreter started."""
    start, lines = report_start(mark).encode(), []
    reports: dict[str, Any] = {}
    for line in stdout.splitlines(keepends=True):
        text, _, report = line.partition(start)
        if report.endswith(b"\n"):  # else it is not complete
            reports |= json.loads(report)
        if text.strip():
            lines.append(text.decode(errors="replace").rstrip())
    return {**reports, "lines": lines}


def _left(mark: str, jobs: list[str]) -> list[str]:
    """Return the processes and jobs of a step that do not end in time."""
    deadline_s = time.monotonic() + EXIT_TIMEOUT_S
    while (left := [*_described_processes(mark), *_running_jobs(jobs)]) and time.monotonic() < deadline_s:
        time.sleep(0.05)  # only children can be waited for
    return left


def _described_processes(mark: str) -> list[str]:
    return [f"process {pid} ({' '.join(command)[:60].strip()})" for pid, command in marked_processes(mark).items()]


def _running_jobs(names: list[str]) -> list[str]:
    """Return those of these jobs and steps that SLURM still has."""
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
                    timeout=EXIT_TIMEOUT_S,
                    check=False,
                ).stdout.split()
            )
    return [f"SLURM's {name}" for name in names if name in found]


def _end(mark: str) -> None:
    """End all processes and jobs that a step has left behind."""
    left = marked_processes(mark)
    _kill(pid for pid, command in left.items() if not is_job_reaper(command))
    _left(mark, [])  # the job reaper now cancels the jobs in flux's queue, and ends
    _kill(marked_processes(mark))
    for prefix in {name.rpartition("-")[0] for name in job_names(left.values())}:
        cancel_all(prefix, steps="SLURM_JOB_ID" in os.environ)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):  # the process has ended meanwhile
            os.kill(pid, SIGKILL)
