"""What makes a fork of the forkserver a worker, and its exit.

    forkserver ── fork ──> run: session, signals, streams, folder ──> connection, serial.py ──> exit functions, end

Until the worker serves, each object that it touches is on a page that has to be copied, which takes more time than all else. So
whatever is the same for all workers is done by the forkserver: configuration and streams exist before the fork.
"""

from __future__ import annotations

import os
import sys

from pympipool._core.ring import start_watchdog
from pympipool._util.cmodules import signal
from pympipool.transport.control_client import connect
from pympipool.worker import main, serial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn, TextIO

    from pympipool.transport.bootstrap import WorkerConfig


_streams_before: list[TextIO | None] = []  # kept, as to end them would take time


def make_streams() -> list[TextIO]:
    """Make stdout and stderr of workers that will be forked. They are pipes there, so they must be pipes meanwhile.

    Those of this process do not serve: a stream knows what its descriptor was when it was made.

    Raises:
        OSError: No descriptor is free.
    """
    reader, writer = os.pipe()
    try:
        return [_make_stream(descriptor, writer) for descriptor in (1, 2)]
    finally:
        os.close(reader)
        os.close(writer)


def _make_stream(descriptor: int, pipe: int) -> TextIO:
    try:
        kept = os.dup(descriptor)
    except OSError:  # this process was started without it
        kept = -1
    os.dup2(pipe, descriptor)
    try:
        return open(descriptor, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    finally:
        if kept < 0:
            os.close(descriptor)
        else:
            os.dup2(kept, descriptor)
            os.close(kept)


def run(
    config: WorkerConfig | None,
    cwd: str | None,
    streams: Sequence[TextIO],
    pipes: Sequence[int],
    after_call: Callable[[], None],
) -> NoReturn:
    """Set up the forked process as requested, run the worker program, and exit.

    Args:
        config: The worker's configuration; None: it is still in the environment.
        cwd: The folder to change to.
        streams: Those of `make_streams`.
        pipes: The worker's pipes for them.
        after_call: Called after the program has ended.
    """
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor, pipe in enumerate(pipes, 1):
            os.dup2(pipe, descriptor)
            os.close(pipe)
        _streams_before.extend((sys.stdout, sys.stderr))
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = streams  # type: ignore[assignment,misc]
        if cwd is not None:
            os.chdir(cwd)
        if config is None:
            main()
        else:
            _serve(config)
        after_call()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _exit(code)


def _serve(config: WorkerConfig) -> None:
    """Serve calls as `pympipool.worker.main` does, but with modules that are imported already: import statements take time, too."""
    control = connect(config)
    start_watchdog(control.watched_master())
    try:
        control.send_hello(config, 0)
        serial.run(config, control)
    finally:
        control.release()


def _exit(code: int) -> NoReturn:
    """Exit a forked worker as the interpreter would: wait for threads, run exit functions, flush streams."""
    import atexit

    try:
        _wait_for_threads()
        atexit._run_exitfuncs()
        _finalize_mpi()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait_for_threads() -> None:
    """Wait for all threads but daemons, as the interpreter does: thread pools, for example, finish what they were given."""
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()


def _finalize_mpi() -> None:
    """Call MPI_Finalize, as mpi4py does at exit but not at os._exit: an MPI library has files in /dev/shm to remove."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()
