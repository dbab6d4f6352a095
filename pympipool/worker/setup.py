"""What a worker does before its first call: apply the master's settings, run the user's functions, report failures.

settings -> cwd, sys.argv, sys.path, streams -> initializer() -> init_function() -> CallRunner
     any exception ---------------------------------------------------> ("start_failed", parts, function) to the master
"""

from __future__ import annotations

import io
import os
import sys

from pympipool import serialization
from pympipool._core.ring import retain_malloc_memory
from pympipool._util.cmodules import socket
from pympipool._util.reprs import callable_name
from pympipool.serialization.exceptions import dump_exception
from pympipool.serialization.payload import load
from pympipool.worker.call_forks import CallForks
from pympipool.worker.call_runner import CallRunner
from pympipool.worker.script_context import apply_script_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from pympipool.transport.control_client import Control


class StartFunctionError(Exception):
    """A function of the user that runs before the first call has raised. The argument is the name of the parameter, the cause is
    what it has raised."""


def apply_settings(settings: dict[str, Any], control: Control, identity: tuple[int, ...], cwd: str = "") -> None:
    """Make this process look like the master to the functions that will run in it.

    Args:
        settings: The master's settings.
        control: The connection to the master.
        identity: Number of the worker, and for one of several ranks the rank + 1.
        cwd: The working directory to change to; "" if the process was started there.

    Raises:
        OSError: The working directory does not exist on this host.
    """
    set_up_malloc(os.environ)
    if cwd or settings["cwd"] is not None:
        os.chdir(cwd or settings["cwd"])
    apply_script_context(settings, control, identity)
    serialization.master = control, os.getpid()
    if settings["thread_name_prefix"]:
        from threading import main_thread

        main_thread().name = f"{settings['thread_name_prefix']}_{settings['worker_id']}"
    for stream in (sys.stdout, sys.stderr):
        # The master forwards the output, so it must arrive line by line and in the encoding that the master expects.
        # Containers often set PYTHONUNBUFFERED: then each word would arrive alone, between the lines of other workers.
        if isinstance(stream, io.TextIOWrapper) and not _is_configured(stream):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=False)


def take_descriptors(settings: dict[str, Any], descriptors: list[int]) -> list[int]:
    """Keep the descriptors that this process inherits, and redirect stdout and stderr to those that are for them.

    Args:
        settings: The master's settings.
        descriptors: All descriptors that came with the settings.

    Returns:
        The other descriptors, those of the link.
    """
    if settings["inheritance"]:
        from pympipool.worker.inherited import InheritedDescriptor

        InheritedDescriptor.received = descriptors[: settings["inheritance"]]
        descriptors = descriptors[settings["inheritance"] :]
    if not settings["direct_output"] or not descriptors:
        return descriptors
    *others, stdout, stderr = descriptors
    for received, standard in ((stdout, 1), (stderr, 2)):
        os.dup2(received, standard)
        os.close(received)
    return others


def make_call_runner(
    settings: dict[str, Any], stamps: list[int] | None = None, error_log_file: str = "", location: str = ""
) -> CallRunner:
    """Run the initializer and init_function, if there are any, and return the runner whose calls get the result of the latter.

    Args:
        settings: The master's settings.
        stamps: Gets the times of calls (see `CallRunner`).
        error_log_file: Path of the file to which failed calls are logged; "": none.
        location: Worker, rank, host and process id, for the log.

    Raises:
        StartFunctionError: One of the two has raised, or init_function does not return a dict with strings as keys.
    """
    error_log = None
    if error_log_file:
        from pympipool.worker.error_log import ErrorLog

        error_log = ErrorLog(error_log_file, location)
    forks = CallForks()
    forks.watch()
    init_values = run_start_functions(settings, forks) if has_start_functions(settings) else {}
    return CallRunner(init_values, stamps, error_log, settings["worker_id"], forks)


def last_call_announcement(settings: Mapping[str, Any], control: Control) -> Callable[[], None] | None:
    """Return what rank 0 does before its last call; None if the master knows that it is the last."""
    return control.send_last_call if settings["announces_last"] else None


def has_start_functions(settings: Mapping[str, Any]) -> bool:
    """Return True if functions of the user run before the first call, and leave state in the worker."""
    return settings["initializer"] is not None or settings["init_function"] is not None


def run_start_functions(settings: Mapping[str, Any], forks: CallForks) -> dict[str, Any]:
    """Run the initializer and init_function. Return what init_function returns; an empty dict if there is none.

    Args:
        settings: The master's settings.
        forks: Ends what one of them forks, when it comes back.

    Raises:
        StartFunctionError: One of them has raised.
    """
    from pympipool.worker.initializer import call_and_keep_globals, run_initializer

    name = "initializer"
    try:
        if settings["initializer"] is not None:
            run_initializer(settings["initializer"])
        forks.end_fork()
        name = "init_function"
        if settings["init_function"] is None:
            return {}
        init_function = load([settings["init_function"]], "the init_function")
        init_values = call_and_keep_globals(init_function)
        forks.end_fork()
        return check_init_values(init_function, init_values)
    except BaseException as error:  # SystemExit too
        forks.end_fork()
        raise StartFunctionError(name) from error


def check_init_values(init_function: Callable[[], Any], init_values: Any) -> dict[str, Any]:
    """Return what an init_function has returned.

    Raises:
        TypeError: It is not a dict with strings as keys.
    """
    if not isinstance(init_values, dict):
        raise TypeError(
            f"init_function {callable_name(init_function)}() returned {_short_repr(init_values)}; it must return a dict of"
            " the parameters that calls shall get"
        )
    for name in init_values:
        if not isinstance(name, str):
            raise TypeError(
                f"init_function {callable_name(init_function)}() returned a dict with the key {_short_repr(name)}; its keys"
                " must be strings, the names of parameters"
            )
    return init_values


def describe(worker: int, rank: int | None = None) -> str:
    """Describe this rank: where an exception was raised, as the first line of its traceback."""
    name = f"worker {worker}" if rank is None else f"rank {rank} of worker {worker}"
    return f"{name} (host {socket.gethostname()}, pid {os.getpid()})"


def report_start_failed(control: Control, error: BaseException, location: str) -> None:
    """Tell the master why this rank cannot serve."""
    function = ""
    if isinstance(error, StartFunctionError) and error.__cause__ is not None:
        function, error = error.args[0], error.__cause__
    report_error(lambda parts: control.send_start_failed(parts, function), error, location)


def report_error(send: Callable[[Sequence[Any]], None], error: BaseException, location: str) -> list[Any]:
    """Send an exception to the master as a frame. If it is too large for a frame, send only its type.

    Returns:
        The parts of the whole exception.
    """
    parts = dump_exception(error, location)
    try:
        send(parts)
    except ValueError as too_large:
        send(dump_exception(RuntimeError(f"{type(error).__qualname__} ({too_large})"), location))
    return list(parts)


def _is_configured(stream: io.TextIOWrapper) -> bool:
    """Return True for a stream of `forked.make_streams`."""
    is_flushed = stream.line_buffering and not stream.write_through
    return is_flushed and stream.encoding == "utf-8" and stream.errors == "backslashreplace"


_THRESHOLDS = ("TRIM_THRESHOLD", "MMAP_THRESHOLD")


_malloc_is_set_up = False


def set_up_malloc(environ: Mapping[str, str]) -> None:
    """Have malloc keep free memory, unless the environment says how much. Forks of this process inherit it.

    A second time, do nothing.
    """
    global _malloc_is_set_up
    if not _malloc_is_set_up:
        _malloc_is_set_up = True
        if not _malloc_is_configured(environ):
            retain_malloc_memory()


def _malloc_is_configured(environ: Mapping[str, str]) -> bool:
    """Return True if the user has set how much free memory malloc keeps, in either of glibc's two ways."""
    tunables = environ.get("GLIBC_TUNABLES", "")
    return any(f"MALLOC_{name}_" in environ or f"malloc.{name.lower()}" in tunables for name in _THRESHOLDS)


def _short_repr(value: object) -> str:
    return f"{type(value).__name__}: {value!r:.80}"
