"""`pympipool check`: tries out a backend within a minute, and says in words what works, what does not, and what to do."""

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
from pympipool.cli.text import listed, wrapped
from pympipool.diagnostics.environment import probe
from pympipool.errors import WorkerStartError

HELP = "try out a backend: the first thing to run on a new machine"

CORES_MOST = 16
"""How many cores are tried unless the user says how many: enough to see that they work, and started within seconds."""

CORES_OUTSIDE = 2
"""How many are asked for where a scheduler is there, but this script is in none of its jobs."""

STEP_LIMIT_S = 60.0

BETWEEN_STEPS_S = 30.0
"""How long it may take besides to see that a step has left nothing, and to end what it has left."""

IN_QUEUE = (
    "it may wait in the scheduler's queue: see `squeue --me` (or `flux jobs`), try again inside a job, or wait longer:"
    " --limit 600"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `pympipool check`."""
    names = ", ".join(step.name for step in STEPS)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"try only these of: {names}; default: all")
    parser.add_argument("--backend", default="auto", help="where workers run, as for Executor; default: auto")
    parser.add_argument(
        "--cores",
        type=_cores,
        metavar="N",
        help=f"how many to use; default: those that may be used, at most {CORES_MOST}",
    )
    parser.add_argument(
        "--limit", type=_seconds, default=STEP_LIMIT_S, metavar="S", help="seconds of each step; default: %(default)g"
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
    """Tries out a backend; 0 when all works, 1 when something does not, 2 when it is not to be understood what to try."""
    try:
        steps = _named(options.steps)
        backend = make_backend(options.backend)
    except (ValueError, TypeError) as error:
        print(f"pympipool check: {error}", file=sys.stderr)
        return 2
    except WorkerStartError as error:
        print(wrapped("Nothing can be tried: ", str(error)))
        return 1
    steps = steps or [step for step in STEPS if step.is_for(backend.name)]
    # Whatever hangs in this process, be it in C: it ends. Each step has a limit of its own besides.
    faulthandler.dump_traceback_later((options.limit + BETWEEN_STEPS_S) * len(steps), exit=True)
    try:
        return _try_all(steps, backend.name, options.cores or _default_cores(backend), options)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _named(names: Sequence[str]) -> list[Step]:
    """The steps of these names.

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
        return min(backend.available_cores(), CORES_MOST)
    except ValueError:  # it cannot know: this script runs in none of the scheduler's jobs
        return CORES_OUTSIDE


def _try_all(steps: Sequence[Step], backend: str, cores: int, options: argparse.Namespace) -> int:
    chosen = ", which is what 'auto' takes," if options.backend == "auto" else ""
    print(wrapped("", f"Trying backend {backend!r}{chosen} with {cores} core{'s' * (cores > 1)}."), end="\n\n")
    start, counts = time.monotonic(), Counter[Outcome]()
    for step in steps:
        if sys.stdout.isatty():
            print(_beginning("...") + step.title, end="\r", flush=True)
        verdict = try_step(step, backend, cores, options.limit)
        counts[verdict.outcome] += 1
        _show(step, verdict, backend)
        if step is STEPS[0] and verdict.outcome is Outcome.FAILS:
            print(wrapped(_beginning(""), "Everything else builds on this: the other steps were not tried."))
            break
    print("\n" + _summary(counts, len(steps), time.monotonic() - start))
    must_work = Outcome.LACKS if options.steps else Outcome.FAILS  # who names a step wants it
    failed = counts[Outcome.FAILS] + counts[must_work] > 0
    if failed:
        print("\n".join(_what_is_wrong()))
    return int(failed)


def _what_is_wrong() -> Iterator[str]:
    """What `pympipool info` finds, and what may be the cause."""
    wrong = [problem for problem in probe().problems if problem.serious]
    if wrong:
        yield "\nWhat is wrong here, as `pympipool info` finds:"
        yield from listed(wrong)


def _show(step: Step, verdict: Verdict, backend: str) -> None:
    word = verdict.outcome.value.upper() if verdict.outcome is Outcome.FAILS else verdict.outcome.value
    first, *more = verdict.said.splitlines()
    print(wrapped(_beginning(word), f"{step.title}: {first}"), flush=True)
    if verdict.outcome is Outcome.FAILS:
        for line in more or verdict.last_lines:
            print(f"{_beginning('')}  | {line.rstrip()}")
        in_queue = verdict.timed_out and backend != "mpi"
        print(wrapped(f"{_beginning('')}-> ", IN_QUEUE if in_queue else step.remedy), flush=True)


def _beginning(word: str) -> str:
    return f"  {word:8}"


def _summary(counts: Counter[Outcome], steps: int, seconds: float) -> str:
    if counts[Outcome.WORKS] == steps:
        return f"Everything works ({seconds:.0f} s)."
    said = [f"{counts[Outcome.WORKS]} of {steps} steps work ({seconds:.0f} s)"]
    if counts[Outcome.FAILS]:
        said.append(f"{counts[Outcome.FAILS]} failed; `pympipool info` shows what is found here")
    if counts[Outcome.LACKS]:
        said.append(f"{counts[Outcome.LACKS]} could not be tried for want of something")
    return wrapped("", "; ".join(said) + ".")
