"""Executors for external programs instead of Python functions.

    SubprocessExecutor    submit(command line) ─► a worker runs it to its end      ─► future of its output
    ShellExecutor         submit(lines)        ─► the worker feeds the one program ─► future of its answer

Both use an `Executor`, by default with block allocation on this machine. It counts cores, assigns GPUs, and ends calls, workers
and all processes that these have started. Programs get the working directory and the environment of the user's process, like
programs that `subprocess` starts; where a scheduler starts the worker, they get the environment of its job step.

A command is one process, whatever it starts: cores are reserved for it, and it is not a rank of an MPI job.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping
from concurrent import futures
from typing import TYPE_CHECKING, Any

from pympipool._util.devices import DEVICE_VARIABLES
from pympipool.backends.registry import choose
from pympipool.executor import Executor
from pympipool.resources import Resources
from pympipool.worker import shell_process

if TYPE_CHECKING:
    from pympipool._core.future import Future

__all__ = ["ShellExecutor", "SubprocessExecutor"]

__path__: list[str] = []  # it was a package once: see `pympipool._util.former_names`


class SubprocessExecutor(futures.Executor):
    r"""An executor that runs command lines. The future of each command line returns its output.

    Args:
        max_workers: Number of command lines that run at the same time. Default: 1, unless `max_cores` is given.
        max_cores: Number of cores of all command lines that run at the same time, instead of `max_workers`.
        backend: Where they run: "mpi" on this machine, "slurm", "flux" or "auto" (see `Executor`).
        block_allocation: Keep the workers that start them. Without it a command line can have its own `resource_dict`.
        resource_dict: Resources of each command line: `cores` are reserved for what it starts, such as the ranks of
            `mpiexec`. `threads_per_core` reserves cores for the threads of each, and sets OMP_NUM_THREADS and its like.
            `gpus_per_core`, `cwd`, `run_time_max` and others are as for `Executor`.
        **options: Further parameters of `Executor`.

    Raises:
        ValueError, TypeError: A parameter is wrong.

    Examples:
        >>> with SubprocessExecutor(max_workers=2) as exe:
        ...     exe.submit(["echo", "test"], universal_newlines=True).result()
        'test\n'
        >>> with SubprocessExecutor(max_cores=2, block_allocation=False) as exe:
        ...     exe.submit("echo $OMP_NUM_THREADS", shell=True, resource_dict={"threads_per_core": 2}).result()
        b'2\n'
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        max_cores: int | None = None,
        backend: str = "mpi",
        block_allocation: bool = True,
        resource_dict: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if max_workers is None and max_cores is None:
            max_workers = 1
        self._resources = Resources.from_dict(resource_dict)
        self._backend = choose(backend, self._resources.executor).name
        self._given = dict(resource_dict or {})
        self._executor = Executor(
            max_workers,
            max_cores=max_cores,
            backend=self._backend,
            block_allocation=block_allocation,
            resource_dict=_for_one_process(self._resources, resource_dict),
            **_without_ranks(options),
        )

    def submit(  # type: ignore[override]  # takes a command line instead of a function
        self, *args: Any, resource_dict: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Future[Any]:
        """Queue a command line.

        Args:
            resource_dict: Resources of this command line, as those of the executor; not with `block_allocation`.
            *args: Arguments of `subprocess.check_output`: the command, as a list, or as one string with `shell=True`.
            **kwargs: Keyword arguments of `subprocess.check_output`: `text=True` for str instead of bytes, `cwd`,
                `env`, `timeout`, ...

        Returns:
            The future of its output (stdout). It fails as `subprocess.check_output` does: with
            `subprocess.CalledProcessError` if the exit code is not 0, with FileNotFoundError if the program does not
            exist.

        Raises:
            TypeError, ValueError: No command is given, or resource_dict is wrong.
        """
        if not args and "args" not in kwargs:
            raise TypeError('submit() got no command; it takes one as a list, for example submit(["echo", "test"])')
        resources, given = self._resources, self._given
        if resource_dict is not None:
            resources, given = Resources.from_dict(resource_dict, resources), {**given, **resource_dict}
            resource_dict = _for_one_process(resources, resource_dict)
        environment = _environment(resources, self._backend, given)
        options = _started_here(kwargs, resources.cwd)
        return self._executor.submit(
            shell_process.check_output, args, options, environment, resource_dict=resource_dict
        )

    @property
    def info(self) -> dict[str, Any]:
        """The options and the workers (see `Executor.info`)."""
        return self._executor.info

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further commands, and end after the last one has ended (see `Executor.shutdown`)."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)


class ShellExecutor(futures.Executor):
    r"""An executor that communicates with one long-lived program: it writes lines, and reads the answers.

    Args:
        *args: Arguments of `subprocess.Popen`: the command, as a list, or as one string with `shell=True`.
        backend: Where the program runs: "mpi" on this machine, "slurm", "flux" or "auto" (see `Executor`).
        resource_dict: Resources of the program, as in `SubprocessExecutor`.
        **kwargs: Keyword arguments of `subprocess.Popen`, except stdin and stdout, which the executor uses itself.
            Input and output are text.

    Raises:
        TypeError, ValueError: No command is given, or an option cannot be set.

    Examples:
        >>> with ShellExecutor(["cat"]) as exe:
        ...     exe.submit("one line", lines_to_read=1).result()
        'one line\n'
    """

    def __init__(
        self, *args: Any, backend: str = "mpi", resource_dict: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if not args and "args" not in kwargs:
            raise TypeError('ShellExecutor() got no command; it takes one as a list, for example ShellExecutor(["bc"])')
        _check_options(kwargs)
        resources = Resources.from_dict(resource_dict)
        where = choose(backend, resources.executor).name
        options = {"text": True, **_started_here(kwargs, resources.cwd)}
        environment = _environment(resources, where, resource_dict)
        self._executor = Executor(
            max_workers=1,
            backend=where,
            block_allocation=True,
            init_function=functools.partial(shell_process.start, args, options, environment),
            resource_dict=_for_one_process(resources, resource_dict),
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


def _started_here(options: Mapping[str, Any], cwd: str | None) -> dict[str, Any]:
    """Return the options of a command with the working directory that it would have here: that of the worker may differ.

    Args:
        cwd: The working directory, if the resources have one.
    """
    return {"cwd": cwd or os.getcwd(), **options}


def _environment(resources: Resources, backend: str, given: Mapping[str, Any] | None) -> shell_process.Environment:
    """Return the environment of a command: that of this process, or of the job step that a scheduler starts.

    Args:
        given: The resources as the user gave them. Only with a number of threads are the variables for libraries set.
    """
    return shell_process.Environment(
        dict(os.environ) if backend == "mpi" else None,
        resources.threads_environment() if given and "threads_per_core" in given else {},
        DEVICE_VARIABLES if resources.gpus else (),
    )


def _for_one_process(resources: Resources, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the resources of a worker that is one process, and has the cores and GPUs of all that it starts."""
    if given is None:
        return None
    others = {
        name: value for name, value in given.items() if name not in ("cores", "threads_per_core", "gpus_per_core")
    }
    return {**others, "cores": 1, "threads_per_core": resources.total_cores, "gpus_per_core": resources.gpus}


def _without_ranks(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of an executor; raise TypeError for those that `resource_dict` takes for commands."""
    for name in ("cores_per_worker", "threads_per_core", "gpus_per_worker", "init_function"):
        if name in options:
            instead = (
                "commands take none"
                if name == "init_function"
                else "give resource_dict, whose cores are those of a command"
            )
            raise TypeError(f"SubprocessExecutor() has no parameter {name!r}: {instead}")
    return options


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
