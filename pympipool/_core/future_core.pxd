"""Futures whose state lies in C fields; see future_core.pyx."""

from pympipool._core.callbacks cimport CallbackThread, FutureWithCallbacks
from pympipool._core.mailbox cimport EntryQueue, Post
from pympipool._core.listeners cimport CANCELLED, FINISHED, PENDING, RUNNING, Status


cdef class CompletionSource(CallbackThread):
    cdef bint progress_until(self, FutureCore future, double deadline_s) except -1
    cdef int poll(self) except -1
    cdef bint try_cancel(self, FutureCore future, bint force) except -1
    cdef bint is_started(self, FutureCore future) except -1
    cdef int notify_when_done(self, FutureCore future) except -1
    cdef void notify_later(self) noexcept
    cdef void record_cancelled(self, FutureCore future) noexcept
    cdef int check_may_wait(self) except -1
    cdef EntryQueue queue_of_loop(self, object callback)
    cdef void expect_poll(self) noexcept
    cdef bint progress_for_loop(self, bint may_spin) except -1
    cdef bint has_unfinished(self) except -1


cdef class FutureCore(FutureWithCallbacks):
    cdef object value       # the result, once it is unpickled
    cdef object error       # the exception, once it is unpickled
    cdef object parts       # the pickled result until it is read, then None
    cdef bint is_error      # parts hold an exception
    cdef public bint is_unbegun  # the call fails with a worker that has died before it began it
    cdef CompletionSource source
    cdef EntryQueue loop_queue  # of the event loop that has added all callbacks, and runs them; None: a thread runs them
    cdef object kept        # what the call was given, until it has ended
    cdef readonly dict shared  # {number of the worker: what the call has shared for its result}, or None
    cdef public object function_name  # for error messages
    cdef readonly long long run_ns    # run time in the worker; 0 until it is known
    cdef public unsigned int rows     # number of calls of a batch; 0 for a single call
    cdef readonly long long submitted_ns  # of a traced call, see Times in trace_buffer.pxd; otherwise 0
    cdef long long ready_ns
    cdef bint times_moved   # the call has a copy of the times, and its end is recorded with them
    cdef public object cache_entry    # of a call whose result is cached (see caching/entries.py), or None
    cdef public object retry          # the state of a call that may be retried (see execution/retries.py), or None
    cdef Post on_failure    # posted when the call has failed, instead of the end of the future; None: the future ends
    cdef bint counts_as_retried  # it has failed, may be retried, and is unfinished for the dispatcher
    cdef public int attempts
    cdef list failures      # the exceptions of attempts that were followed by another one, or None
    cdef void *call         # belongs to the source; NULL if there is none

    cdef void drop_kept(self, bint with_shared) noexcept
    cdef int keep_arguments(self, object fn, object args, object kwargs) except -1
    cdef object parts_of(self, bint error)
    cdef bint set_parts(self, object parts, bint is_error) except -1
    cdef bint set_error(self, object error) except -1
    cdef bint try_cancel(self, bint force) except -1
    cdef bint end(self, object value, object error, object parts, bint is_error) except -1
    cdef int finish(self, object value, object error, object parts, bint is_error) except -1
    cdef int wait_until_done(self, object timeout) except -1
    cdef int settle_callbacks(self, object timeout) except -1
    cdef int wait(self, object timeout) except -1
    cdef object load_value(self, object parts)
    cdef int decode(self) except -1
    cdef object decoded_error(self)
    cdef str state_name(self)


cdef object active_green_threads()
