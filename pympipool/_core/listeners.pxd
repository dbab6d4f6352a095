"""What is told when a future ends; see listeners.pyx."""

from pympipool._core.mailbox cimport Entry, EntryQueue, Post
from pympipool._core.state_lock cimport shared_status

cdef enum Status:
    PENDING
    RUNNING
    CANCELLED
    FINISHED


cdef class WaiterEvent:
    cdef EntryQueue ended  # of Listener
    cdef shared_status flag

    cdef int take_all(self) except -1


cdef class Listener(Entry):
    cdef object waiter
    cdef WaiterEvent event      # None: the waiter is of another class, such as that of green threads
    cdef ListenedFuture future  # once it has ended


cdef class ListenedFuture(Entry):
    cdef shared_status status  # a Status
    cdef list end_locks     # a lock for each thread that waits in `wait_for_end`
    cdef list waiters       # a Listener for each waiter of concurrent.futures.wait and as_completed
    cdef list posts         # a Post for each function that is posted at the end
    cdef Post follower      # posted at the end too, if there is no hurry; or None
    cdef dict observations  # identity of a thread that holds `_condition` -> True if the future had ended by then

    cdef int expect_end(self) except -1
    cdef void expect_end_later(self) noexcept
    cdef bint has_failed(self)
    cdef bint seen_pending(self) except -1
    cdef int forget_observation(self) except -1
    cdef bint wait_for_end(self, double timeout_s) except -1
    cdef void tell_listeners(self) noexcept
    cdef void tell_waiter(self, Listener listener) noexcept


cdef double now_s() noexcept
