"""Try one step: `python -m pympipool.cli.selftest STEP BACKEND CORES`.

It writes JSON objects to stdout, each in a line and after `report_start`: what it is doing, warnings of pympipool, and at the end
the outcome. What else the script and its workers print goes to stderr.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor

from pympipool.cli.selftest.processes import MARK, job_names, marked_processes, report_start
from pympipool.cli.selftest.steps import STEPS, CheckFailed, Outcome, Target, Unavailable, kill_this_script


class _Warnings(logging.Handler):
    """Reports the warnings of pympipool: why a step waits."""

    def __init__(self, report: Callable[..., None]) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report(warning=record.getMessage())


def main(name: str, backend: str, cores: str) -> None:
    """Try a step.

    Args:
        name: Name of the step.
        backend: Name of the backend.
        cores: Number of cores.
    """
    descriptor = os.dup(1)  # which nothing that this process starts inherits
    os.dup2(2, 1)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # the supervisor sends it; shells ignore it in background jobs
    step = next(step for step in STEPS if step.name == name)
    mark = os.environ[MARK]
    with open(descriptor, "w", buffering=1, encoding="utf-8") as reports:

        def report(**data: object) -> None:
            print(report_start(mark) + json.dumps(data), file=reports)

        logging.getLogger("pympipool").addHandler(_Warnings(report))
        try:
            message = step.attempt(Target(backend, int(cores), lambda activity: report(activity=activity)))
        except Unavailable as error:
            report(outcome=Outcome.SKIPPED.value, message=str(error))
        except Exception as error:
            if not isinstance(error, (BrokenExecutor, CheckFailed)):  # the messages of these say everything
                traceback.print_exc()
            report(outcome=Outcome.FAILS.value, message=f"{type(error).__name__}: {error}")
        else:
            if step.name == "end":
                report(jobs=sorted(job_names(marked_processes(mark).values())))
            report(outcome=Outcome.WORKS.value, message=message)
            if step.name == "end":
                kill_this_script()


if __name__ == "__main__":
    main(*sys.argv[1:])
