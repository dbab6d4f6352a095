"""Executors for external programs instead of Python functions.

    SubprocessExecutor    submit(command line) ─► a worker runs it to its end      ─► future of its output
    ShellExecutor         submit(lines)        ─► the worker feeds the one program ─► future of what it answers

Both are thin: an `Executor` with block allocation does the work, with its way to end calls, workers and all they
have started. Programs see the folder and the environment of the user's process, as those that `subprocess` starts do.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping
from concurrent import futures
from typing import TYPE_CHECKING, Any

from pympipool.executor import Executor
from pympipool.resources import Resources
from pympipool.worker import shell_process

if TYPE_CHECKING:
    from pympipool._core.future import Future

__all__ = ["ShellExecutor", "SubprocessExecutor"]


class SubprocessExecutor(futures.Executor):
    r"""Runs command lines; the future of each is what it has printed.

    Args:
        max_workers: Command lines that run at the same time.

    Examples:
        >>> with SubprocessExecutor(max_workers=2) as exe:
        ...     exe.submit(["echo", "test"], universal_newlines=True).result()
        'test\n'
    """

    def __init__(self, max_workers: int = 1) -> None:
        self._executor = Executor(max_workers, backend="mpi", block_allocation=True)

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queues a command line.

        Args:
            *args: As for `subprocess.check_output`: the command, as a list, or as one string with `shell=True`.
            **kwargs: Likewise: `text=True` for str instead of bytes, `cwd`, `env`, `timeout`, ...

        Returns:
            The future of its output (stdout). It fails as `subprocess.check_output` does: with
            `subprocess.CalledProcessError` when the exit code is not 0, with FileNotFoundError when there is no such
            program.

        Raises:
            TypeError: There is no command.
        """
        if not args and "args" not in kwargs:
            raise TypeError('submit() got no command; it takes one as a list, for example submit(["echo", "test"])')
        return self._executor.submit(subprocess.check_output, *args, **_as_if_started_here(kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more commands, and ends when those that are there have ended (see `Executor.shutdown`)."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)


class ShellExecutor(futures.Executor):
    r"""Talks with one long-lived program: feeds it lines, and reads what it answers.

    Args:
        *args: As for `subprocess.Popen`: the command, as a list, or as one string with `shell=True`.
        **kwargs: Likewise, but for stdin and stdout, by which we talk with it. It is talked with as text.

    Raises:
        TypeError, ValueError: There is no command, or an option cannot be set.

    Examples:
        >>> with ShellExecutor(["cat"]) as exe:
        ...     exe.submit("one line", lines_to_read=1).result()
        'one line\n'
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not args and "args" not in kwargs:
            raise TypeError('ShellExecutor() got no command; it takes one as a list, for example ShellExecutor(["bc"])')
        _check_options(kwargs)
        options = {"text": True, **_as_if_started_here(kwargs)}
        self._executor = Executor(
            max_workers=1,
            backend="mpi",
            block_allocation=True,
            init_function=functools.partial(shell_process.start, args, options),
        )

    def submit(  # type: ignore[override]  # text, no function
        self, string_input: str, lines_to_read: int | None = None, stop_read_pattern: str | None = None
    ) -> Future[str]:
        """Queues a line, or several, to be fed to the program when it has answered those before.

        Its answer ends as soon as one of the two conditions holds; at least one must be given.

        Args:
            string_input: The line; its end is added if missing.
            lines_to_read: The answer has so many lines.
            stop_read_pattern: The answer ends with a line that contains this.

        Returns:
            The future of the answer, line ends included. If the program ends before it has answered, that is a
            `subprocess.CalledProcessError`, with the exit code and what it wrote before.

        Raises:
            TypeError, ValueError: An argument is wrong, or nothing says where the answer ends.
        """
        for name, value in {"string_input": string_input, "stop_read_pattern": stop_read_pattern}.items():
            if not isinstance(value, str) and (name == "string_input" or value is not None):
                raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; it must be a str")
        if lines_to_read is None and stop_read_pattern is None:
            raise ValueError(
                "lines_to_read and stop_read_pattern are both None; give one of them, to tell where the answer ends"
            )
        if lines_to_read is not None:
            lines_to_read = Resources.check("cores", lines_to_read, "lines_to_read")
        text = string_input if string_input.endswith("\n") else string_input + "\n"
        # The first parameter comes from init_function, of which type checkers cannot know.
        return self._executor.submit(shell_process.ask, text, lines_to_read, stop_read_pattern, resource_dict=None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more lines, and ends the program when it has answered those that are there."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)


def _as_if_started_here(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with our folder and environment where they say nothing: the worker has its own of both."""
    return {"cwd": os.getcwd(), "env": dict(os.environ), **options}


def _check_options(options: Mapping[str, Any]) -> None:
    for name in ("stdin", "stdout"):
        if name in options:
            raise TypeError(f"{name} is {options[name]!r}; it cannot be set: the program is talked with through it")
    if options.get("stderr") == subprocess.PIPE:
        raise ValueError(
            "stderr is subprocess.PIPE, from which nobody would read; it can be None (then it reaches your terminal),"
            " subprocess.STDOUT (then it is a part of the answers) or subprocess.DEVNULL"
        )
