"""Executors for external programs instead of Python functions.

    SubprocessExecutor    submit(command line) ─► a worker runs it to its end      ─► future of its output
    ShellExecutor         submit(lines)        ─► the worker feeds the one program ─► future of its answer

Both use an `Executor` with block allocation, which also ends calls, workers and all processes that these have started.
Programs get the working directory and the environment of the user's process, like programs that `subprocess` starts.
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

__path__: list[str] = []  # it was a package once: see `pympipool._former_names`


class SubprocessExecutor(futures.Executor):
    r"""An executor that runs command lines. The future of each command line returns its output.

    Args:
        max_workers: Number of command lines that run at the same time. Default: 1.

    Examples:
        >>> with SubprocessExecutor(max_workers=2) as exe:
        ...     exe.submit(["echo", "test"], universal_newlines=True).result()
        'test\n'
    """

    def __init__(self, max_workers: int = 1) -> None:
        self._executor = Executor(max_workers, backend="mpi", block_allocation=True)

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a command line.

        Args:
            *args: Arguments of `subprocess.check_output`: the command, as a list, or as one string with `shell=True`.
            **kwargs: Keyword arguments of `subprocess.check_output`: `text=True` for str instead of bytes, `cwd`,
                `env`, `timeout`, ...

        Returns:
            The future of its output (stdout). It fails as `subprocess.check_output` does: with
            `subprocess.CalledProcessError` if the exit code is not 0, with FileNotFoundError if the program does not
            exist.

        Raises:
            TypeError: No command is given.
        """
        if not args and "args" not in kwargs:
            raise TypeError('submit() got no command; it takes one as a list, for example submit(["echo", "test"])')
        return self._executor.submit(subprocess.check_output, *args, **_as_if_started_here(kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further commands, and end after the last one has ended (see `Executor.shutdown`)."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)


class ShellExecutor(futures.Executor):
    r"""An executor that communicates with one long-lived program: it writes lines, and reads the answers.

    Args:
        *args: Arguments of `subprocess.Popen`: the command, as a list, or as one string with `shell=True`.
        **kwargs: Keyword arguments of `subprocess.Popen`, except stdin and stdout, which the executor uses itself.
            Input and output are text.

    Raises:
        TypeError, ValueError: No command is given, or an option cannot be set.

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

    def submit(  # type: ignore[override]  # takes text instead of a function
        self, string_input: str, lines_to_read: int | None = None, stop_read_pattern: str | None = None
    ) -> Future[str]:
        r"""Queue one or several lines, to be written to the program after it has answered the lines before.

        The answer ends as soon as one of the two conditions holds; at least one must be given.

        Args:
            string_input: The lines. A newline is added at the end if it is missing.
            lines_to_read: Number of lines of the answer.
            stop_read_pattern: The answer ends with the first line that contains this text.

        Returns:
            The future of the answer, with its newlines. If the program ends before it has answered, the future fails
            with `subprocess.CalledProcessError`, which has the exit code and the output until then. If the program cannot
            be started, it fails with the error of `subprocess.Popen`, FileNotFoundError for example.

        Raises:
            TypeError, ValueError: An argument is wrong, or both conditions are missing.

        Examples:
            >>> with ShellExecutor(["cat"]) as exe:
            ...     exe.submit("first\nsecond", stop_read_pattern="sec").result()
            'first\nsecond\n'
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
        # init_function provides the first parameter, which type checkers cannot know.
        return self._executor.submit(shell_process.ask, text, lines_to_read, stop_read_pattern, resource_dict=None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further lines, and end the program after it has answered the queued ones."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)


def _as_if_started_here(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the cwd and env of this process as defaults: those of the worker differ."""
    return {"cwd": os.getcwd(), "env": dict(os.environ), **options}


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise if an option cannot be set because the executor uses it itself."""
    for name in ("stdin", "stdout"):
        if name in options:
            raise TypeError(f"{name} is {options[name]!r}; it cannot be set: the program is talked with through it")
    if options.get("stderr") == subprocess.PIPE:
        raise ValueError(
            "stderr is subprocess.PIPE, which no thread would read; it can be None (then it reaches your terminal),"
            " subprocess.STDOUT (then it is a part of the answers) or subprocess.DEVNULL"
        )
