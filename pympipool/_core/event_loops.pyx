# cython: language_level=3
"""Futures that coroutines wait for: the thread of an event loop of asyncio makes progress itself, and runs their callbacks.

    asyncio.wrap_future(future) ─► add_done_callback ─► schedule ─► poll: progress for microseconds ─┐
    a call that takes longer: another thread sets its result ─► put ─► descriptor ─► on_readable ────┴─► callbacks

A loop that cannot watch descriptors, as asyncio's default loop on Windows, is told by its `call_soon_threadsafe` instead.

Without this, a result would be received by the progress thread, set by the completion thread, handed to the thread for
callbacks, and by that to the loop: each of them has to be woken, and three of them need the GIL that the loop holds.

Only callbacks of asyncio run in the loop's thread. They do no more than schedule a function of the loop. Those of users may
take long, and would block the loop.
"""

from cpython.exc cimport PyErr_SetInterrupt

from pympipool._core.future_core cimport CompletionSource, FutureCore
from pympipool._core.mailbox cimport Entry, EntryQueue, lock_state, unlock_state
from pympipool._core.ring cimport pmp_wakeup_close, pmp_wakeup_read, pmp_wakeup_write

import os
import sys
from types import FunctionType

from pympipool._util.service_threads import ServiceLogger

cdef object LOGGER = ServiceLogger("concurrent.futures")

cdef int ATTEMPTS_MAX = 100  # to have a loop call a function, if that raises


cdef object running_loop():
    """Return the event loop that runs in the calling thread, or None."""
    events = sys.modules.get("asyncio.events")
    return None if events is None else events._get_running_loop()


cdef bint is_of_asyncio(object callback):
    """Return True if a callback only schedules what follows in its event loop."""
    return type(callback) is FunctionType and callback.__module__ == "asyncio.futures"


cdef LoopQueue new_loop_queue(object loop, CompletionSource source):
    """Return the queue of an event loop, which runs in the calling thread; None if there is no descriptor for it."""
    cdef LoopQueue queue = LoopQueue.__new__(LoopQueue)
    queue.loop = loop
    queue.source = source
    try:
        if hasattr(os, "eventfd"):
            queue.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            from socket import socketpair  # not a pipe: on Windows, loops cannot watch these
            reader, writer = socketpair()
            reader.setblocking(False)
            writer.setblocking(False)
            queue.descriptor, queue.other_end = reader.detach(), writer.detach()
        loop.add_reader(queue.descriptor, queue.on_readable)
    except NotImplementedError:  # the loop watches no descriptors
        queue.close_descriptors()
    except OSError:  # no descriptor is left
        return None
    return queue


cdef class LoopQueue(EntryQueue):
    """Futures that have ended, whose callbacks the thread of an event loop runs."""

    def __cinit__(self):
        self.descriptor = self.other_end = -1

    def __dealloc__(self):
        self.close_descriptors()

    cdef void close_descriptors(self) noexcept:
        if self.descriptor >= 0:
            pmp_wakeup_close(self.descriptor)
        if self.other_end >= 0:
            pmp_wakeup_close(self.other_end)
        self.descriptor = self.other_end = -1

    # ---- for any thread ----

    cdef void put(self, Entry entry) noexcept:
        lock_state()
        EntryQueue.put(self, entry)
        must_wake = not (self.is_running or self.is_written)
        unlock_state()
        if must_wake:
            self.wake()

    cdef void wake(self) noexcept:
        """Have the loop run the callbacks of futures that have ended."""
        lock_state()
        self.is_written = True
        is_watched = self.descriptor >= 0 and not self.has_ended
        if is_watched:  # otherwise there is none, or the loop does not watch it any more, and may have closed it
            pmp_wakeup_write(self.descriptor if self.other_end < 0 else self.other_end)
        unlock_state()
        if not is_watched:
            self.call_in_loop(self.on_readable)

    cdef void end(self) noexcept:
        """Have the loop forget this queue: the threads of the dispatcher end."""
        lock_state()
        self.has_ended = True
        unlock_state()
        self.call_in_loop(self.forget)

    cdef void call_in_loop(self, function) noexcept:
        """Have the loop call a function, once or twice, whatever signal handlers raise meanwhile."""
        cdef bint was_interrupted = False
        for _ in range(ATTEMPTS_MAX):
            try:
                self.loop.call_soon_threadsafe(function)
                break
            except RuntimeError:  # the loop is closed, and no coroutine waits there any more
                break
            except KeyboardInterrupt:
                was_interrupted = True
            except BaseException:
                LOGGER.exception("an event loop was not told at once that calls have ended")
        if was_interrupted:
            PyErr_SetInterrupt()  # Ctrl-C is raised again when the loop has been told

    # ---- for the loop's thread ----

    cdef int schedule(self) except -1:
        """Have the loop call `poll` after what it has to do now."""
        if not self.is_scheduled:
            self.loop.call_soon(self.poll)
            self.is_scheduled = True
            self.source.expect_poll()
        return 0

    def poll(self):
        """Make progress for microseconds, and run the callbacks of futures that have ended."""
        self.is_scheduled = False
        self.run(True)

    def on_readable(self):
        """Run the callbacks of futures that other threads have ended."""
        lock_state()
        if self.descriptor >= 0:
            pmp_wakeup_read(self.descriptor)
        self.is_written = False
        unlock_state()
        self.run(False)

    def forget(self):
        """Leave the loop, after the callbacks of futures that have ended."""
        if self.descriptor >= 0:
            self.loop.remove_reader(self.descriptor)
            self.close_descriptors()
        self.run(False)

    cdef void note_running(self, bint is_running) noexcept:
        lock_state()
        self.is_running = is_running
        unlock_state()

    cdef int run(self, bint may_spin) except -1:
        cdef bint has_ended
        self.note_running(True)
        try:
            has_ended = self.source.progress_for_loop(may_spin) or self.has_entry()
            while self.has_entry():
                try:
                    (<FutureCore>self.pop()).run_callbacks()
                except Exception:
                    LOGGER.exception("exception calling the callbacks of a future")
        finally:
            self.note_running(False)
            if self.has_entry():  # Ctrl-C, or one was put after the last look
                self.wake()
        if has_ended and self.source.has_unfinished():
            self.schedule()
        return 0
