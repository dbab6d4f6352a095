"""What a worker does before its first call: apply the master's settings, run `init_function`, report failures.

settings -> cwd, sys.argv, sys.path, streams -> init_function() -> CallRunner
     any exception ----------------------------------> ("start_failed", parts) to the master
"""

from __future__ import annotations

import io
import os
import sys

from pympipool._core.ring import retain_malloc_memory
from pympipool._util.cmodules import socket
from pympipool._util.reprs import callable_name
from pympipool.serialization.exceptions import dump_exception
from pympipool.serialization.payload import load
from pympipool.worker.call_runner import CallRunner
from pympipool.worker.script_context import apply_script_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from pympipool.transport.control_client import Control


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
    if not _malloc_is_configured(os.environ):
        retain_malloc_memory()
    if cwd or settings["cwd"] is not None:
        os.chdir(cwd or settings["cwd"])
    apply_script_context(settings, control, identity)
    for stream in (sys.stdout, sys.stderr):
        # The master forwards the output, so it must arrive line by line and in the encoding that the master expects.
        # Containers often set PYTHONUNBUFFERED: then each word would arrive alone, between the lines of other workers.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=False)


def redirect_output(settings: dict[str, Any], descriptors: list[int]) -> list[int]:
    """Redirect stdout and stderr to the descriptors that the master has sent for them, if it has.

    Args:
        settings: The master's settings.
        descriptors: All descriptors that came with the settings.

    Returns:
        The descriptors that are for something else.
    """
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
    """Run init_function, if there is one, and return the runner whose calls get its result.

    Args:
        settings: The master's settings.
        stamps: Gets the times of calls (see `CallRunner`).
        error_log_file: Path of the file to which failed calls are logged; "": none.
        location: Worker, rank, host and process id, for the log.

    Raises:
        TypeError: init_function does not return a dict with strings as keys.
        Exception: What init_function raises.
    """
    error_log = None
    if error_log_file:
        from pympipool.worker.error_log import ErrorLog

        error_log = ErrorLog(error_log_file, location)
    if settings["init_function"] is None:
        return CallRunner({}, stamps, error_log)
    init_function = load([settings["init_function"]], "the init_function")
    return CallRunner(check_init_values(init_function, init_function()), stamps, error_log)


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


_THRESHOLDS = ("TRIM_THRESHOLD", "MMAP_THRESHOLD")


def _malloc_is_configured(environ: Mapping[str, str]) -> bool:
    """Return True if the user has set how much free memory malloc keeps, in either of glibc's two ways."""
    tunables = environ.get("GLIBC_TUNABLES", "")
    return any(f"MALLOC_{name}_" in environ or f"malloc.{name.lower()}" in tunables for name in _THRESHOLDS)


def _short_repr(value: object) -> str:
    return f"{type(value).__name__}: {value!r:.80}"
