"""`pympipool join`: let this host, or those of this job, work for an executor of a script that runs elsewhere.

script: Executor.write_join_file("run.json") ──> file ──> here: pympipool join run.json ──> an agent, until the executor ends
in a job of SLURM, on each of its hosts: srun --ntasks-per-node=1 pympipool join run.json
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

HELP = "run workers on this host for an executor elsewhere (Executor.write_join_file)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `pympipool join`."""
    parser.add_argument("file", help="what Executor.write_join_file has written; only its owner can read it")
    parser.add_argument("--cores", type=_positive, help="cores for workers; default: those that this process may use")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def run(options: argparse.Namespace) -> int:
    """Become an agent of the executor, until that ends. Return 1 if the file cannot be used."""
    from pympipool.backends.hosts import join_file

    try:
        settings = join_file.read(options.file)
    except (OSError, ValueError) as error:
        print(
            f"pympipool join: {error}; write it with Executor.write_join_file, and while that executor runs",
            file=sys.stderr,
        )
        return 1
    return _become_agent(join_file.settings_here(settings, os.environ, options.cores))


def _become_agent(settings: Mapping[str, Any]) -> NoReturn:
    from pympipool.backends.hosts import remote_program

    with remote_program.with_source(settings) as program:
        os.dup2(program.fileno(), 0)
    command = remote_program.command(settings["environment"])
    os.execvp(command[0], command)  # libraries and Python read some variables when a process starts
