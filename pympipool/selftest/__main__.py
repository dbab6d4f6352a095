"""Tries one step: `python -m pympipool.selftest STEP BACKEND CORES DESCRIPTOR`.

Writes to the descriptor what it is doing, and in the end what came out: a JSON object in a line each.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from concurrent.futures import BrokenExecutor
from pathlib import Path

from pympipool.selftest.steps import STEPS, Lacking, Place, Unexpected, kill_this_script


def main(name: str, backend: str, cores: str, descriptor: str) -> None:
    """Tries the step of this name.

    Args:
        descriptor: Where to write to.
    """
    os.set_inheritable(int(descriptor), False)
    step = next(step for step in STEPS if step.name == name)
    with open(int(descriptor), "w", buffering=1) as reports:

        def report(**words: object) -> None:
            print(json.dumps(words), file=reports)

        try:
            said = step.attempt(Place(backend, int(cores), lambda what: report(doing=what)))
        except Lacking as lacking:
            report(outcome="lacks", said=str(lacking))
        except Exception as error:
            if not isinstance(error, (BrokenExecutor, Unexpected)):  # these say all that there is to say
                traceback.print_exc()
            report(outcome="fails", said=f"{type(error).__name__}: {error}")
        else:
            if step.name == "end":
                report(jobs=scheduler_jobs())
            report(outcome="works", said=said)
            if step.name == "end":
                kill_this_script()


def scheduler_jobs() -> list[str]:
    """Names of what this process has asked SLURM for: they are in the command lines of its children."""
    names = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
            if f"PPid:\t{os.getpid()}\n" in (folder / "status").read_text():
                names += [word.partition("=")[2] for word in words if word.startswith("--job-name=pympipool-")]
        except OSError:  # it has ended meanwhile
            continue
    return names


if __name__ == "__main__":
    main(*sys.argv[1:])
