"""What a rank waits for before it begins a call, and what it does with its core meanwhile; in C, without the GIL.

    a call is in the ring, and all ranks have ended the one before  ─► begin
    a rank that has not, or the master, needs this core             ─► yield it, and soon sleep
    nobody does                                                     ─► keep it for some microseconds

To switch between two processes takes longer than a small call, so ranks that share a core must not switch without need. And a
thread that yields its core again and again gets as much of it as the one that it waits for: the system shares it fairly. So
ranks, and the master, tell each other by their doorbells on which cores they are.
"""

from libc.stdint cimport int64_t, uint32_t

from pympipool._core.ring cimport (
    c_bool, pmp_current_core, pmp_doorbell, pmp_doorbell_core, pmp_doorbell_tell_core, pmp_move_to_core, pmp_notices,
    pmp_notices_count, pmp_now_ns, pmp_poll, pmp_ranks, pmp_ranks_agree, pmp_ranks_have_ended, pmp_ranks_need_core,
    pmp_ranks_use_core, pmp_receiver, pmp_ring_has_record,
)

cdef enum:
    POLLS = 128                     # some microseconds: what another rank takes for a small call, or the master between two
    SHARED_CALLS = 8                # a rank leaves its core if another one has needed it after so many calls in a row ...
    SHORT_RUN_NS = 3_000            # ... that took longer than this, or with more of them waiting; else it is faster to stay ...
    MOVE_INTERVAL_NS = 10_000_000   # ... and has not done so for this long


cdef struct Awaited:
    pmp_receiver *calls
    pmp_ranks *ranks
    pmp_notices *notices
    uint32_t notices_seen
    pmp_doorbell *rank_bells    # of all ranks
    pmp_doorbell *master_bell   # of the thread of the master that waits for answers
    bint has_core               # there is a core for each rank
    bint is_crowded             # but none for the master besides
    bint was_large              # the arguments of the last call came in fragments
    int64_t run_ns              # its run time
    int shared_calls            # number of calls in a row after which another rank needed this core
    int64_t next_move_ns        # no move to another core before this time


cdef inline c_bool has_notice(Awaited *awaited) noexcept nogil:
    return pmp_notices_count(awaited.notices) != awaited.notices_seen


cdef inline c_bool has_call(Awaited *awaited) noexcept nogil:
    """Return True if all ranks have ended the last call, and there is another one or none will be served any more."""
    return (pmp_ranks_have_ended(awaited.ranks)
            and (pmp_ring_has_record(&awaited.calls.consumer) or not pmp_ranks_agree(awaited.ranks)))


cdef inline c_bool may_begin(void *context) noexcept nogil:
    return has_call(<Awaited *>context) or has_notice(<Awaited *>context)


cdef inline c_bool have_ended(void *context) noexcept nogil:
    return pmp_ranks_have_ended((<Awaited *>context).ranks)


cdef inline c_bool is_core_needed(Awaited *awaited) noexcept nogil:
    """Return True if what this rank waits for may need its core: a rank that has not ended the last call, or the master."""
    cdef uint32_t core = pmp_current_core()
    if core == 0:
        return awaited.is_crowded
    if pmp_ranks_have_ended(awaited.ranks):
        return pmp_doorbell_core(awaited.master_bell) == core
    return pmp_ranks_need_core(awaited.ranks, awaited.rank_bells, core)


cdef inline c_bool may_begin_or_yield(void *context) noexcept nogil:
    return may_begin(context) or is_core_needed(<Awaited *>context)


cdef inline bint keep_core(Awaited *awaited) noexcept nogil:
    """Keep this core as long as nobody needs it, but no longer than a small call takes; return True if a call may begin."""
    pmp_doorbell_tell_core(&awaited.rank_bells[awaited.ranks.rank])
    if awaited.has_core:
        leave_shared_core(awaited)
        if not may_begin_or_yield(awaited):
            pmp_poll(POLLS, may_begin_or_yield, awaited)
    return may_begin(awaited)


cdef inline void leave_shared_core(Awaited *awaited) noexcept nogil:
    """Move to the core of the master if ranks run call after call on this one by turns, and none runs there.

    The system leaves them together: a thread that yields its core looks busy to it. The master needs little of its core, except
    to copy large arguments.
    """
    cdef uint32_t core = pmp_current_core()
    cdef uint32_t other = pmp_doorbell_core(awaited.master_bell)
    if pmp_ranks_have_ended(awaited.ranks):
        return  # this rank was the last one: it cannot tell who shares its core
    if awaited.was_large or (awaited.run_ns < SHORT_RUN_NS and not pmp_ring_has_record(&awaited.calls.consumer)) or (
            not pmp_ranks_need_core(awaited.ranks, awaited.rank_bells, core)):
        awaited.shared_calls = 0
        return
    awaited.shared_calls += 1
    if (awaited.shared_calls < SHARED_CALLS or pmp_now_ns() < awaited.next_move_ns
            or pmp_ranks_use_core(awaited.ranks, awaited.rank_bells, other)):
        return
    awaited.shared_calls = 0
    awaited.next_move_ns = pmp_now_ns() + MOVE_INTERVAL_NS
    pmp_move_to_core(other)
    pmp_doorbell_tell_core(&awaited.rank_bells[awaited.ranks.rank])
