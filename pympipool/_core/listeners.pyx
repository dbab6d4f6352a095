# cython: language_level=3
"""The listeners of a future: threads that wait for its end, waiters of the standard library, mailboxes of service threads.

    result() in a second thread ── wait_for_end ──────► end_locks ─┐
    cf.wait, cf.as_completed    ── _waiters.append ───► waiters   ─┼─ tell_listeners, by the thread that ends the future
    dependent calls, map, pools ── _post_when_done ───► posts     ─┤
    cache                       ── _follow ───────────► follower  ─┘

Ending a future runs no Python code, waits for no lock of Python and allocates nothing, so any thread can do it, the main thread
included: no exception of a signal handler can strike between its steps, no lock that was torn elsewhere can block it, and
no shortage of memory can leave a listener untold. What each listener gets was made when it was added. Until Python 3.11, the
garbage collector runs in any allocation, and lets other threads run; so nothing is allocated between the look at a future's
state and the step that depends on it.

`concurrent.futures.wait` and `as_completed` rely on two locks of the standard library. Ctrl-C at an unlucky moment leaves
them locked for ever, and the thread that ends a future would wait for them. So both are replaced here:

- Each future has a condition, which is held while a waiter is installed. Ours (`FutureCondition`) excludes no thread. The
  thread that holds it sees the future as it was when it took the condition, and a waiter that it installs is told of an
  end that has come since.
- Each waiter has an event, which the thread that ends a future sets. Ours (`WaiterEvent`) is a queue of the futures that
  have ended. The waiting thread itself takes them from there and informs its waiter.
"""

from cpython.exc cimport PyErr_SetInterrupt
from cpython.pythread cimport PyThread_get_thread_ident

from pympipool._core.mailbox cimport Entry, EntryQueue, Mailbox, Post, lock_state, unlock_state
from pympipool._core.ring cimport pmp_now_ns

import threading
from _thread import allocate_lock
from concurrent.futures import _base

from pympipool._util.service_threads import ServiceLogger

cdef object LOGGER = ServiceLogger("concurrent.futures")
cdef object Waiter = _base._Waiter
cdef double FOREVER_S = 1e15  # as a deadline
cdef double LONGEST_WAIT_S = 86_400.0  # locks refuse waits of more than 292 years, and on some systems of a few weeks


cdef class Listener(Entry):
    """A waiter of the standard library that is told of the end of one future."""


cdef class ListenedFuture(Entry):
    """The part of a future that knows whom to tell of its end."""

    cdef int expect_end(self) except -1:
        """Have the result set as soon as it arrives."""
        return 0

    cdef void expect_end_later(self) noexcept:
        """Have the result set within milliseconds after it arrives."""

    cdef bint has_failed(self):
        """Return True if the future has ended with an exception."""
        return False

    def _post_when_done(self, Mailbox mailbox not None, function):
        """Post a function to a mailbox when the future has ended; now if it has."""
        post = mailbox.prepare(function)
        posts = [post]  # all is allocated before the look at the state: the garbage collector may let another thread end it
        lock_state()
        try:
            has_ended = self.status >= CANCELLED
            if has_ended:
                mailbox.send(post)
            elif self.posts is None:
                self.posts = posts
            else:
                self.posts.append(post)
        finally:
            unlock_state()
        if not has_ended:
            self.expect_end()

    def _follow(self, Mailbox mailbox not None, Post post not None, dict pending not None):
        """Send a post to a mailbox when the future has ended, without haste: for one of many futures, which end in crowds.

        This is one step, which no signal handler can interrupt.

        Args:
            post: Made for this alone. A future has one at most.
            pending: Gets the post, hashed by its identity, so that what is not finished can be counted.
        """
        post.mailbox = mailbox
        pending[post] = None
        lock_state()
        has_ended = self.status >= CANCELLED
        if has_ended:
            mailbox.send(post)
        else:
            self.follower = post
        unlock_state()
        if not has_ended:
            self.expect_end_later()

    # ---- for concurrent.futures.wait and as_completed ----

    def _observe(self):
        """From now on let this thread see, by `_state`, whether the future has ended now."""
        observations = {}  # allocated before the look at the attribute, as in `_post_when_done`
        lock_state()
        try:
            if self.observations is None:
                self.observations = observations
            self.observations[PyThread_get_thread_ident()] = self.status >= CANCELLED
        finally:
            unlock_state()

    def _stop_observing(self):
        self.forget_observation()

    cdef int forget_observation(self) except -1:
        lock_state()
        try:
            if self.observations is not None:
                self.observations.pop(PyThread_get_thread_ident(), None)
                if not self.observations:
                    self.observations = None
        finally:
            unlock_state()
        return 0

    cdef bint seen_pending(self) except -1:
        """Return True if this thread holds the condition since before the end."""
        lock_state()
        try:
            return self.observations is not None and self.observations.get(PyThread_get_thread_ident()) is False
        finally:
            unlock_state()

    def _add_waiter(self, waiter):
        if isinstance(waiter, Waiter) and type(waiter.event) is not WaiterEvent:
            # No future can have set the old event: the standard library holds the conditions of all futures here.
            waiter.event = WaiterEvent()
        event = getattr(waiter, "event", None)
        listener = <Listener>Listener.__new__(Listener)
        listener.waiter = waiter
        if type(event) is WaiterEvent:
            listener.event = <WaiterEvent>event
        waiters = [listener]  # allocated before the look at the state, as in `_post_when_done`
        lock_state()
        try:
            has_ended = self.status >= CANCELLED
            if not has_ended:
                if self.waiters is None:
                    self.waiters = waiters
                else:
                    self.waiters.append(listener)
        finally:
            unlock_state()
        if not has_ended:
            self.expect_end()
        elif self.seen_pending():
            self.tell_waiter(listener)

    def _remove_waiter(self, waiter):
        cdef Listener listener
        lock_state()
        try:
            for listener in self.waiters or ():
                if listener.waiter is waiter:
                    self.waiters.remove(listener)
                    break
        finally:
            unlock_state()
        event = getattr(waiter, "event", None)
        if type(event) is WaiterEvent:
            (<WaiterEvent>event).take_all()

    # ---- the end ----

    cdef bint wait_for_end(self, double timeout_s) except -1:
        """Wait until another thread ends the future, at most for timeout_s (negative: without limit)."""
        lock = allocate_lock()
        lock.acquire()
        locks = [lock]
        lock_state()
        try:
            if self.end_locks is None:
                self.end_locks = locks
            else:
                self.end_locks.append(lock)
        finally:
            unlock_state()
        try:
            self.expect_end()
            if self.status < CANCELLED:
                lock.acquire(True, LONGEST_WAIT_S if timeout_s < 0 else min(timeout_s, LONGEST_WAIT_S))
        finally:
            lock_state()
            try:
                if self.end_locks is not None and lock in self.end_locks:
                    self.end_locks.remove(lock)
            finally:
                unlock_state()
        return self.status >= CANCELLED

    cdef void tell_listeners(self) noexcept:
        """Tell all listeners that the future has ended, each once; last those that run code of other libraries."""
        cdef Post post
        cdef Listener listener
        lock_state()
        locks, waiters, posts = self.end_locks, self.waiters, self.posts
        self.end_locks = self.waiters = self.posts = None
        post, self.follower = self.follower, None
        unlock_state()
        if post is not None:
            post.mailbox.send(post)
        if locks is not None:
            for lock in locks:
                lock.release()
        if posts is not None:
            for post in posts:
                post.mailbox.send(post)
        if waiters is not None:
            for listener in waiters:
                if listener.event is not None:
                    self.tell_waiter(listener)
            for listener in waiters:
                if listener.event is None:
                    self.tell_waiter(listener)

    cdef void tell_waiter(self, Listener listener) noexcept:
        listener.future = self
        if listener.event is not None:
            listener.event.ended.put(listener)
            return
        try:
            inform(listener)
        except BaseException as problem:
            if isinstance(problem, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                PyErr_SetInterrupt()  # Ctrl-C is raised again when this future, and what ends together with it, has ended
            else:
                LOGGER.exception("a waiter of class %s failed", type(listener.waiter).__name__)


cdef class FutureCondition:
    """What a future has in place of a `threading.Condition`. It excludes no thread (see above)."""

    cdef ListenedFuture future

    def __init__(self, ListenedFuture future not None):
        self.future = future

    def acquire(self, blocking=True, timeout=-1):
        self.future._observe()
        return True

    def release(self):
        self.future.forget_observation()

    def __enter__(self):
        self.future._observe()
        return True

    def __exit__(self, *_):
        self.future.forget_observation()

    def wait(self, timeout=None):
        self.future.forget_observation()
        return self.future.wait_for_end(-1.0 if timeout is None else max(<double>timeout, 0.0))

    def notify(self, n=1):
        pass

    def notify_all(self):
        pass


cdef class WaiterList:
    """What a future has in place of its list of waiters."""

    cdef ListenedFuture future

    def __init__(self, ListenedFuture future not None):
        self.future = future

    def append(self, waiter):
        self.future._add_waiter(waiter)

    def remove(self, waiter):
        self.future._remove_waiter(waiter)

    def __len__(self):
        return len(self.listeners())

    def __iter__(self):
        return iter([(<Listener>listener).waiter for listener in self.listeners()])

    cdef list listeners(self):
        """Return a copy of the list, since other threads change it."""
        lock_state()
        try:
            return list(self.future.waiters or ())
        finally:
            unlock_state()


cdef class WaiterEvent:
    """What a waiter of the standard library has in place of its `threading.Event`."""

    def __init__(self):
        self.ended = EntryQueue()
        self.flag = False

    def is_set(self):
        return self.flag != 0

    def set(self):
        self.flag = True
        self.ended.ring()

    def clear(self):
        self.flag = False

    def wait(self, timeout=None):
        """Inform the waiter of futures that have ended until it sets this event; return False after the timeout."""
        cdef double deadline_s = FOREVER_S if timeout is None else now_s() + <double>timeout
        cdef Listener listener
        while not self.flag:
            listener = <Listener>self.ended.wait_for_entry(deadline_s)
            if listener is not None:
                inform(listener)
            elif not self.flag and now_s() >= deadline_s:
                break
            listener = None
        self.take_all()
        return self.flag != 0

    cdef int take_all(self) except -1:
        """Inform the waiter of all futures that have ended by now."""
        cdef Listener listener
        while True:
            listener = <Listener>self.ended.pop()
            if listener is None:
                return 0
            inform(listener)


cdef int inform(Listener listener) except -1:
    """Tell a waiter, in the thread that waits, of a future that has ended."""
    waiter, future = listener.waiter, listener.future
    if future.status == CANCELLED:
        waiter.add_cancelled(future)
    elif future.has_failed():
        waiter.add_exception(future)
    else:
        waiter.add_result(future)
    return 0


cdef double now_s() noexcept:
    """Return the time of `time.monotonic`."""
    return pmp_now_ns() / 1e9
