"""The signals of processes that an executor starts, and SIGPIPE in this one.

A process inherits blocked and ignored signals. A program with `signalfd`, `sigwait` or a thread for signals has most of
them blocked. A worker, fork server or mpiexec with SIGCHLD blocked would never notice the end of a child.

    reset()        our own programs begin with it: nothing blocked, default actions; on Windows no windows about crashes
    reset_first()  makes the command of another program begin with it
"""

from __future__ import annotations

import sys

from pympipool._util.cmodules import signal
from pympipool._util.platform import HAS_SIGNALS, IS_WINDOWS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_KEPT = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP) if HAS_SIGNALS else ()
"""Signals that stay ignored. Shells ignore the first two in processes of the background, `nohup` the third."""

_OF_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ) if HAS_SIGNALS else ()
"""Signals that Python ignores from its start. `subprocess` restores their default actions in children."""

_RESET = f"""
import _signal as signal, os, sys
signal.pthread_sigmask(signal.SIG_SETMASK, ())
for number in signal.valid_signals() - {{{", ".join(map(str, _KEPT))}}}:
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""A program that resets the signals and becomes the program in its arguments."""


def reset() -> None:
    """Unblock all signals, and restore the default actions of ignored ones. Only for the main thread of a program.

    On Windows, which has no signals, let a crash end the program at once: nobody would close a window that tells of it.
    """
    if IS_WINDOWS:
        import msvcrt

        msvcrt.SetErrorMode(
            msvcrt.GetErrorMode()
            | msvcrt.SEM_FAILCRITICALERRORS
            | msvcrt.SEM_NOGPFAULTERRORBOX
            | msvcrt.SEM_NOOPENFILEERRORBOX
        )
        return
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in _ignored():
        signal.signal(number, signal.SIG_DFL)


def reset_first(command: Sequence[str | bytes]) -> Sequence[str | bytes]:
    """Return a command that resets the signals and becomes the given one; the given one if there is nothing to reset.

    To unblock the signals of this thread while the process starts would let the thread receive signals that the user's
    program has blocked. `subprocess` can do without that only by `preexec_fn`, which is not safe in programs with threads.
    """
    if not HAS_SIGNALS or not sys.executable or getattr(sys, "frozen", False):
        return command
    if command[0] == sys.executable or not (signal.pthread_sigmask(signal.SIG_BLOCK, ()) or _ignored()):
        return command
    return [sys.executable, "-I", "-S", "-c", _RESET, *command]


def _ignored() -> list[int]:
    """Return the ignored signals that are to be reset."""
    numbers = signal.valid_signals().difference(_KEPT, _OF_PYTHON)
    return [number for number in numbers if signal.getsignal(number) == signal.SIG_IGN]


class SigpipeBlocked:
    """A context in which writing to a pipe without a reader raises BrokenPipeError, even if SIGPIPE ends the program.

    Sockets need none: they have `platform.SEND_FLAGS`. A SIGPIPE is delivered to the thread that writes.
    """

    def __enter__(self) -> None:
        self._before: set[int] | None = None
        if HAS_SIGNALS:
            self._before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGPIPE,))

    def __exit__(self, *_: object) -> None:
        if self._before is None or signal.SIGPIPE in self._before:
            return
        if signal.SIGPIPE in signal.sigpending():
            signal.sigwait((signal.SIGPIPE,))
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
