"""A process that a call has forked ends when it comes back from that call: only the worker answers, and takes further calls.

    call ── os.fork ──> worker: goes on
                    └─> child: the rest of the call, then `end_fork`, whether the call has returned or raised

The same holds for a fork of an initializer, of a finalizer, of a signal handler (`Channel.forks`), and of code of the user that
unpickles or pickles. Otherwise both would receive from the same ring. A child that never comes back, because it calls os._exit or
another program, is none of our business.
"""

from __future__ import annotations

import os
import sys
from collections import deque

from pympipool._util.platform import on_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

NO_ROWS: Iterator[Any] = iter(())


class CallForks:
    """Tells whether this process was forked by a call of this worker.

    Attributes:
        is_fork: It was.
        rows: The rows of the batch that runs, as far as they have not been taken. A fork takes none.
    """

    __slots__ = ("is_fork", "rows")

    def __init__(self) -> None:
        self.is_fork = False
        self.rows = NO_ROWS

    def watch(self) -> None:
        """Take each later fork of this process for one of a call."""
        on_fork(in_child=self._note)

    def _note(self) -> None:
        self.is_fork = True
        close = getattr(self.rows, "close", None)
        if close is not None:
            close()  # to take them would run code of the user, for each row
        else:
            deque(self.rows, maxlen=0)  # an iterator of Python, over values without such code

    def end_fork(self) -> None:
        """End this process if a call has forked it: with the exception that is being handled, if there is one.

        As in a child of multiprocessing, no exit functions run: they are those of the worker.
        """
        if self.is_fork:
            code = 1
            try:
                from contextlib import suppress  # few workers need it

                code = _report(sys.exc_info()[1]) & 0xFF  # as the system does with it
                for stream in (sys.stdout, sys.stderr):
                    with suppress(Exception):  # the call may have closed or replaced it
                        stream.flush()
            finally:
                os._exit(code)


def _report(error: BaseException | None) -> int:
    """Write to stderr how the call ended in a fork; return the exit code for that."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
    else:
        print(
            f"process {os.getpid()}, which a call or an initializer has forked, returned from it, and ends here: only the worker"
            " goes on. End a fork with os._exit()",
            file=sys.stderr,
        )
    return 1
