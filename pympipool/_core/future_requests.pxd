"""What futures ask the dispatcher; see future_requests.pyx."""

from pympipool._core.completion cimport Completion
from pympipool._core.event_loops cimport LoopQueue
from pympipool._core.future_core cimport FutureCore


cdef class FutureRequests(Completion):
    cdef LoopQueue loop_queue      # futures whose callbacks an event loop runs; None: no loop has waited for one yet
    cdef unsigned long continuation_thread_id  # 0 until it runs
    cdef unsigned long callback_thread_id    # 0 until it runs
    cdef unsigned long completion_thread_id  # of the thread that sets the results that no caller fetches
    cdef public unsigned long supervisor_thread_id  # of the thread that watches the workers; set by it
    cdef public double signal_check_interval_s  # longest sleep of a waiting thread between checks for signals

    cdef int progress_until_done(self, FutureCore future, double deadline_s) except -1
    cdef int deliver_until_done(self, FutureCore future, double deadline_s) except -1
    cdef int continue_until_done(self, FutureCore future, double deadline_s) except -1
    cdef int progress_once(self) except -1
