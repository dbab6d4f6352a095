"""External programs in workers: command lines, and the one program of a `pympipool.ShellExecutor`.

    check_output(...)          a call: runs a command line to its end

A program of a `ShellExecutor` lives as long as the executor's worker:

    start(...)                 init_function: starts the program, returns it and its feeder as arguments for all calls
    ask(text, ..., program)    a call: writes text to the program's stdin, reads lines from its stdout

The program's stderr is that of the worker, so its output reaches the user.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import select
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO, cast

from pympipool._util.platform import POLLS_PIPES

EXIT_GRACE_S = 1.0
"""Time that a program has to exit after the end of its stdin, and again after SIGTERM."""


SHORT_TEXT_MAX = 1024
"""Characters that fit into a pipe that is writable: they take at most 4096 bytes, which is PIPE_BUF."""


class StdinFeeder:
    """Writes to a program's stdin without blocking: the program may read on only once its own output has been read.

    Short texts are written at once, if the pipe is known to have room. The first text that cannot be written at once starts a
    thread, which writes that and all later ones.
    """

    def __init__(self, stdin: TextIO) -> None:
        self._stdin = stdin
        self._texts: queue.SimpleQueue[bytes] | None = None
        self._poll = select.poll() if POLLS_PIPES else None
        if self._poll is not None:
            self._poll.register(stdin, select.POLLOUT)

    def feed(self, text: str) -> None:
        """Write text, now or later. It is no error here that the program has ended: reading its answer detects that.

        Raises:
            UnicodeEncodeError: The text cannot be encoded.
        """
        data = text.encode(self._stdin.encoding, self._stdin.errors or "strict")
        if self._texts is None and len(text) <= SHORT_TEXT_MAX and self._poll is not None and self._poll.poll(0):
            self._write(data)
            return
        if self._texts is None:
            self._texts = queue.SimpleQueue()
            threading.Thread(target=self._write_all, args=(self._texts,), daemon=True).start()
        self._texts.put(data)

    def close(self) -> None:
        """Close stdin once everything has been written."""
        if self._texts is None:
            self._close()
        else:
            self._texts.put(b"")

    def _write_all(self, texts: queue.SimpleQueue[bytes]) -> None:
        while data := texts.get():
            self._write(data)
        self._close()

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # the program has ended, or stdin is closed
            self._stdin.buffer.write(data)
            self._stdin.buffer.flush()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin.close()


@dataclass(frozen=True)
class Environment:
    """The environment of a program.

    Attributes:
        base: That of the script; None: that of the worker, which a scheduler has started for the program.
        variables: Set in addition.
        assigned: Names of variables that the worker has, and the program gets.
    """

    base: Mapping[str, str] | None
    variables: Mapping[str, str]
    assigned: tuple[str, ...]

    def as_dict(self) -> dict[str, str]:
        """Return all variables, in a worker."""
        assigned = {name: os.environ[name] for name in self.assigned if name in os.environ}
        return {**(os.environ if self.base is None else self.base), **self.variables, **assigned}


def check_output(command: tuple[Any, ...], options: Mapping[str, Any], environment: Environment) -> Any:
    """Run a command line and return its output, as `subprocess.check_output` does."""
    return subprocess.check_output(*command, **{"env": environment.as_dict(), **options})


def start(command: tuple[Any, ...], options: Mapping[str, Any], environment: Environment) -> dict[str, Any]:
    """Start the program.

    Args:
        command: Positional arguments of `subprocess.Popen`.
        options: Keyword arguments of `subprocess.Popen`.
        environment: The program's, unless the options have one.

    Returns:
        The arguments of `ask`. If the program cannot be started, the error takes its place, and each call raises it.
    """
    with_pipes: dict[str, Any] = {
        "env": environment.as_dict(),
        **options,
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
    }
    try:
        program = subprocess.Popen(*command, **with_pipes)
    except (OSError, TypeError, ValueError, subprocess.SubprocessError) as error:
        return {"program": error, "feeder": None}
    feeder = StdinFeeder(cast(TextIO, program.stdin))
    atexit.register(end, program, feeder)
    return {"program": program, "feeder": feeder}


def ask(
    text: str,
    lines: int | None,
    pattern: str | None,
    program: subprocess.Popen[str] | Exception,
    feeder: StdinFeeder | None,
) -> str:
    """Feed the program and read its answer.

    Args:
        text: Written to the program's stdin.
        lines: Number of lines of the answer; None: any number.
        pattern: The answer ends with the first line that contains this text; None: with any line.
        program: From `start`.
        feeder: From `start`.

    Returns:
        The answer, line ends included.

    Raises:
        subprocess.CalledProcessError: The program has ended or closed its stdout. The error has the exit code and the part of
            the answer that was read.
        OSError, TypeError, ValueError, subprocess.SubprocessError: The program could not be started.
    """
    if isinstance(program, Exception):
        raise program.with_traceback(None)
    assert program.stdout is not None
    assert feeder is not None
    feeder.feed(text)
    answer: list[str] = []
    while len(answer) != lines:
        line = program.stdout.readline()
        if not line:
            end(program, feeder)  # the program may have closed its stdout only
            raise subprocess.CalledProcessError(program.returncode, program.args, output="".join(answer))
        answer.append(line)
        if pattern is not None and pattern in line:
            break
    return "".join(answer)


def end(program: subprocess.Popen[str], feeder: StdinFeeder) -> None:
    """End the program: close its stdin, then terminate it, then kill it."""
    feeder.close()
    for more_force in (program.terminate, program.kill):
        try:
            program.wait(EXIT_GRACE_S)
            return
        except subprocess.TimeoutExpired:
            more_force()
    program.wait()
