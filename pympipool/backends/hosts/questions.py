"""Asks hosts what they have, before an executor uses them: so a host that cannot be used is told at once, with the reason."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple

from pympipool._util import subprocesses
from pympipool.backends.hosts import remote_program
from pympipool.backends.hosts.remote_start import ANSWER
from pympipool.backends.hosts.shells import Direct, Shell, is_this_host
from pympipool.errors import WorkerStartError
from pympipool.resources import Host

ANSWER_TIMEOUT_S = 30.0
"""Seconds that a host may take to answer; usually it takes half a second."""


class Answer(NamedTuple):
    """What a host has.

    Attributes:
        cores, gpus: The numbers of cores and devices that a process of the user may use there.
        machine: What this machine differs by from all others.
    """

    cores: int
    gpus: int
    machine: str


def ask(hosts: Sequence[Host], shell: Shell) -> dict[str, Answer]:
    """Return the answers of all hosts, by name.

    Raises:
        WorkerStartError: Hosts cannot be used; tells why each of them cannot.
    """
    asked: dict[str, _Question] = {}
    deadline = monotonic() + ANSWER_TIMEOUT_S
    try:
        for host in hosts:
            asked[host.name] = _Question(host.name, Direct() if is_this_host(host.name) else shell)
        answers: dict[str, Answer | str] = {name: question.answer(deadline) for name, question in asked.items()}
    finally:
        for question in asked.values():
            question.close()
    problems = [answer for answer in answers.values() if isinstance(answer, str)]
    if problems:
        raise WorkerStartError("; ".join(problems) + ". Mend it, or leave the host out of hosts")
    found = {name: answer for name, answer in answers.items() if isinstance(answer, Answer)}
    _check_machines(found)
    return found


def _check_machines(answers: dict[str, Answer]) -> None:
    """Raise WorkerStartError if two names are those of one machine, whose cores would count twice."""
    names: dict[str, str] = {}
    for name, answer in answers.items():
        other = names.setdefault(answer.machine, name)
        if other != name:
            raise WorkerStartError(
                f"hosts has {other!r} and {name!r}, which are the same machine: leave one of them out"
            )


class _Question:
    """The program that asks one host."""

    def __init__(self, host: str, shell: Shell) -> None:
        self._host, self._shell = host, shell
        self._process: subprocess.Popen[Any] | None = None
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYMPIPOOL_")}
        program = remote_program.program_input(environment, name=host, slots=None, is_question=True)
        with program, contextlib.suppress(OSError):
            self._process = subprocesses.Popen(
                shell.command(host, remote_program.command(environment)),
                stdin=program,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )

    def answer(self, deadline_s: float) -> Answer | str:
        """Wait for the answer; return why there is none otherwise."""
        if self._process is None:
            return f"{self._shell.name} cannot be started"
        try:
            stdout, stderr = self._process.communicate(timeout=max(deadline_s - monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            return f"host {self._host} has not answered within {ANSWER_TIMEOUT_S:g} s"
        for line in stdout.splitlines():
            if line.startswith(ANSWER):
                return Answer(**json.loads(line.removeprefix(ANSWER)))
        lines = [line for line in stderr.splitlines() if line.strip()]
        reason = self._shell.failure_reason(self._host, self._process.returncode, lines)
        return reason if not lines or lines[-1] in reason else f"{reason}: {lines[-1]}"

    def close(self) -> None:
        """End the program if it still runs."""
        if self._process is None:
            return
        if self._process.poll() is None:
            subprocesses.end(self._process)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
