"""Tries one step: `python -m pympipool.cli.selftest STEP BACKEND CORES DESCRIPTOR`.

Writes to the descriptor what it is doing, and in the end what came out: a JSON object in a line each.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from concurrent.futures import BrokenExecutor

from pympipool.cli.selftest.processes import MARK, job_names, marked
from pympipool.cli.selftest.steps import STEPS, CheckFailed, Target, Unavailable, kill_this_script


def main(name: str, backend: str, cores: str, descriptor: str) -> None:
    """Tries the step of this name.

    Args:
        descriptor: Where to write to.
    """
    os.set_inheritable(int(descriptor), False)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the supervisor's; it is ignored in a shell's background
    step = next(step for step in STEPS if step.name == name)
    with open(int(descriptor), "w", buffering=1) as reports:

        def report(**words: object) -> None:
            print(json.dumps(words), file=reports)

        try:
            said = step.attempt(Target(backend, int(cores), lambda what: report(doing=what)))
        except Unavailable as lacking:
            report(outcome="lacks", said=str(lacking))
        except Exception as error:
            if not isinstance(error, (BrokenExecutor, CheckFailed)):  # these say all that there is to say
                traceback.print_exc()
            report(outcome="fails", said=f"{type(error).__name__}: {error}")
        else:
            if step.name == "end":
                report(jobs=sorted(job_names(marked(os.environ[MARK]).values())))
            report(outcome="works", said=said)
            if step.name == "end":
                kill_this_script()


if __name__ == "__main__":
    main(*sys.argv[1:])
