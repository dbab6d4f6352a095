"""The class of channel.pyx, for channels that do more."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from pympipool._core.rank_waits cimport Awaited
from pympipool._core.ring cimport (
    Segment, c_bool, pmp_doorbell, pmp_news, pmp_notices, pmp_part, pmp_ranks, pmp_receiver, pmp_sender, pmp_spinner,
)


cdef class Channel:
    cdef Segment link
    cdef Segment doorbells
    cdef pmp_receiver receiver
    cdef pmp_sender sender
    cdef pmp_ranks ranks
    cdef pmp_doorbell *rank_bells  # of all ranks
    cdef Awaited awaited
    cdef pmp_doorbell *own_bell
    cdef pmp_doorbell *peer_bells
    cdef int peer_bell_count
    cdef pmp_news *peer_news       # where a worker announces what it has sent
    cdef bint rings_after_message  # a worker may wait for room for its next result; a master never does
    cdef pmp_spinner spinner
    cdef pmp_spinner short_spinner  # for waits in which another rank, or the master, needs the core of this one
    cdef bint is_ending           # the ranks wait for each other after this call, in `ranks_agree`
    cdef int64_t received_ns      # time at which the last message was received
    cdef readonly list stamps     # further times of a traced call, ns; sent with the answer and then cleared
    cdef public object load_stored  # returns the large parts of a call that the ranks share; arguments: its id, their sizes
    cdef public object on_notice  # called without arguments when the master has announced something; None: nothing is
    cdef public object forks      # ends this process if it was forked where it is asked; None: nothing does
    cdef public bint times_imports  # measure what traced calls import
    cdef object import_times        # the module that does; None until the first traced call

    cdef int open(self, uint32_t rank) except -1
    cdef void ring_peer(self) noexcept nogil
    cdef void end_call(self, uint64_t outcome) noexcept nogil
    cdef int wait_for_call(self, int64_t deadline_ns) except -1
    cdef int wait(self, c_bool (*ready)(void *) noexcept nogil, void *context, int64_t deadline_ns) except -1
    cdef int wait_with(self, pmp_spinner *spinner, c_bool (*ready)(void *) noexcept nogil, void *context,
                       int64_t deadline_ns) except -1
    cdef int run_handlers(self) except -1
    cdef int take_notice(self) except -1
    cdef int end_fork(self) except -1
    cdef bint await_message(self, int64_t deadline_ns) except -1
    cdef list take_parts(self)
    cdef object take_message(self)
    cdef void drop_message(self) noexcept
    cdef int start_import_times(self) except -1
    cdef bytes taken_stamps(self)
    cdef int send_answer(self, int kind, uint64_t id, pmp_part *parts, uint32_t count, int64_t run_ns,
                         uint64_t outcome) except -1
    cdef bint send_parts(self, int kind, uint64_t id, uint64_t tag, pmp_part *parts, uint32_t count,
                         int64_t deadline_ns) except -1
