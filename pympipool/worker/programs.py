"""In the worker of a `pympipool.ShellExecutor`: an external program that lives as long as the worker.

    start(...)                 init_function: the program, as the parameter `program` of all calls
    ask(text, ..., program)    a call: text to its stdin, lines from its stdout

The program writes to the worker's stderr, and so to the user's.
"""

from __future__ import annotations

import atexit
import contextlib
import subprocess
from collections.abc import Mapping
from typing import Any

LAST_WORDS_S = 1.0
"""How long a program may take to end by itself when its stdin does, and again when it is asked to (SIGTERM)."""


def start(command: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """Starts the program.

    Args:
        command: Positional arguments of `subprocess.Popen`.
        options: Its keyword arguments.

    Raises:
        OSError, TypeError, ValueError: `subprocess.Popen` refuses.
    """
    with_pipes: dict[str, Any] = {**options, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    program = subprocess.Popen(*command, **with_pipes)
    atexit.register(end, program)
    return {"program": program}


def ask(text: str, lines: int | None, pattern: str | None, program: subprocess.Popen[str]) -> str:
    """Feeds the program and reads its answer.

    Args:
        text: For its stdin.
        lines: The answer has so many lines; None: any number.
        pattern: The answer ends with the line that contains this; None: whatever the lines contain.
        program: From `start`.

    Returns:
        The answer, line ends included.

    Raises:
        subprocess.CalledProcessError: The program has ended; holds its exit code, and what it wrote before.
    """
    assert program.stdin is not None
    assert program.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended: reading tells
        program.stdin.write(text)
        program.stdin.flush()
    answer: list[str] = []
    while len(answer) != lines:
        line = program.stdout.readline()
        if not line:
            raise subprocess.CalledProcessError(program.wait(), program.args, output="".join(answer))
        answer.append(line)
        if pattern is not None and pattern in line:
            break
    return "".join(answer)


def end(program: subprocess.Popen[str]) -> None:
    """Ends the program: by the end of its stdin, else by force."""
    with contextlib.suppress(OSError):
        if program.stdin is not None:
            program.stdin.close()
    for more_force in (program.terminate, program.kill):
        try:
            program.wait(LAST_WORDS_S)
            return
        except subprocess.TimeoutExpired:
            more_force()
    program.wait()
