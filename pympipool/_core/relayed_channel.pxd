"""The class of relayed_channel.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from pympipool._core.channel cimport Channel
from pympipool._core.prefetch cimport Prefetch
from pympipool._core.ring cimport pmp_head, pmp_part


cdef class RelayedChannel(Channel):
    cdef readonly Prefetch prefetch
    cdef uint32_t number             # of the worker
    cdef object held                 # a call that was taken from the ring, and may not be sent yet
    cdef object answers              # those that wait for room on the ring
    cdef readonly int64_t answer_bytes
    cdef bint returning              # calls were returned, and the master may not have received them yet
    cdef public bint is_ready        # the worker serves
    cdef public bint is_behind       # messages to the worker wait, so others have to wait behind them
    cdef public bint is_partial      # a part of the worker's next message has arrived
    cdef public bint waits_for_master    # something happens when the master has read answers
    cdef public object link_to_agent     # what forwards the calls of all workers of its host

    cdef bint may_receive(self) except -1
    cdef int forward(self, bytearray out) except -1
    cdef int append(self, bytearray out) except -1
    cdef bint is_small_answer(self, const char *data, uint32_t size, uint32_t *count) noexcept
    cdef int answer_all(self, const char *data, uint32_t count) except -1
    cdef int answer_master(self, pmp_head *head, pmp_part *parts) except -1
    cdef void ring_master(self) noexcept
