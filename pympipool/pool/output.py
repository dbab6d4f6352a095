"""Moves what workers print to the script's own streams, and keeps the last lines for error messages.

    supervisor's thread                              thread of the stream, started with the first output
    pipe ── read ──> decode ── OutputWriter.put ──>  write to sys.stdout / sys.stderr of the master
                       └──> last_lines (stderr only): quoted by `WorkerDied` and `WorkerStartError`

A stream of the script may block: no process reads the pipe behind it, Ctrl-S was pressed, or it is an object of the user. So the
supervisor never writes to it. While `BUFFER_CHARS` are not written, the supervisor does not read the pipes of workers
either, and a worker that prints more waits, as it would at a pipe. A worker that is about to exit does not wait: what it has
printed is read, so that its end and its last lines are complete.
"""

from __future__ import annotations

import atexit
import codecs
import io
import os
import select
import stat
import sys
import threading
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from pympipool._util.platform import IS_WINDOWS
from pympipool._util.service_threads import ServiceThread
from pympipool.pool.last_lines import LastLines

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from pympipool.pool.event_loop import EventLoop, HandlerGroup, Timer

READ_BYTES = 1 << 16
"""Bytes that one read takes from a pipe at most."""

DRAIN_READS = 1000
"""Reads from a pipe after its worker has exited, at most. Only a surviving child of the worker could print more."""

BUFFER_CHARS = 1 << 20
"""Characters that may wait for a stream before running workers have to wait with printing more."""

DROP_CHARS = 1 << 24
"""Characters that may wait for a stream before the output of workers that exit is dropped."""

BATCH_CHARS = 1 << 16
"""Characters that are written to a stream at once, about."""

PIECE_BYTES = 4096
"""Bytes that a pipe takes without blocking when `poll` reports it as writable (PIPE_BUF of Linux)."""

WRITABLE_CHECK_MS = 100
"""Interval in which the writer of a pipe or terminal that takes nothing checks if it is to give up."""

FLUSH_TIMEOUT_S = 2.0
"""Time without progress after which the end of an executor, and that of the interpreter, stops waiting for a stream."""

FLUSH_CHECK_MAX_S = 0.01
"""Longest interval between two checks whether everything is written."""

THREAD_RETRY_S = 0.5
"""Interval in which the thread of a stream is started again if the system has no room for it."""


class OutputWriter:
    """Writes what workers print to one stream of the script, in a thread of its own.

    No lock is shared with the threads of users: only the supervisor's thread changes `_queued`, and only the thread of the
    stream changes `_written`.

    Args:
        name: "stdout" or "stderr". The stream is `sys.stdout` or `sys.stderr` as it is at the time of each write.
        loop: The supervisor's event loop.
    """

    def __init__(self, name: str, loop: EventLoop) -> None:
        self.name = name
        self._loop = loop
        self._thread: threading.Thread | None = None
        self._retry: Timer | None = None  # starts the thread
        self._texts: SimpleQueue[str | None] = SimpleQueue()
        self._queued = 0  # characters, ever
        self._written = 0  # characters that the stream has taken or refused, ever
        self._dropped = 0  # characters that were dropped since the last text in the queue
        self._paused: list[Callable[[], None]] = []
        self._abandoned = False

    # ---- in the supervisor's thread ----

    @property
    def is_full(self) -> bool:
        """True if the stream has not taken `BUFFER_CHARS` yet."""
        return self._pending > BUFFER_CHARS

    def put(self, text: str) -> None:
        """Write text soon. Drop it if far too much waits already."""
        if self._pending > DROP_CHARS:
            self._dropped += len(text)
            return
        if self._dropped:
            text = f"\n[pympipool: {self._dropped} characters of output were dropped: nothing took them]\n{text}"
            self._dropped = 0
        self._queued += len(text)
        self._texts.put(text)
        if self._thread is None and (self._retry is None or self._retry.function is None):
            self._start()

    def call_when_emptier(self, function: Callable[[], None]) -> None:
        """Call function() in the supervisor's thread when half of the buffer is free."""
        self._paused.append(function)
        if self._has_room():  # the stream may have taken everything before it could see the function
            self._resume()

    def _resume(self) -> None:
        paused, self._paused = self._paused, []
        for function in paused:
            self._loop.run(function)

    def _start(self) -> None:
        if self._thread is not None:
            return
        thread = ServiceThread(f"pympipool_{self.name}", self._run)
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # no room for a thread: the text waits
            self._retry = self._loop.call_later(THREAD_RETRY_S, self._start)
        else:
            self._thread = thread

    # ---- for any thread ----

    @property
    def _pending(self) -> int:
        return self._queued - self._written

    def end(self) -> None:
        """Let the thread end when everything is written. Must be called after the last `put`."""
        self._texts.put(None)

    def close(self) -> None:
        """Wait until everything is written, or until the stream takes nothing for `FLUSH_TIMEOUT_S`.

        In the second case the thread goes on in the background. At the end of the interpreter the rest is lost.
        Must be called after the last `put`.
        """
        self.end()
        if self._thread is None and self._pending:
            self._start()
        thread = self._thread
        if thread is None or thread is threading.current_thread():  # called by the stream: it gets the rest afterwards
            return
        if self._flush():
            thread.join(FLUSH_TIMEOUT_S)
        elif threading.main_thread().is_alive():
            atexit.register(self._close_at_exit)
        else:  # at the end of the interpreter
            self._abandon(thread)

    def _close_at_exit(self) -> None:
        thread = self._thread
        if thread is not None and thread.is_alive() and not self._flush():  # it is not alive in a forked child
            self._abandon(thread)

    def _abandon(self, thread: threading.Thread) -> None:
        """End a thread that waits until a pipe or terminal takes more. A write that blocks cannot be ended."""
        self._abandoned = True
        thread.join(2 * WRITABLE_CHECK_MS / 1000)

    def _flush(self) -> bool:
        """Wait until everything is written; return False if the stream takes nothing for `FLUSH_TIMEOUT_S`."""
        written, since_s, pause_s = self._written, monotonic(), 0.0001
        while self._pending:
            if self._written != written:
                written, since_s = self._written, monotonic()
            elif monotonic() - since_s > FLUSH_TIMEOUT_S:
                return False
            sleep(pause_s)
            pause_s = min(2 * pause_s, FLUSH_CHECK_MAX_S)
        return True

    # ---- the thread ----

    def _has_room(self) -> bool:
        return self._pending <= BUFFER_CHARS // 2

    def _run(self) -> None:
        is_open = True
        while is_open:
            texts, is_open = self._next_texts()
            end = self._written + sum(map(len, texts))
            try:
                self._write("".join(texts))
            except BaseException:
                pass  # the stream, of any type, is closed or full: the output is lost, the call is not
            self._written = end
            if self._paused and self._has_room():
                self._loop.call(self._resume)
        atexit.unregister(self._close_at_exit)

    def _next_texts(self) -> tuple[list[str], bool]:
        """Wait for text, and return all that has arrived, in batches; False if no more comes."""
        texts: list[str] = []
        size = 0
        try:
            text = self._texts.get()
            while text is not None:
                texts.append(text)
                size += len(text)
                if size >= BATCH_CHARS:
                    return texts, True
                text = self._texts.get_nowait()
        except Empty:
            return texts, True
        return texts, False

    def _write(self, text: str) -> None:
        stream: TextIO | None = getattr(sys, self.name, None)
        if stream is None or self._abandoned or not text:
            return
        poll = _poll_of_plain_stream(stream)
        if poll is None:
            stream.write(text)
            stream.flush()
        else:
            self._write_in_pieces(stream, poll, text)

    def _write_in_pieces(self, stream: TextIO, poll: Any, text: str) -> None:
        """Write to a pipe or terminal only while it takes something: a thread that is blocked there would hold the stream's lock.

        The script could not print then, and the interpreter could not end.
        """
        size = PIECE_BYTES if text.isascii() else PIECE_BYTES // 4
        for begin in range(0, len(text), size):
            piece = text[begin : begin + size]
            self._wait_until_writable(poll)
            try:
                stream.write(piece)
            except BlockingIOError:
                pass  # the descriptor does not block: the text is in the stream's buffer
            while not self._abandoned:
                try:
                    stream.flush()
                    break
                except BlockingIOError:
                    self._wait_until_writable(poll)
            if self._abandoned:
                return
            self._written += len(piece)

    def _wait_until_writable(self, poll: Any) -> None:
        while not self._abandoned and not poll.poll(WRITABLE_CHECK_MS):
            pass


def _poll_of_plain_stream(stream: TextIO) -> Any:
    """Return a poll object for a pipe or terminal behind a text stream of Python; None for files and for all other objects.

    Another object may have a `fileno` that does not belong to what it writes to.
    """
    if type(stream) is not io.TextIOWrapper or IS_WINDOWS:
        return None
    buffer = stream.buffer
    if type(buffer) is not io.BufferedWriter and type(buffer) is not io.FileIO:
        return None
    descriptor = buffer.fileno()
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll


def _new_decoder() -> codecs.IncrementalDecoder | io.IncrementalNewlineDecoder:
    """Return what decodes the output of a worker.

    Where a line ends with two characters, it does not divide these: together they become one newline. The stream of the script will
    write both again.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return decoder if os.linesep == "\n" else io.IncrementalNewlineDecoder(decoder, translate=False)


class Output:
    """One stream of a worker. Only for the supervisor's thread.

    Args:
        pipe: The reading end of the worker's pipe, which does not block; None if the worker has none.
        writer: Writes to the master's stream of that name.
        last_lines: Collects the last lines; None if they are not needed.
        loop: Waits for output.
        group: The group of its handlers.
    """

    def __init__(
        self,
        pipe: BinaryIO | None,
        writer: OutputWriter,
        last_lines: deque[str] | None,
        loop: EventLoop,
        group: HandlerGroup | None = None,
    ) -> None:
        self.pipe = pipe
        self._writer = writer
        self._last_lines = None if last_lines is None else LastLines(last_lines)
        self._loop = loop
        self._group = group
        self._decoder: codecs.IncrementalDecoder | io.IncrementalNewlineDecoder | None = None  # until it prints
        self._muted = False
        self._is_watched = False
        self._is_exiting = False

    def watch(self) -> None:
        """Forward what arrives from now on."""
        if self.pipe is not None and not self._is_watched:
            self._loop.watch(self.pipe, self._forward, self._group)
            self._is_watched = True

    def read_to_end(self) -> None:
        """Forward what arrives also if the stream of the script does not take it: the worker is about to exit."""
        self._is_exiting = True
        self.watch()

    def mute(self) -> None:
        """Forward what has arrived, and drop everything that arrives later."""
        self._process(self._read() or b"")
        self._muted = True

    def drain(self) -> None:
        """Forward what is left and close the pipe."""
        self._unwatch()
        for _ in range(DRAIN_READS):
            data = self._read()
            if not data:
                break
            self._process(data)
        if self._decoder is not None:
            self._process(b"", is_end=True)
        if self._last_lines is not None:
            self._last_lines.finish()
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None

    def _forward(self) -> None:
        data = self._read()
        if data:
            self._process(data)
        elif data is not None:  # the end
            self._unwatch()
        if self._is_watched and self._writer.is_full and not self._is_exiting:
            self._unwatch()
            self._writer.call_when_emptier(partial(self._loop.run, self.watch, self._group))

    def _unwatch(self) -> None:
        if self._is_watched:
            self._loop.unwatch(self.pipe)
            self._is_watched = False

    def _read(self) -> bytes | None:
        """Return what has arrived: None if nothing has yet, b"" if the pipe has ended."""
        if self.pipe is None:
            return b""
        try:
            return self.pipe.read(READ_BYTES)
        except (OSError, ValueError):
            return b""

    def _process(self, data: bytes, *, is_end: bool = False) -> None:
        if self._decoder is None:
            self._decoder = _new_decoder()
        text = self._decoder.decode(data, is_end)
        if os.linesep != "\n":
            text = text.replace(os.linesep, "\n")
        if text and not self._muted:
            self._writer.put(text)
        if self._last_lines is not None:
            self._last_lines.add(text)
