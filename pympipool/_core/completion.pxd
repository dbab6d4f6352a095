"""The completion of futures; see completion.pyx."""

from pympipool._core.call_traces cimport CallTraces
from pympipool._core.future_core cimport FutureCore
from pympipool._core.mailbox cimport EntryQueue, Mailbox, Post
from pympipool._core.state_lock cimport counter, shared_id
from pympipool._core.trace_buffer cimport Outcome
from pympipool._core.types cimport Call


cdef class Completion(CallTraces):
    cdef object load_result
    cdef object load_error
    cdef counter lost          # number of calls that failed without an answer from a worker
    cdef shared_id waiting_thread  # identity of the waiting thread that has acquired progress; 0: none has
    cdef Mailbox requests          # for the completion thread, see `call_soon`
    cdef counter running_requests  # number of those that run now: one can wait for another
    cdef counter delivering        # number of results that are being set on their futures
    cdef counter retrying          # number of calls that have failed, may be retried, and have not ended
    cdef EntryQueue ended          # futures whose callbacks must be run
    cdef readonly Mailbox continuations  # what follows from ends of calls

    cdef bint pump(self) noexcept
    cdef void run_posted(self, Post post) noexcept
    cdef void run_requests(self) noexcept
    cdef void deliver(self) noexcept
    cdef bint hand_over(self, FutureCore future, object parts) noexcept
    cdef Call *take_done_call(self) noexcept
    cdef void deliver_call(self, Call *call) noexcept
    cdef void try_to_cancel(self, FutureCore future) noexcept
    cdef void queue_callbacks(self, FutureCore future) noexcept
    cdef void fail_with(self, FutureCore future, object error) noexcept
    cdef void end_waiting(self, Outcome outcome, object make_error) noexcept
    cdef Call *take_waiting_call(self, Outcome outcome) noexcept
    cdef void end_call(self, Call *call, Outcome outcome, object make_error) noexcept
