"""What is told when a future ends; see listeners.pyx."""

from pympipool._core.mailbox cimport Mailbox

cdef enum Status:
    PENDING
    RUNNING
    CANCELLED
    FINISHED


cdef class ListenedFuture:
    cdef Status status
    cdef list end_locks     # a lock for each thread that waits in `wait_for_end`
    cdef list waiters       # of concurrent.futures.wait and as_completed
    cdef list posts         # (mailbox, function) for each function that is posted at the end
    cdef dict observations  # identity of a thread that holds `_condition` -> True if the future had ended by then

    cdef int expect_end(self) except -1
    cdef bint has_failed(self)
    cdef bint seen_pending(self) except -1
    cdef int forget_observation(self) except -1
    cdef bint wait_for_end(self, double timeout_s) except -1
    cdef int tell_listeners(self) except -1
    cdef int tell_waiter(self, object waiter) except -1
