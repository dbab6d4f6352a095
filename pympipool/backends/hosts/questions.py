"""Asks hosts what they have, before an executor uses them: so a host that cannot be used is told at once, with the reason."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import threading
from collections.abc import Collection, Sequence
from time import monotonic
from typing import IO, Any, NamedTuple

from pympipool._util import subprocesses
from pympipool._util.service_threads import ServiceThread
from pympipool.backends.hosts import remote_program
from pympipool.backends.hosts.remote_start import ANSWER
from pympipool.backends.hosts.shells import Direct, Shell, is_this_host
from pympipool.errors import WorkerStartError
from pympipool.resources import Host

ANSWER_TIMEOUT_S = 30.0
"""Seconds that a host may take to answer; usually it takes half a second."""

_STOP_CHECK_S = 0.1
"""Seconds after which it is noticed, at most, that no thread waits for answers any more."""

_EXIT_TIMEOUT_S = 5.0
"""Seconds that the program that asks may take to end after its output has ended; usually it takes milliseconds."""

_OUTPUT_BYTES = 1 << 16
"""What is kept of the output of a host, whose login may print without end."""


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

    A thread of its own asks: Ctrl-C in the main thread could lose a program that has just been started.

    Raises:
        WorkerStartError: Hosts cannot be used; tells why each of them cannot.
    """
    answers: dict[str, Answer | str] = {}
    is_stopped = threading.Event()
    errors: list[BaseException] = []
    ended: list[bool] = []
    bell = threading.Lock()  # `join` believes after Ctrl-C that the thread has ended
    bell.acquire()

    def ask_here() -> None:
        try:
            answers.update(_ask_all(hosts, shell, is_stopped))
        except BaseException as error:  # the caller gets it
            errors.append(error)
        finally:
            ended.append(True)
            bell.release()

    thread = ServiceThread("pympipool_hosts", ask_here, may_wait=True)
    try:
        thread.start()
        bell.acquire()
    except BaseException:
        is_stopped.set()
        while not thread.revoke() and not ended:  # this Ctrl-C may have come just after the bell was rung
            bell.acquire(timeout=_STOP_CHECK_S)
        raise
    if errors:
        raise errors.pop()
    problems = [answer for answer in answers.values() if isinstance(answer, str)]
    if problems:
        raise WorkerStartError("; ".join(problems) + ". Mend it, or leave the host out of hosts")
    found = {name: answer for name, answer in answers.items() if isinstance(answer, Answer)}
    _check_machines(found)
    return found


def _ask_all(hosts: Sequence[Host], shell: Shell, is_stopped: threading.Event) -> dict[str, Answer | str]:
    """Return the answer of each host, or why there is none."""
    asked: dict[str, _Question] = {}
    deadline = monotonic() + ANSWER_TIMEOUT_S
    try:
        for host in hosts:
            if not is_stopped.is_set():
                asked[host.name] = _Question(host.name, Direct() if is_this_host(host.name) else shell)
        _read_answers(asked.values(), deadline, is_stopped)
        return {} if is_stopped.is_set() else {name: question.answer() for name, question in asked.items()}
    finally:
        for question in asked.values():
            question.close()


def _read_answers(questions: Collection[_Question], deadline_s: float, is_stopped: threading.Event) -> None:
    """Read what all hosts print, until each has answered or has ended its output, or the time is over."""
    with selectors.DefaultSelector() as selector:
        for question in questions:
            for pipe in question.pipes:
                selector.register(pipe, selectors.EVENT_READ, question)
        open_pipes = selector.get_map()
        while open_pipes and not is_stopped.is_set() and (left_s := deadline_s - monotonic()) > 0:
            for key, _ in selector.select(min(left_s, _STOP_CHECK_S)):
                if key.fileobj in open_pipes and not key.data.read(key.fileobj):
                    selector.unregister(key.fileobj)
                if key.data.line is not None:  # a process that the login has started may keep the pipes open
                    for pipe in key.data.pipes:
                        if pipe in open_pipes:
                            selector.unregister(pipe)
        for key in open_pipes.values():
            key.data.is_late = True


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
    """The program that asks one host.

    Attributes:
        line: The line that answers; None: there is none yet.
        pipes: What the program prints comes from these.
        is_late: True if it had not ended when the time was over.
    """

    def __init__(self, host: str, shell: Shell) -> None:
        self._host, self._shell = host, shell
        self.line: str | None = None
        self.pipes: tuple[IO[bytes], ...] = ()
        self.is_late = False
        self._process: subprocess.Popen[Any] | None = None
        self._error: OSError | None = None
        self._stdout = self._stderr = b""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYMPIPOOL_")}
        program = remote_program.program_input(environment, name=host, slots=None, is_question=True)
        try:
            with program:
                self._process = subprocesses.Popen(
                    shell.command(host, remote_program.command(environment)),
                    stdin=program,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,
                )
        except OSError as error:
            self._error = error
        else:
            self.pipes = tuple(filter(None, (self._process.stdout, self._process.stderr)))

    def read(self, pipe: IO[bytes]) -> bool:
        """Read from a pipe that has something; return False at its end."""
        data = pipe.read(_OUTPUT_BYTES)
        if pipe is self.pipes[1]:
            self._stderr = (self._stderr + data)[-_OUTPUT_BYTES:]
            return bool(data)
        self._stdout = (self._stdout + data)[-2 * _OUTPUT_BYTES :]
        _, found, rest = self._stdout.partition(ANSWER.encode())
        if found and b"\n" in rest:
            self.line = rest.partition(b"\n")[0].decode()
        return bool(data)

    def answer(self) -> Answer | str:
        """Return the answer that was read; if there is none, the reason."""
        if self._process is None:
            return f"{self._shell.name} cannot be started for host {self._host} ({self._error})"
        if self.line is not None:
            return Answer(**json.loads(self.line))
        lines = [line for line in self._stderr.decode(errors="replace").splitlines() if line.strip()]
        last_line = f": {lines[-1]}" if lines else ""
        try:
            exit_code = self._process.wait(0 if self.is_late else _EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            try_it = f"{last_line}; try `ssh {self._host} true`"
            return f"host {self._host} has not answered within {ANSWER_TIMEOUT_S:g} s{try_it}"
        reason = self._shell.failure_reason(self._host, exit_code, lines)
        return reason if not lines or lines[-1] in reason else reason + last_line

    def close(self) -> None:
        """End the program if it still runs."""
        if self._process is None:
            return
        if self._process.poll() is None:
            subprocesses.end(self._process)
        for pipe in self.pipes:
            pipe.close()
