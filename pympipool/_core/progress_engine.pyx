# cython: language_level=3, boundscheck=False, cdivision=True
"""Who moves the bytes, and who sleeps meanwhile; in C, without the GIL.

Three kinds of threads do rounds of `pump.pump`:

    the mover      a thread of its own, when nobody else does. Parked, it sleeps on `progress_bell`, which workers
                   ring. When many calls come in quick succession it naps a millisecond at a time instead, so
                   that workers need not wake it for every result
    a helper       a thread that waits for a future, one at a time. It takes the mover's place (`acquire_progress`)
                   without waking it: it disarms the mover's doorbell, and sleeps on one of its own.
                   When it leaves (`release_progress`) it arms the mover's again, and looks once more
    a submitter    in passing

So a round trip of one call in one thread needs no other thread, and yet none is ever without somebody
who is woken for its result. tests/csrc/doorbell.pml holds the model of taking over and handing back.
"""

from libc.errno cimport EINTR
from libc.stdint cimport int64_t, uint64_t

from pympipool._core.scheduler cimport next_deadline_ns
from pympipool._core.types cimport Core, pthread_mutex_lock, pthread_mutex_trylock, pthread_mutex_unlock
from pympipool._core.pump cimport pump
from pympipool._core.ring cimport (
    c_bool, pmp_doorbell_arm, pmp_doorbell_disarm, pmp_doorbell_ring, pmp_doorbell_sleep,
    pmp_now_ns, pmp_ring_has_record, pmp_sender_has_room, pmp_spinner, pmp_wait,
)

cdef extern from "<stdatomic.h>" nogil:
    void full_fence "atomic_thread_fence"(int order)
    int SEQ_CST "memory_order_seq_cst"

cdef enum:
    SHORT_SLEEP_NS = 1_000_000
    BUSY_SUBMITS = 32  # this many in a sleep_briefly: there will be more


cdef void pump_and_notify(Core *core) noexcept nogil:
    """One round, and whoever has to know of its results is told. The lock is held."""
    pump(core)
    if (core.waiting_thread_untimed if core.progress_acquired else core.progress_thread_untimed) and next_deadline_ns(core) >= 0:
        announce_deadline(core)
    if core.done.first == NULL and not core.corrupt:
        return
    if core.progress_acquired:
        pmp_doorbell_ring(core.waiting_thread_bell)
    elif core.watched_done or core.corrupt:
        request_completion(core)


cdef void announce_deadline(Core *core) noexcept nogil:
    """From now on a call can be late, and only somebody who looks will notice. The lock is held."""
    if core.progress_acquired:
        core.waiting_thread_untimed = False
        wake_waiting_thread(core)
    else:
        core.progress_thread_untimed = False
        pmp_doorbell_ring(core.progress_bell)


cdef c_bool has_work(void *context) noexcept nogil:
    """Whether a round would bring something. Says yes when it cannot know."""
    cdef Core *core = <Core *>context
    cdef bint news
    if core.done.first != NULL or (core.progress_acquired and core.recheck_requested):
        return True
    if pthread_mutex_trylock(&core.lock) != 0:
        return True
    news = core.done.first != NULL
    for i in range(core.worker_count):
        if news:
            break
        news = (pmp_ring_has_record(&core.workers[i].results.consumer)
                and not core.workers[i].failure) or (
            core.workers[i].sending != NULL and pmp_sender_has_room(&core.workers[i].calls))
    pthread_mutex_unlock(&core.lock)
    return news


# ---- the mover ----

cdef void sleep_briefly(Core *core) noexcept nogil:
    pmp_doorbell_arm(&core.short_sleep_bell)
    pmp_doorbell_sleep(&core.short_sleep_bell, SHORT_SLEEP_NS)
    pmp_doorbell_disarm(&core.short_sleep_bell)


cdef void sleep_until_rung(Core *core, int64_t timeout_ns) noexcept nogil:
    """Sleeps until a worker rings."""
    core.progress_thread_asleep = True
    pmp_doorbell_arm(core.progress_bell)
    # the fence in arm orders these looks after it
    if core.progress_acquired or core.stopping or has_work(core) or (timeout_ns < 0 and not core.progress_thread_untimed):
        pmp_doorbell_disarm(core.progress_bell)
    else:
        pmp_doorbell_sleep(core.progress_bell, timeout_ns)
    core.progress_thread_asleep = core.progress_thread_untimed = False


cdef void run_progress_thread(Core *core) noexcept nogil:
    """The mover's life."""
    cdef uint64_t submitted = 0
    cdef bint undelivered = False
    cdef int64_t tick
    cdef bint busy
    while not core.stopping:
        pthread_mutex_lock(&core.lock)
        pump_and_notify(core)
        if undelivered and core.done.first != NULL and not core.progress_acquired:
            request_completion(core)  # nobody came for these results in a sleep_briefly's time
        undelivered = core.done.first != NULL
        tick = next_deadline_ns(core)
        busy = core.submitted - submitted > BUSY_SUBMITS
        submitted = core.submitted
        core.progress_thread_untimed = tick < 0 and not (core.progress_acquired or busy or undelivered)
        pthread_mutex_unlock(&core.lock)
        if core.progress_acquired or busy or undelivered:
            sleep_briefly(core)
        else:
            sleep_until_rung(core, tick)


cdef void wake_progress_thread(Core *core) noexcept nogil:
    """Ends the mover's sleep_briefly or sleep."""
    pmp_doorbell_ring(&core.short_sleep_bell)
    pmp_doorbell_ring(core.progress_bell)


# ---- the helper ----

cdef void acquire_progress(Core *core) noexcept nogil:
    """Makes the calling thread the one that workers wake, without waking the mover."""
    core.progress_acquired = True
    full_fence(SEQ_CST)  # either the mover sees this, or we disarm what it armed
    pmp_doorbell_disarm(core.progress_bell)


cdef bint has_missed_deadline(Core *core) noexcept nogil:
    """Whether the mover sleeps until it is rung although a call can be late by now."""
    pthread_mutex_lock(&core.lock)
    cdef bint missed = core.progress_thread_untimed and next_deadline_ns(core) >= 0
    pthread_mutex_unlock(&core.lock)
    return missed


cdef void release_progress(Core *core) noexcept nogil:
    """Puts the mover back in its place: arms its doorbell for it if it still sleeps there."""
    core.progress_acquired = False
    core.recheck_requested = False
    full_fence(SEQ_CST)
    if not core.progress_thread_asleep:
        return  # it naps or moves, and will see to itself
    pmp_doorbell_arm(core.progress_bell)
    if core.stopping or has_work(core) or has_missed_deadline(core):  # stop() rang in vain while we had its bell disarmed
        pmp_doorbell_ring(core.progress_bell)


cdef bint may_stall_worker(Core *core) noexcept nogil:
    """Whether a worker may soon have nothing to do until bytes are moved. The lock is held."""
    for i in range(core.worker_count):
        if (core.workers[i].sending != NULL or core.workers[i].results.busy
                or core.workers[i].in_flight.length == 1):
            return True
    return False


cdef pmp_spinner *select_spinner(Core *core) noexcept nogil:
    """Where there is a core to spare, or somebody waits for us, it pays to spin up to the limit; else the core is of
    more use to a worker, and nobody minds if we sleep. The lock is held."""
    if core.core_count > 1 and (core.worker_count < core.core_count or may_stall_worker(core)):
        return &core.waiting_thread_spinner
    return &core.no_spin_spinner


cdef int wait_for_completion(Core *core, int64_t timeout_ns) noexcept nogil:
    """Moves bytes until something is done. Returns 1 (something is), 0 (time over, recheck_requested)
    or -EINTR (a signal came)."""
    cdef int64_t deadline_ns = pmp_now_ns() + timeout_ns
    cdef int64_t left_ns
    cdef int64_t tick
    cdef bint done
    cdef int code
    cdef pmp_spinner *spinner
    while True:
        pthread_mutex_lock(&core.lock)
        pump(core)
        done = core.done.first != NULL
        tick = next_deadline_ns(core)
        core.waiting_thread_untimed = tick < 0
        spinner = select_spinner(core)
        pthread_mutex_unlock(&core.lock)
        if core.corrupt:
            request_completion(core)
        if done:
            return 1
        if core.recheck_requested:
            core.recheck_requested = False
            return 0
        left_ns = deadline_ns - pmp_now_ns()
        if left_ns <= 0:
            return 0
        if 0 <= tick < left_ns:
            left_ns = tick
        code = pmp_wait(core.waiting_thread_bell, spinner, has_work, core, left_ns)
        if code == -EINTR:
            return code


cdef void wake_waiting_thread(Core *core) noexcept nogil:
    """Makes the progress_acquired thread, if there is one, look at its future again."""
    full_fence(SEQ_CST)  # either it sees the future's new state, or we see that it helps
    if core.progress_acquired:
        core.recheck_requested = True
        pmp_doorbell_ring(core.waiting_thread_bell)


cdef void request_completion(Core *core) noexcept nogil:
    core.completion_requested = True
    pmp_doorbell_ring(&core.completion_bell)
