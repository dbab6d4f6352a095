"""Before the first call: the master's settings take effect, `init_function` runs, and failures are told.

settings -> cwd, sys.argv, streams -> init_function() -> CallRunner
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


def apply_settings(settings: dict[str, Any], cwd: str = "") -> None:
    """Makes this process look like the master to the functions that will run in it.

    Args:
        settings: The master's.
        cwd: The folder to work in; "" where the process was started there.

    Raises:
        OSError: The folder to work in does not exist here.
    """
    if not _says_what_malloc_keeps(os.environ):
        retain_malloc_memory()
    if cwd or settings["cwd"] is not None:
        os.chdir(cwd or settings["cwd"])
    sys.argv[:] = [settings["main_path"]]
    for stream in (sys.stdout, sys.stderr):
        # The master forwards what comes, so it should come line by line, and in the encoding that he expects. Containers
        # often set PYTHONUNBUFFERED: then each word would come alone, amid the lines of other workers.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=False)


def take_output(settings: dict[str, Any], descriptors: list[int]) -> list[int]:
    """Has this process print straight to the master, where he sends descriptors for that.

    Args:
        settings: The master's.
        descriptors: That came with them.

    Returns:
        Those that are for something else.
    """
    if not settings["direct_output"] or not descriptors:
        return descriptors
    *others, stdout, stderr = descriptors
    for given, own in ((stdout, 1), (stderr, 2)):
        os.dup2(given, own)
        os.close(given)
    return others


def make_calls(
    settings: dict[str, Any], stamps: list[int] | None = None, error_log_file: str = "", where: str = ""
) -> CallRunner:
    """Runs init_function, if there is one; what it returns is there for all calls.

    Args:
        settings: The master's.
        stamps: Where calls put down times (see `CallRunner`).
        error_log_file: Where calls that fail are written down; "": nowhere.
        where: Who we are.

    Raises:
        TypeError: It does not return a dict with strings as keys.
        Exception: What it raises.
    """
    error_log = None
    if error_log_file:
        from pympipool.worker.error_log import ErrorLog

        error_log = ErrorLog(error_log_file, where)
    if settings["init_function"] is None:
        return CallRunner({}, stamps, error_log)
    init_function = load([settings["init_function"]], "the init_function")
    preset = init_function()
    if not isinstance(preset, dict):
        raise TypeError(
            f"init_function {callable_name(init_function)}() returned {_shown(preset)}; it must return a dict of the"
            " parameters that calls shall get"
        )
    for name in preset:
        if not isinstance(name, str):
            raise TypeError(
                f"init_function {callable_name(init_function)}() returned a dict with the key {_shown(name)}; its keys"
                " must be strings, the names of parameters"
            )
    return CallRunner(preset, stamps, error_log)


def describe(worker: int, rank: int | None = None) -> str:
    """Where an exception was raised, to head its traceback."""
    place = f"worker {worker}" if rank is None else f"rank {rank} of worker {worker}"
    return f"{place} (host {socket.gethostname()}, pid {os.getpid()})"


def tell(send: Callable[[Sequence[Any]], None], error: BaseException, where: str) -> list[Any]:
    """Sends an exception as a frame; of one that is too large for a frame, only what it is.

    Returns:
        The parts of the whole exception.
    """
    parts = dump_exception(error, where)
    try:
        send(parts)
    except ValueError as too_large:
        send(dump_exception(RuntimeError(f"{type(error).__qualname__} ({too_large})"), where))
    return list(parts)


_THRESHOLDS = ("TRIM_THRESHOLD", "MMAP_THRESHOLD")


def _says_what_malloc_keeps(environ: Mapping[str, str]) -> bool:
    """Whether the user has set it himself, in either of glibc's two ways."""
    tunables = environ.get("GLIBC_TUNABLES", "")
    return any(f"MALLOC_{name}_" in environ or f"malloc.{name.lower()}" in tunables for name in _THRESHOLDS)


def _shown(value: object) -> str:
    return f"{type(value).__name__}: {value!r:.80}"
