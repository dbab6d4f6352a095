"""What futures ask the dispatcher; see future_requests.pyx."""

from pympipool._core.completion cimport Completion
from pympipool._core.event_loops cimport LoopQueue
from pympipool._core.future_core cimport FutureCore
from pympipool._core.state_lock cimport shared_id
from pympipool._core.types cimport Call, Core, Worker


cdef enum Turn:
    NOT_NOW  # another thread makes progress
    FIRST    # this thread makes progress until `end_turn`
    NESTED   # it does so already: a signal handler that waits for a future, for example


cdef class FutureRequests(Completion):
    cdef LoopQueue loop_queue      # futures whose callbacks an event loop runs; None: no loop has waited for one yet
    cdef shared_id continuation_thread_id  # 0 until it runs
    cdef shared_id callback_thread_id      # 0 until it runs
    cdef shared_id completion_thread_id    # of the thread that sets the results that no caller fetches
    cdef shared_id watching_thread_id      # that of the supervisor, see `supervisor_thread_id`
    cdef public double signal_check_interval_s  # longest sleep of a waiting thread between checks for signals

    cdef Turn take_turn(self, unsigned long thread) noexcept
    cdef void end_turn(self, Turn turn) noexcept
    cdef LoopQueue present_loop_queue(self)
    cdef int progress_until_done(self, FutureCore future, double deadline_s) except -1
    cdef int deliver_until_done(self, FutureCore future, double deadline_s) except -1
    cdef int continue_until_done(self, FutureCore future, double deadline_s) except -1
    cdef bint progress_once(self) except -1


cdef bint stop_behind(Core *core, Worker *worker, Call *call) noexcept nogil
