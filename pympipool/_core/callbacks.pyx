# cython: language_level=3
"""The callbacks of a future, and the threads that wait until they have run.

Callbacks of users run in a thread of their own. A waiting thread may hold locks that a callback needs. And a callback
that takes long, or waits for another call, must not delay any other call. Threads that wait for the future wait until its
callbacks have run, but only for milliseconds (`wait_for_callbacks`).
"""

from cpython.pythread cimport PyThread_get_thread_ident

from pympipool._core.listeners cimport ListenedFuture, now_s
from pympipool._core.mailbox cimport lock_state, unlock_state

import sys
from _thread import allocate_lock
from time import monotonic

from pympipool._util.service_threads import ServiceLogger

cdef object LOGGER = ServiceLogger("concurrent.futures")
cdef double CALLBACKS_S = 0.005       # time that callbacks may run before threads stop waiting for them
cdef double CALLBACKS_WAIT_S = 0.1    # longest wait for callbacks, for example of many futures
cdef double CALLBACKS_CHECK_S = 0.001  # interval at which a waiting thread checks if callbacks block


cdef class CallbackThread:
    """The thread that runs callbacks of users, as a future sees it."""

    cdef bint may_wait_for_callbacks(self) except -1:
        """Return False if the calling thread must not wait for the callbacks of a future."""
        return True


cdef class FutureWithCallbacks(ListenedFuture):
    """The part of a future that runs its callbacks."""

    def run_callbacks(self):
        """Run each callback once, also when several threads call this."""
        cdef list waiters = None
        lock_state()
        callbacks, self.callbacks = self.callbacks, None
        if callbacks is not None:
            if self.callback_runs == 0:
                self.callbacks_since_s = now_s()
            self.callback_runs += 1
            self.ending_thread = PyThread_get_thread_ident()
        unlock_state()
        if callbacks is None:
            return
        try:
            run_each(callbacks, self)
        finally:
            lock_state()
            self.callback_runs -= 1
            if self.callback_runs == 0:
                self.ending_thread = 0
                waiters, self.callback_waiters = self.callback_waiters, None
            unlock_state()
            if waiters is not None:
                for lock in waiters:
                    lock.release()

    cdef bint has_callbacks(self) noexcept:
        """Return True if there are callbacks that no thread runs yet."""
        lock_state()
        found = self.callbacks is not None
        unlock_state()
        return found

    cdef bint has_callbacks_left(self) noexcept:
        """Return True if callbacks wait for their thread, or run."""
        lock_state()
        left = self.callback_runs != 0 or (self.callbacks is not None and len(self.callbacks) != 0)
        unlock_state()
        return left

    cdef int wait_for_callbacks(self, CallbackThread thread, object timeout) except -1:
        """Wait until the callbacks of this future, which is done, have run; not for callbacks that block.

        A thread on which the callbacks depend does not wait, and neither does the thread of an event loop: it must not block.

        Args:
            thread: Runs the callbacks, if no thread does so yet; None: there is no such thread.
            timeout: Longest wait in seconds, at most CALLBACKS_WAIT_S; None: CALLBACKS_WAIT_S.
        """
        cdef double end_s = monotonic() + (CALLBACKS_WAIT_S if timeout is None else min(<double>timeout, CALLBACKS_WAIT_S))
        cdef double since_s, left_s
        if self.ending_thread == PyThread_get_thread_ident() or runs_event_loop():
            return 0
        if thread is not None and not thread.may_wait_for_callbacks():
            return 0
        lock = allocate_lock()
        lock.acquire()
        waiters = [lock]
        lock_state()
        try:
            if self.callback_waiters is None:
                self.callback_waiters = waiters
            else:
                self.callback_waiters.append(lock)
        finally:
            unlock_state()
        try:
            while self.has_callbacks_left():
                if self.callback_runs != 0:
                    since_s = self.callbacks_since_s
                else:
                    since_s = 0 if thread is None else thread.callbacks_since_s
                left_s = (end_s if since_s == 0 else min(end_s, since_s + CALLBACKS_S)) - monotonic()
                if left_s <= 0:
                    break
                lock.acquire(True, min(left_s, CALLBACKS_CHECK_S))
        finally:
            lock_state()
            try:
                if self.callback_waiters is not None and lock in self.callback_waiters:
                    self.callback_waiters.remove(lock)
            finally:
                unlock_state()
        return 0


cdef bint runs_event_loop() except -1:
    """Return True if the calling thread runs an event loop of asyncio."""
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None


cdef int run_each(list callbacks, object future) except -1:
    """Call each callback, whatever the others raise. Exceptions are logged; KeyboardInterrupt and its like end this call."""
    interrupt = None
    for fn in callbacks or ():
        try:
            fn(future)
        except Exception as error:
            try:
                LOGGER.exception("exception calling callback for %s", object.__repr__(future))
            except BaseException as of_handler:
                interrupt = of_handler
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
    return 0
