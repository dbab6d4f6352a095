"""In the worker of a `pympipool.ShellExecutor`: an external program that lives as long as the worker.

    start(...)                 init_function: the program and what feeds it, as parameters of all calls
    ask(text, ..., program)    a call: text to its stdin, lines from its stdout

The program writes to the worker's stderr, and so to the user's.
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import select
import subprocess
import threading
from collections.abc import Mapping
from typing import Any, TextIO, cast

LAST_WORDS_S = 1.0
"""How long a program may take to end by itself when its stdin does, and again when it is asked to (SIGTERM)."""


SHORT = 1024
"""Characters that fit into a pipe which has room at all: they are at most 4096 bytes, which is PIPE_BUF."""


class AdaptiveBatcher:
    """Writes to a program's stdin without waiting for it: before it reads on, somebody may have to read what it says.

    Short texts are written at once, if there is room. The first other one starts a thread, which has the rest to write.
    """

    def __init__(self, stdin: TextIO) -> None:
        self._stdin = stdin
        self._texts: queue.SimpleQueue[bytes] | None = None
        self._poll = select.poll()
        self._poll.register(stdin, select.POLLOUT)

    def feed(self, text: str) -> None:
        """Writes text, now or in a while. That the program has ended is no error: reading tells.

        Raises:
            UnicodeEncodeError: The text cannot be encoded.
        """
        data = text.encode(self._stdin.encoding, self._stdin.errors or "strict")
        if self._texts is None and len(text) <= SHORT and self._poll.poll(0):
            self._write(data)
            return
        if self._texts is None:
            self._texts = queue.SimpleQueue()
            threading.Thread(target=self._write_all, args=(self._texts,), daemon=True).start()
        self._texts.put(data)

    def close(self) -> None:
        """Ends stdin, when all has been written."""
        if self._texts is None:
            self._close()
        else:
            self._texts.put(b"")

    def _write_all(self, texts: queue.SimpleQueue[bytes]) -> None:
        while data := texts.get():
            self._write(data)
        self._close()

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended, or stdin is closed
            self._stdin.buffer.write(data)
            self._stdin.buffer.flush()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin.close()


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
    feeder = AdaptiveBatcher(cast(TextIO, program.stdin))
    atexit.register(end, program, feeder)
    return {"program": program, "feeder": feeder}


def ask(
    text: str, lines: int | None, pattern: str | None, program: subprocess.Popen[str], feeder: AdaptiveBatcher
) -> str:
    """Feeds the program and reads its answer.

    Args:
        text: For its stdin.
        lines: The answer has so many lines; None: any number.
        pattern: The answer ends with the line that contains this; None: whatever the lines contain.
        program: From `start`.
        feeder: Likewise.

    Returns:
        The answer, line ends included.

    Raises:
        subprocess.CalledProcessError: The program has ended, or its stdout; holds its exit code, and what it wrote before.
    """
    assert program.stdout is not None
    feeder.feed(text)
    answer: list[str] = []
    while len(answer) != lines:
        line = program.stdout.readline()
        if not line:
            end(program, feeder)  # it may have closed its stdout only
            raise subprocess.CalledProcessError(program.returncode, program.args, output="".join(answer))
        answer.append(line)
        if pattern is not None and pattern in line:
            break
    return "".join(answer)


def end(program: subprocess.Popen[str], feeder: AdaptiveBatcher) -> None:
    """Ends the program: by the end of its stdin, else by force."""
    feeder.close()
    for more_force in (program.terminate, program.kill):
        try:
            program.wait(LAST_WORDS_S)
            return
        except subprocess.TimeoutExpired:
            more_force()
    program.wait()
