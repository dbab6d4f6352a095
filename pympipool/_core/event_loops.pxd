"""Futures that coroutines wait for; see event_loops.pyx."""

from pympipool._core.future_core cimport CompletionSource
from pympipool._core.mailbox cimport EntryQueue


cdef class LoopQueue(EntryQueue):
    cdef object loop
    cdef CompletionSource source
    cdef int descriptor       # the loop waits until it is readable; -1: it watches none
    cdef int other_end        # of a pipe; -1: the descriptor is an eventfd
    cdef bint is_written
    cdef bint is_scheduled    # the loop will call `poll`
    cdef bint is_running      # callbacks are run now, also of futures that are put meanwhile

    cdef void close_descriptors(self) noexcept
    cdef void wake(self) noexcept
    cdef void call_in_loop(self, function) noexcept
    cdef int schedule(self) except -1
    cdef void note_running(self, bint is_running) noexcept
    cdef int run(self, bint may_spin) except -1


cdef object running_loop()
cdef bint is_of_asyncio(object callback)
cdef LoopQueue new_loop_queue(object loop, CompletionSource source)
