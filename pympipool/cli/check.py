"""`pympipool check`: try out a backend within a minute, and print what works, what does not, and what to do."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from pympipool._util.reprs import did_you_mean
from pympipool.backends.base import Backend
from pympipool.backends.registry import make_backend
from pympipool.cli.selftest import STEPS, Outcome, Step, Verdict, try_step
from pympipool.cli.text import format_issues, wrap
from pympipool.diagnostics.environment import probe
from pympipool.errors import WorkerStartError

HELP = "try out a backend: the first thing to run on a new machine"

CORES_MAX = 16
"""Maximum number of cores to try by default: enough to see that they work, and few enough to start within seconds."""

CORES_OUTSIDE_JOB = 2
"""Number of cores to try by default with a scheduler, if this process runs in none of its jobs."""

STEP_TIMEOUT_S = 60.0

CLEANUP_ALLOWANCE_S = 30.0
"""Time added to the timeout of each step, to find the processes that it has left behind, and to end them."""

IN_QUEUE = (
    "it may be waiting in the scheduler's queue: see `squeue --me` (or `flux jobs`), try again inside a job, or wait longer:"
    " --limit 600"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `pympipool check`."""
    names = ", ".join(step.name for step in STEPS)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"try only these of: {names}; default: all")
    parser.add_argument("--backend", default="auto", help="where workers run, as for Executor; default: auto")
    parser.add_argument(
        "--cores",
        type=_cores,
        metavar="N",
        help=f"number of cores; default: all that may be used, at most {CORES_MAX}",
    )
    parser.add_argument(
        "--limit",
        type=_seconds,
        default=STEP_TIMEOUT_S,
        metavar="S",
        help="timeout of each step in seconds; default: %(default)g",
    )


def _cores(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text!r}; it must be a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"it is {text!r}; it must be a positive number of seconds")


def run(options: argparse.Namespace) -> int:
    """Try out a backend. Return 0 if everything works, 1 if something does not, 2 if the options are wrong."""
    try:
        steps = _named(options.steps)
        backend = make_backend(options.backend)
    except (ValueError, TypeError) as error:
        print(f"pympipool check: {error}", file=sys.stderr)
        return 2
    except WorkerStartError as error:
        print(wrap("Nothing can be tried: ", str(error)))
        return 1
    steps = steps or [step for step in STEPS if step.is_for(backend.name)]
    # Ends this process even if it hangs in C. Each step also has a timeout of its own.
    faulthandler.dump_traceback_later((options.limit + CLEANUP_ALLOWANCE_S) * len(steps), exit=True)
    try:
        return _try_all(steps, backend.name, options.cores or _default_cores(backend), options)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _named(names: Sequence[str]) -> list[Step]:
    """Return the steps of these names.

    Raises:
        ValueError: There is no such step.
    """
    known = {step.name: step for step in STEPS}
    for name in names:
        if name not in known:
            meant = did_you_mean(name, known) or "."
            raise ValueError(f"there is no step {name!r}{meant} There are: {', '.join(known)}")
    return [step for step in STEPS if step.name in names]


def _default_cores(backend: Backend) -> int:
    try:
        return min(backend.available_cores(), CORES_MAX)
    except ValueError:  # it is unknown, because this process runs in none of the scheduler's jobs
        return CORES_OUTSIDE_JOB


def _try_all(steps: Sequence[Step], backend: str, cores: int, options: argparse.Namespace) -> int:
    chosen = ", which is what 'auto' takes," if options.backend == "auto" else ""
    print(wrap("", f"Trying backend {backend!r}{chosen} with {cores} core{'s' * (cores > 1)}."), end="\n\n")
    start, counts, missing = time.monotonic(), Counter[Outcome](), list[str]()
    for step in steps:
        if sys.stdout.isatty():
            print(_label("...") + step.title, end="\r", flush=True)
        verdict = try_step(step, backend, cores, options.limit)
        counts[verdict.outcome] += 1
        if verdict.outcome is Outcome.SKIPPED:
            missing.append(verdict.message.partition(":")[0])  # what follows is the remedy
        _print_verdict(step, verdict, backend)
        if step is STEPS[0] and verdict.outcome is Outcome.FAILS:
            print(wrap(_label(""), "Everything else depends on this: the other steps were not tried."))
            break
    print("\n" + _summary(counts, missing, len(steps), time.monotonic() - start))
    must_work = Outcome.SKIPPED if options.steps else Outcome.FAILS  # a step that the user names must work
    failed = counts[Outcome.FAILS] + counts[must_work] > 0
    if failed:
        print("\n".join(_serious_issues()))
    return int(failed)


def _serious_issues() -> Iterator[str]:
    """Yield what is wrong according to `pympipool info`, which may be the cause."""
    wrong = [issue for issue in probe().issues if issue.serious]
    if wrong:
        yield "\nWhat is wrong here, as `pympipool info` finds:"
        yield from format_issues(wrong)


def _print_verdict(step: Step, verdict: Verdict, backend: str) -> None:
    word = verdict.outcome.value.upper() if verdict.outcome is Outcome.FAILS else verdict.outcome.value
    first, *more = verdict.message.splitlines()
    print(wrap(_label(word), f"{step.title}: {first}"), flush=True)
    if verdict.outcome is Outcome.FAILS:
        for line in more or verdict.last_lines:
            print(f"{_label('')}  | {line.rstrip()}")
        in_queue = verdict.timed_out and backend != "mpi"
        print(wrap(f"{_label('')}-> ", IN_QUEUE if in_queue else step.remedy), flush=True)


def _label(word: str) -> str:
    return f"  {word:8}"


def _summary(counts: Counter[Outcome], missing: Sequence[str], steps: int, seconds: float) -> str:
    if counts[Outcome.WORKS] == steps:
        return f"Everything works ({seconds:.0f} s)."
    parts = [f"{counts[Outcome.WORKS]} of {steps} steps work ({seconds:.0f} s)"]
    if counts[Outcome.FAILS]:
        parts.append(f"{counts[Outcome.FAILS]} failed; `pympipool info` shows what is found here")
    if missing:
        parts.append(f"{len(missing)} could not be tried: {', '.join(missing)}")
    return wrap("", "; ".join(parts) + ".")
