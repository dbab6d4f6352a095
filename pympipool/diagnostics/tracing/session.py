"""`pympipool.trace`: make all executors record their calls, and write the records to a file.

start ─► trace_registry.start ─► add_engine(engine): a Recorder for each engine, also for engines that are made later
stop  ─► engines stop recording ─► collect ─► Timeline ─► export ─► the file
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
from contextlib import ContextDecorator
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from pympipool._core.trace_buffer import Recorder
from pympipool.diagnostics.tracing.collect import RecordedExecutor, collect
from pympipool.diagnostics.tracing.export import write
from pympipool.diagnostics.tracing.timeline import LIMIT, Timeline
from pympipool.execution import trace_registry
from pympipool.serialization import most_shared_bytes

if TYPE_CHECKING:
    from types import TracebackType

    from pympipool.diagnostics.figures import ThemedFigure
    from pympipool.diagnostics.tracing.summary import Summary
    from pympipool.execution.trace_registry import TracedEngine

LOGGER = logging.getLogger("pympipool.trace")


class trace(ContextDecorator):  # noqa: N801  it is used like `open`
    """Record when each call of all executors of this process was submitted, sent, started and ended.

    Use it as a context manager, as a decorator of a function, or with `start` and `stop`, which is handy in notebooks.
    The file is written at the end, also when an exception or Ctrl-C leaves the block. Open it with
    https://ui.perfetto.dev, or run `pympipool trace FILE` for a summary.

    Args:
        path: The file to write; with the ending ".gz" it is compressed. None writes no file: `summary`, `plot` and
            `write` still work.
        max_calls: Number of calls that are recorded for each executor. Calls that end after them are only counted. Each
            call takes 90 bytes of memory until the end, and about 600 bytes in the file.

    Raises:
        OSError: At the start: the folder does not exist, or nothing can be written there. At the end: the file could
            not be written (if an exception left the block, that exception is raised, and this error is logged).
        RuntimeError: At the start: another trace is recording.
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
        self._start_ns = 0
        self._start_time = datetime.now(timezone.utc)
        self._recording_pid = 0  # id of the process that records; 0 while not recording
        self._recorders: list[tuple[TracedEngine, Recorder]] = []
        self._timeline: Timeline | None = None

    # ---- recording ----

    def start(self) -> trace:
        """Start recording."""
        if self.path is not None:
            _check_folder(self.path)
        if self._recording_pid == os.getpid():
            raise RuntimeError(f"{self._name} records already: stop() it first")
        self._recorders, self._timeline = [], None
        self._start_time = datetime.now(timezone.utc).astimezone()
        self._start_ns = monotonic_ns()
        most_shared_bytes(from_now=True)
        self._recording_pid = os.getpid()  # before it records, so that `stop` works whatever Ctrl-C has interrupted
        try:
            other = trace_registry.start(self)
            if other is not None:
                raise RuntimeError(
                    f"{other!r} records already, and there can be one trace at a time: it sees the calls of all executors"
                )
            atexit.register(self._stop_at_exit)
        except BaseException:  # Ctrl-C too, of which the one who has no trace yet could undo nothing
            self._end_recording()
            self._recording_pid = 0
            raise
        return self

    def add_engine(self, engine: TracedEngine) -> None:
        """Record the calls of another engine."""
        recorder = Recorder(self.max_calls)
        self._recorders.append((engine, recorder))
        engine.record(recorder)

    def stop(self) -> Timeline:
        """Stop recording, and write the file.

        Returns:
            The recorded timeline. It is kept even if the file could not be written.

        Raises:
            RuntimeError: The trace is not recording.
            OSError: The file could not be written.
        """
        if self._recording_pid != os.getpid():  # also in a forked child: only the parent records
            raise RuntimeError(f"{self._name} does not record: start() it first")
        self._end_recording()
        duration_ns = monotonic_ns() - self._start_ns
        recorded = [RecordedExecutor(recorder, engine.executor_info) for engine, recorder in self._recorders]
        start_time = self._start_time.isoformat(timespec="milliseconds")
        shared_bytes = most_shared_bytes()
        empty = Timeline(start_time, duration_ns, socket.gethostname(), os.getpid(), shared_bytes=shared_bytes)
        self._timeline = collect(recorded, empty, self._start_ns)
        self._recording_pid = 0  # last, so that an interrupted stop may be repeated
        self._recorders = []
        if self.path is not None:
            self.write(self.path)
        return self._timeline

    def _end_recording(self) -> None:
        trace_registry.stop(self)
        atexit.unregister(self._stop_at_exit)
        for engine, _ in self._recorders:
            engine.record(None)

    def _stop_at_exit(self) -> None:
        if self._recording_pid == os.getpid():
            self.stop()

    def __enter__(self) -> trace:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._recording_pid != os.getpid():
            return  # a forked child leaves the block, or stop() was called inside
        try:
            self.stop()
        except OSError as failure:
            if error is None:
                raise
            LOGGER.error("%s", failure)  # the exception of the block matters more

    # ---- results ----

    @property
    def timeline(self) -> Timeline:
        """The recorded timeline.

        Raises:
            RuntimeError: Nothing was recorded yet.
        """
        if self._timeline is None:
            raise RuntimeError(f"{self._name} has nothing to show: it must have been started and stopped")
        return self._timeline

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the recorded timeline to a file. The file appears in one step: it is never there half-written.

        Raises:
            OSError: The file cannot be written.
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            write(self.timeline, temporary, compressed=path.suffix == ".gz")
            temporary.replace(path)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the trace could not be written ({error.strerror}); what was recorded is still there: make room, or write it"
                " elsewhere, with write(path)",
                str(path),
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def summary(self) -> Summary:
        """Return where the time of calls and workers went, as data."""
        from pympipool.diagnostics.tracing.summary import summarize

        return summarize(self.timeline)

    def report(self) -> str:
        """Return the summary as text, with what to change, as `pympipool trace` prints it."""
        from pympipool.diagnostics.tracing.report import format_report

        return format_report(self.summary())

    def plot(self, path: str | os.PathLike[str] | None = None, **options: Any) -> ThemedFigure:
        """Draw workers and calls, and write the picture to a file if path is given.

        In a notebook, the last line of a cell shows the picture. It follows the notebook's theme.

        The options are those of `pympipool.diagnostics.tracing.plot.draw`.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from pympipool.diagnostics.tracing.plot import draw

        return draw(self.timeline, path, **options)

    @property
    def _name(self) -> str:
        return f"trace({str(self.path)!r})" if self.path is not None else "trace()"

    def __repr__(self) -> str:
        """Return the summary as text; how the trace was made while it has recorded nothing."""
        return self._name if self._timeline is None else self.report().rstrip()

    def _repr_html_(self) -> str | None:
        """Return the picture, and below it the summary, for a notebook. Without matplotlib there is no picture."""
        if self._timeline is None:
            return None
        picture = ""
        with contextlib.suppress(ImportError):
            picture = self.plot()._repr_html_() if self._timeline.calls else ""
        is_open = "" if picture else " open"
        return f"{picture}<details{is_open}><summary>Summary</summary><pre>{escape(self.report())}</pre></details>"


def _check_folder(path: Path) -> None:
    """Raise OSError now for a file that could not be written at the end."""
    folder = path.parent
    if path.is_dir():
        raise IsADirectoryError(
            f"the trace cannot be written to {str(path)!r}: that is a folder; give the name of a file"
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"the trace cannot be written to {str(path)!r}: there is no folder {str(folder)!r}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the trace cannot be written to {str(path)!r}: no right to write in {str(folder)!r}")
