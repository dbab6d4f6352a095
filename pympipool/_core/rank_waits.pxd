"""What a rank waits for before it begins a call, and what it does with its core meanwhile; in C, without the GIL.

    a call is in the ring, and all ranks have ended the one before  ─► begin
    a rank that has not, or the master, needs this core             ─► yield it, and soon sleep, until the last rank has ended
    nobody does                                                     ─► keep it for some microseconds

To switch between two processes takes longer than a small call, so ranks that share a core must not switch without need. And a
thread that yields its core again and again gets as much of it as the one that it waits for: the system shares it fairly. So
ranks, and the master, tell each other by their doorbells on which cores they are.

Where there is a core for each rank, but none for the master besides, two of them share one. A rank moves if they are the wrong two:

    calls that take longer to copy than to run   ─► two ranks share a core, since the master copies for each of them
    calls of less than a microsecond, one by one ─► the same: only these two have to switch
    longer calls, or many                        ─► each rank has a core, since they run at the same time
    all three on one core                        ─► this rank moves to a core that none of them uses
"""

from libc.stdint cimport int64_t, uint32_t

from pympipool._core.ring cimport (
    PMP_STORED, c_bool, pmp_current_core, pmp_doorbell, pmp_doorbell_core, pmp_doorbell_tell_core, pmp_move_to_core, pmp_next_core,
    pmp_notices, pmp_notices_count, pmp_now_ns, pmp_part, pmp_poll, pmp_ranks, pmp_ranks_agree, pmp_ranks_have_ended,
    pmp_ranks_need_core, pmp_ranks_other_core, pmp_ranks_use_core, pmp_receiver, pmp_ring_has_record,
)

cdef enum:
    POLLS = 128                     # some microseconds: what another rank takes for a small call, or the master between two
    YIELD_NS = 2_000                # about the cost of sleeping, and of being woken by a rank on the same core
    # One by one, shorter calls are faster where two ranks share a core. Ranks that wait for each other in a call take longer, and
    # would wait long for one that shares their core.
    TINY_RUN_NS = 1_500
    SHORT_RUN_NS = 3_000            # one by one, shorter calls are not slower there
    COPIED_BYTES_PER_NS = 32        # about
    LONG_COPY_NS = 10_000           # to copy less than that does not decide where ranks run
    WRONG_CALLS = 8                 # a rank leaves its core if it was the wrong one after so many calls in a row ...
    MOVE_INTERVAL_NS = 10_000_000   # ... and it has not moved for this long, or after moves to and fro for longer and longer, ...
    MOVE_INTERVAL_MAX_NS = 1_280_000_000  # ... up to this
    LARGE_RESULT_BYTES = 4 << 20    # to send so much, a rank leaves the master's core at once: to move takes some 20 microseconds


cdef struct Awaited:
    pmp_receiver *calls
    pmp_ranks *ranks
    pmp_notices *notices
    uint32_t notices_seen
    pmp_doorbell *rank_bells    # of all ranks
    pmp_doorbell *master_bell   # of the thread of the master that waits for answers
    bint has_core               # there is a core for each rank
    bint is_crowded             # but none for the master besides
    int64_t run_ns              # run time of the last call
    int64_t moved_bytes         # what this rank has received and sent for it by the rings
    bint was_shareable          # that took longer than its run, or the run was tiny: a rank should leave the master's core
    int wrong_calls             # number of such calls, or of others, in a row after which this rank was on the wrong core
    bint moved_to_share         # the last move was for such calls
    int64_t next_move_ns        # no move to another core before this time
    int64_t move_interval_ns    # how long after the last move that is
    uint32_t left_core          # which core this rank has left to the master for the time of a large result, or 0


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
    """Return True if who this rank waits for may need its core: a rank that has not ended the last call, or the master.

    In the middle of a call that comes in fragments, the master waits for all ranks.
    """
    cdef uint32_t core = pmp_current_core()
    if core == 0:
        return awaited.is_crowded
    if not pmp_ranks_have_ended(awaited.ranks):
        return pmp_ranks_need_core(awaited.ranks, awaited.rank_bells, core)
    return pmp_doorbell_core(awaited.master_bell) == core or (
        awaited.calls.busy and pmp_ranks_use_core(awaited.ranks, awaited.rank_bells, core))


cdef inline c_bool may_begin_or_yield(void *context) noexcept nogil:
    return may_begin(context) or is_core_needed(<Awaited *>context)


cdef inline c_bool may_begin_or_keep_core(void *context) noexcept nogil:
    return may_begin(context) or not is_core_needed(<Awaited *>context)


cdef inline bint may_have_lost_core(Awaited *awaited, uint32_t rank) noexcept nogil:
    """Return True if a rank sleeps, if it does, since this one needed its core for a small call.

    Then it is needed again soon. To wake it takes long from another core, where the master is.
    """
    return (awaited.has_core and awaited.is_crowded and awaited.run_ns < SHORT_RUN_NS
            and pmp_doorbell_core(&awaited.rank_bells[rank]) == pmp_current_core())


cdef inline bint keep_core(Awaited *awaited) noexcept nogil:
    """Keep this core as long as nobody needs it, but no longer than a small call takes; return True if a call may begin."""
    pmp_doorbell_tell_core(&awaited.rank_bells[awaited.ranks.rank])
    if awaited.has_core:
        if not awaited.calls.busy:
            leave_wrong_core(awaited)
        if not may_begin_or_yield(awaited):
            pmp_poll(POLLS, may_begin_or_yield, awaited)
    return may_begin(awaited)


# ---- on which core a rank runs ----

cdef inline int64_t sent_bytes(const pmp_part *parts, uint32_t count) noexcept nogil:
    """Return the bytes of the parts that go through the ring."""
    cdef int64_t total = 0
    cdef uint32_t i
    for i in range(count):
        if not parts[i].size_bytes & PMP_STORED:
            total += <int64_t>parts[i].size_bytes
    return total


cdef inline bint is_copying(Awaited *awaited) noexcept nogil:
    """Return True if the last call took longer to copy than to run."""
    cdef int64_t copy_ns = awaited.moved_bytes // COPIED_BYTES_PER_NS
    return copy_ns > LONG_COPY_NS and awaited.run_ns < copy_ns


cdef inline bint is_shareable(Awaited *awaited) noexcept nogil:
    """Return True if two ranks that share a core are faster in calls like the last one than a rank that shares the master's."""
    return is_copying(awaited) or (
        awaited.run_ns < TINY_RUN_NS and not pmp_ring_has_record(&awaited.calls.consumer))


cdef inline uint32_t unused_core(Awaited *awaited, uint32_t own) noexcept nogil:
    """Return a core that no rank uses, for one that shares its core with another one and with the master; 0 if there is none."""
    cdef uint32_t core = pmp_next_core(0)
    while core != 0 and (core == own or pmp_ranks_use_core(awaited.ranks, awaited.rank_bells, core)):
        core = pmp_next_core(core)
    return core


cdef inline uint32_t right_core(Awaited *awaited, uint32_t core) noexcept nogil:
    """Return the core where this rank should be, which runs on `core`; 0: it does not know."""
    cdef uint32_t master = pmp_doorbell_core(awaited.master_bell)
    if core == master and awaited.is_crowded and pmp_ranks_use_core(awaited.ranks, awaited.rank_bells, core):
        return unused_core(awaited, core)
    if awaited.was_shareable:
        if core != master or not awaited.is_crowded:
            return core
        return pmp_ranks_other_core(awaited.ranks, awaited.rank_bells, core)
    if awaited.run_ns < SHORT_RUN_NS and not pmp_ring_has_record(&awaited.calls.consumer):
        return core
    if pmp_ranks_have_ended(awaited.ranks):
        return 0  # this rank was the last one: it cannot tell who shares its core
    if not pmp_ranks_need_core(awaited.ranks, awaited.rank_bells, core):
        return core
    return 0 if pmp_ranks_use_core(awaited.ranks, awaited.rank_bells, master) else master


cdef inline int64_t next_interval_ns(Awaited *awaited, int64_t now_ns) noexcept nogil:
    """Return how long a rank stays at least that moves now.

    Ranks that move to and fro, because calls differ or wait for each other, do so more and more rarely. That the system moves
    them back does not count.
    """
    if awaited.moved_to_share == awaited.was_shareable or now_ns > awaited.next_move_ns + 8 * awaited.move_interval_ns:
        return MOVE_INTERVAL_NS
    return min(2 * awaited.move_interval_ns, <int64_t>MOVE_INTERVAL_MAX_NS)


cdef inline void leave_wrong_core(Awaited *awaited) noexcept nogil:
    """Move to a better core after some calls in a row.

    The system does not: a thread that yields its core looks busy to it, and it knows neither how long calls run nor what they copy.
    """
    cdef uint32_t core = pmp_current_core()
    cdef bint was_shareable = is_shareable(awaited)
    cdef uint32_t right
    cdef int64_t now_ns
    if was_shareable != awaited.was_shareable:
        awaited.was_shareable = was_shareable
        awaited.wrong_calls = 0
    right = right_core(awaited, core)
    if right == 0:
        return
    if right == core:
        awaited.wrong_calls = 0
        return
    awaited.wrong_calls += 1
    if awaited.wrong_calls < WRONG_CALLS:
        return
    now_ns = pmp_now_ns()
    if now_ns < awaited.next_move_ns:
        return
    awaited.move_interval_ns = next_interval_ns(awaited, now_ns)
    awaited.next_move_ns = now_ns + awaited.move_interval_ns
    awaited.moved_to_share = was_shareable
    awaited.wrong_calls = 0
    pmp_move_to_core(right)
    pmp_doorbell_tell_core(&awaited.rank_bells[awaited.ranks.rank])


cdef inline void lend_core_to_master(Awaited *awaited) noexcept nogil:
    """Leave the core of the master, which receives the results of all ranks, to send the rest of a large one."""
    cdef uint32_t core = pmp_current_core()
    if not (awaited.has_core and awaited.is_crowded) or core != pmp_doorbell_core(awaited.master_bell):
        return
    if pmp_move_to_core(pmp_ranks_other_core(awaited.ranks, awaited.rank_bells, core)) and awaited.left_core == 0:
        awaited.left_core = core


cdef inline void return_to_core(Awaited *awaited) noexcept nogil:
    """Return to the core that was left, so that each rank has one for the next call, if that may run long."""
    if awaited.left_core != 0 and not is_copying(awaited):
        pmp_move_to_core(awaited.left_core)
    awaited.left_core = 0
