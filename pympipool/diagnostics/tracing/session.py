"""`pympipool.trace`: has all executors record their calls, and writes what they have recorded to a file.

start ─► trace_registry.start ─► add_engine(engine): a Recorder for each, also for those that are made later
stop  ─► engines record no more ─► collect ─► Timeline ─► writing ─► the file
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
from contextlib import ContextDecorator
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from pympipool._core.trace_buffer import Recorder
from pympipool.diagnostics.tracing.collect import Part, collect
from pympipool.diagnostics.tracing.export import write
from pympipool.diagnostics.tracing.timeline import LIMIT, Timeline
from pympipool.execution import trace_registry

if TYPE_CHECKING:
    from types import TracebackType

    from matplotlib.figure import Figure

    from pympipool.diagnostics.tracing.summary import Summary
    from pympipool.execution.trace_registry import TracedEngine

LOGGER = logging.getLogger("pympipool.trace")


class trace(ContextDecorator):  # noqa: N801  it is used like `open`
    """Records what happens to each call of all executors of this process, and when.

    As context manager, as decorator of a function, or with `start` and `stop`, as is handy in notebooks. The file is written
    at the end, also when an exception or Ctrl-C leaves the block. Open it with https://ui.perfetto.dev, or run
    `pympipool trace FILE` for a summary.

    Args:
        path: The file to write; with the ending ".gz" it is compressed. None writes none: `summary`, `plot` and `write` have
            it all the same.
        max_calls: Calls of each executor that are recorded; what ends after them is only counted. Each takes 80 bytes until
            the end, and about 500 bytes in the file.

    Raises:
        OSError: When it starts: there is no such folder, or nothing can be written there. When it ends: the file could
            not be written (if the block was left by an exception, that one is raised, and this one logged).
        RuntimeError: When it starts: another trace records already.
        TypeError, ValueError: An argument is wrong.

    Examples:
        >>> from pympipool import Executor, trace
        >>> with trace() as seen, Executor(max_workers=1, block_allocation=True) as exe:
        ...     exe.submit(pow, 2, 5).result()
        32
        >>> [(call.name, call.outcome) for call in seen.timeline.calls]
        [('pow', 'returned')]
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, max_calls: int = LIMIT) -> None:
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"path is {path!r}; it must be the name of a file to write, or None")
        if isinstance(max_calls, bool) or not isinstance(max_calls, int):
            raise TypeError(f"max_calls is {max_calls!r}; it must be an integer")
        if max_calls < 1:
            raise ValueError(f"max_calls is {max_calls}; it must be at least 1")
        self.path = None if path is None else Path(path)
        self.max_calls = max_calls
        self._begun_ns = 0
        self._begun = datetime.now(timezone.utc)
        self._master = 0  # the process that records; 0: none does
        self._recorders: list[tuple[TracedEngine, Recorder]] = []
        self._timeline: Timeline | None = None

    # ---- recording ----

    def start(self) -> trace:
        """Begins to record."""
        if self.path is not None:
            _check_folder(self.path)
        if self._master == os.getpid():
            raise RuntimeError(f"{self!r} records already: stop() it first")
        self._recorders, self._timeline = [], None
        self._begun = datetime.now(timezone.utc).astimezone()
        self._begun_ns = monotonic_ns()
        other = trace_registry.start(self)
        if other is not None:
            raise RuntimeError(
                f"{other!r} records already, and there can be one trace at a time: it sees the calls of all executors"
            )
        self._master = os.getpid()
        atexit.register(self._stop_at_exit)
        return self

    def add_engine(self, engine: TracedEngine) -> None:
        """Records the calls of another engine."""
        recorder = Recorder(self.max_calls)
        self._recorders.append((engine, recorder))
        engine.record(recorder)

    def stop(self) -> Timeline:
        """Ends recording, and writes the file.

        Returns:
            What was recorded; it is kept, whether or not the file could be written.

        Raises:
            RuntimeError: It does not record.
            OSError: The file could not be written.
        """
        if self._master != os.getpid():  # of a fork, too: it is the parent who records
            raise RuntimeError(f"{self!r} does not record: start() it first")
        trace_registry.stop(self)
        self._master = 0
        atexit.unregister(self._stop_at_exit)
        for source, _ in self._recorders:
            source.record(None)
        duration_ns = monotonic_ns() - self._begun_ns
        parts = [Part(recorder, source.executor_info) for source, recorder in self._recorders]
        self._recorders = []
        begun = self._begun.isoformat(timespec="milliseconds")
        empty = Timeline(begun, duration_ns, socket.gethostname(), os.getpid())
        self._timeline = collect(parts, empty, self._begun_ns)
        if self.path is not None:
            self.write(self.path)
        return self._timeline

    def _stop_at_exit(self) -> None:
        if self._master == os.getpid():
            self.stop()

    def __enter__(self) -> trace:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._master != os.getpid():
            return  # a fork leaves the block, or stop() was called inside
        try:
            self.stop()
        except OSError as failure:
            if error is None:
                raise
            LOGGER.error("%s", failure)  # what went wrong in the block matters more

    # ---- what was recorded ----

    @property
    def timeline(self) -> Timeline:
        """What was recorded.

        Raises:
            RuntimeError: Nothing yet.
        """
        if self._timeline is None:
            raise RuntimeError(f"{self!r} has nothing to show: it must have been started and stopped")
        return self._timeline

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes what was recorded to a file, in one step: there is never half of one under this name.

        Raises:
            OSError: It cannot be written.
        """
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            write(self.timeline, unfinished, compressed=path.suffix == ".gz")
            unfinished.replace(path)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the trace could not be written ({error.strerror}); what was recorded is still there: make room, or write it"
                " elsewhere, with write(path)",
                str(path),
            ) from error
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink()

    def summary(self) -> Summary:
        """Where the time of calls and workers went, as data."""
        from pympipool.diagnostics.tracing.summary import summarise

        return summarise(self.timeline)

    def report(self) -> str:
        """The same in words and tables, with what may be changed; as `pympipool trace` prints it."""
        from pympipool.diagnostics.tracing.report import as_text

        return as_text(self.summary())

    def plot(self, path: str | os.PathLike[str] | None = None, **options: Any) -> Figure:
        """A picture of workers and calls (see `pympipool.diagnostics.tracing.plot.draw`), also written to a file if path is given.

        Raises:
            ImportError: matplotlib is missing.
        """
        from pympipool.diagnostics.tracing.plot import draw

        return draw(self.timeline, path, **options)

    def __repr__(self) -> str:
        return f"trace({str(self.path)!r})" if self.path is not None else "trace()"


def _check_folder(path: Path) -> None:
    """Raises OSError for a file that could not be written at the end: better now."""
    folder = path.parent
    if path.is_dir():
        raise IsADirectoryError(
            f"the trace cannot be written to {str(path)!r}: that is a folder; give the name of a file"
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"the trace cannot be written to {str(path)!r}: there is no folder {str(folder)!r}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the trace cannot be written to {str(path)!r}: no right to write in {str(folder)!r}")
