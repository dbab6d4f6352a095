# cython: language_level=3, boundscheck=False, cdivision=True
"""Decides which thread makes progress, that is, moves messages, and which threads sleep; in C, without the GIL.

Three kinds of threads do rounds of `pump.pump`:

    the progress thread   makes progress when no other thread does. It sleeps on `progress_bell`, which workers ring. When
                          many calls come in quick succession it does short sleeps of a millisecond instead, so that
                          workers need not wake it for every result.
    a waiting thread      waits for a future; one at a time makes progress. It takes the place of the progress thread
                          (`acquire_progress`) without waking it: it disarms `progress_bell` and sleeps on a doorbell of
                          its own, `waiting_thread_bell`. When it stops (`release_progress`) it arms `progress_bell`
                          again and checks for work once more.
    the thread of an event loop  does rounds for microseconds while coroutines wait for calls (`make_progress_briefly`).
                          Meanwhile the progress thread does short sleeps, too.
    a submitting thread   does one round in `submit`, at most every few microseconds.

So a round trip of one call in one thread needs no other thread, and for every call there is always a thread that its
result wakes. tests/csrc/doorbell.pml is the model of acquiring and releasing progress.
"""

from libc.errno cimport EINTR
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pympipool._core.scheduler cimport next_deadline_ns
from pympipool._core.types cimport Core, Worker, pmp_mutex_lock, pmp_mutex_trylock, pmp_mutex_unlock
from pympipool._core.pump cimport dispatch_waiting, has_news, pump
from pympipool._core.ring cimport (
    PMP_POLLS_WITH_PAUSE, c_bool, pmp_current_core, pmp_doorbell_arm, pmp_doorbell_core, pmp_doorbell_disarm,
    pmp_doorbell_ring, pmp_doorbell_sleep, pmp_doorbell_tell_core, pmp_now_ns, pmp_spin, pmp_spin_failed, pmp_spinner, pmp_wait,
)

cdef extern from "<stdatomic.h>" nogil:
    void full_fence "atomic_thread_fence"(int order)
    int SEQ_CST "memory_order_seq_cst"

cdef enum:
    SHORT_SLEEP_NS = 1_000_000
    LONGEST_POLL_NS = 200_000
    LOOK_INTERVAL_NS = 4_000  # a fraction of the time that an idle worker needs to start a call
    BUSY_SUBMITS = 32  # calls submitted during one short sleep above which more calls are expected


cdef void pump_and_notify(Core *core) noexcept nogil:
    """Do one round of `pump` and wake the thread that must handle its results. The caller holds the lock."""
    pump(core)
    notify(core)


cdef void send_and_notify(Core *core) noexcept nogil:
    """Do the same after a call has been queued; of many calls in quick succession not each looks for results.

    A worker writes its next result while the master looks if it is there, and each delays the other. The caller holds the lock.
    """
    cdef int64_t now_ns = pmp_now_ns()
    if now_ns < core.next_look_ns:
        dispatch_waiting(core, now_ns)
    if now_ns >= core.next_look_ns or core.waiting.first != NULL:
        core.next_look_ns = now_ns + LOOK_INTERVAL_NS
        pump(core)
    notify(core)


cdef void notify(Core *core) noexcept nogil:
    """Wake the thread that must handle the results that have arrived, and one that has to look for late calls from now on."""
    if (core.waiting_thread_untimed if core.progress_acquired else core.progress_thread_untimed) and next_deadline_ns(core) >= 0:
        announce_deadline(core)
    if core.storing:
        core.storing = False
        pmp_doorbell_ring(core.waiting_thread_bell if core.progress_acquired else core.progress_bell)
    if core.done.first == NULL and not core.kill_requested:
        return
    if core.progress_acquired:
        pmp_doorbell_ring(core.waiting_thread_bell)
    elif (core.watched_done and not core.poll_expected) or core.kill_requested:
        request_completion(core)
    elif core.sets_all:
        pmp_doorbell_ring(core.progress_bell)  # the progress thread requests completion if no other thread fetches the results


cdef void announce_deadline(Core *core) noexcept nogil:
    """Wake the thread that sleeps without a timeout: from now on a call can be late. The caller holds the lock."""
    if core.progress_acquired:
        core.waiting_thread_untimed = False
        wake_waiting_thread(core)
    else:
        core.progress_thread_untimed = False
        pmp_doorbell_ring(core.progress_bell)


cdef c_bool has_work(void *context) noexcept nogil:
    """Return True if a round of `pump` would do something, or if that cannot be known because the lock is taken."""
    cdef Core *core = <Core *>context
    cdef bint news
    if core.progress_acquired and core.recheck_requested:
        return True
    if not pmp_mutex_trylock(&core.lock):
        return True
    news = core.done.first != NULL or has_news(core)
    pmp_mutex_unlock(&core.lock)
    return news


# ---- the progress thread ----

cdef void sleep_briefly(Core *core) noexcept nogil:
    """Sleep for SHORT_SLEEP_NS, or until another thread of the master rings. Workers do not ring this doorbell."""
    pmp_doorbell_arm(&core.short_sleep_bell)
    pmp_doorbell_sleep(&core.short_sleep_bell, SHORT_SLEEP_NS)
    pmp_doorbell_disarm(&core.short_sleep_bell)


cdef void sleep_until_rung(Core *core, int64_t timeout_ns) noexcept nogil:
    """Sleep until a worker rings, or until the timeout; a negative timeout is none."""
    core.progress_thread_asleep = True
    pmp_doorbell_arm(core.progress_bell)
    # The fence in arm orders these checks after it.
    if core.progress_acquired or core.stopping or has_work(core) or (timeout_ns < 0 and not core.progress_thread_untimed):
        pmp_doorbell_disarm(core.progress_bell)
    else:
        pmp_doorbell_sleep(core.progress_bell, timeout_ns)
    core.progress_thread_asleep = core.progress_thread_untimed = False


cdef void run_progress_thread(Core *core) noexcept nogil:
    """Run the progress thread until `stopping` is set."""
    cdef uint64_t submitted = 0
    cdef uint64_t polls = 0
    cdef bint was_expected = False
    cdef bint undelivered = False
    cdef int64_t tick
    cdef bint busy
    while not core.stopping:
        pmp_mutex_lock(&core.lock)
        pump_and_notify(core)
        if undelivered and core.done.first != NULL and not core.progress_acquired:
            request_completion(core)  # no thread has fetched these results during a short sleep
        undelivered = core.done.first != NULL
        tick = next_deadline_ns(core)
        busy = core.submitted - submitted > BUSY_SUBMITS or core.polls != polls or core.poll_expected
        submitted = core.submitted
        if core.poll_expected and was_expected and core.polls == polls:
            core.poll_expected = False  # the event loop is blocked, or has stopped
        was_expected = core.poll_expected
        polls = core.polls
        core.progress_thread_untimed = tick < 0 and not (core.progress_acquired or busy or undelivered)
        pmp_mutex_unlock(&core.lock)
        if core.progress_acquired or busy or undelivered:
            sleep_briefly(core)
        else:
            sleep_until_rung(core, tick)


cdef void wake_progress_thread(Core *core) noexcept nogil:
    """End the current sleep of the progress thread, short or not."""
    pmp_doorbell_ring(&core.short_sleep_bell)
    pmp_doorbell_ring(core.progress_bell)


# ---- a waiting thread ----

cdef void acquire_progress(Core *core) noexcept nogil:
    """Make the calling thread the one that workers wake, without waking the progress thread."""
    core.progress_acquired = True
    full_fence(SEQ_CST)  # either the progress thread sees this store, or this thread disarms what that one armed
    pmp_doorbell_disarm(core.progress_bell)


cdef bint has_missed_deadline(Core *core) noexcept nogil:
    """Return True if the progress thread sleeps without a timeout although a call can be late by now."""
    pmp_mutex_lock(&core.lock)
    cdef bint missed = core.progress_thread_untimed and next_deadline_ns(core) >= 0
    pmp_mutex_unlock(&core.lock)
    return missed


cdef void release_progress(Core *core) noexcept nogil:
    """Return progress to the progress thread: arm its doorbell on its behalf if it still sleeps there."""
    core.progress_acquired = False
    core.recheck_requested = False
    full_fence(SEQ_CST)
    if not core.progress_thread_asleep:
        return  # it is in a short sleep or makes progress, and will arm its doorbell itself
    pmp_doorbell_arm(core.progress_bell)
    # `stopping` is checked because stop() rang in vain while this thread had the doorbell disarmed.
    if core.stopping or has_work(core) or has_missed_deadline(core):
        pmp_doorbell_ring(core.progress_bell)


cdef bint is_core_needed(Core *core, bint has_spare_core) noexcept nogil:
    """Return True if a rank that has to run a call may need the core of this thread."""
    cdef uint32_t own = pmp_current_core()
    cdef Worker *worker
    if own == 0:
        return not has_spare_core
    for i in range(core.watched_count):
        worker = core.watched[i]
        if worker.in_flight.length == 0 or worker.relay_bell != NULL:
            continue
        for rank in range(worker.rank_count):
            if pmp_doorbell_core(&worker.bells[rank]) == own:
                return True
    return False


cdef pmp_spinner *select_spinner(Core *core, bint may_sleep) noexcept nogil:
    """Return the spinner for the next wait. The caller holds the lock.

    It pays to spin up to the limit if there is a core to spare, or if a worker waits for the master. Otherwise the core is
    of more use to a worker, and no worker loses time if the master sleeps. A thread whose core a rank needs yields at once, since
    all ranks of a worker run the call that is waited for, and sleeps soon (see rank_waits.pxd) if it may.
    """
    cdef bint has_spare_core = core.rank_count < core.core_count
    cdef bint has_ranks = core.rank_count > core.worker_count
    cdef bint is_needed = has_ranks and is_core_needed(core, has_spare_core)
    cdef int32_t polls = 0 if is_needed else PMP_POLLS_WITH_PAUSE
    if is_needed and may_sleep and core.rank_count <= core.core_count:
        return &core.short_spinner
    if core.core_count > 1 and (has_spare_core or core.stalling > 0):
        core.waiting_thread_spinner.polls_with_pause = polls if has_spare_core or has_ranks else 0
        return &core.waiting_thread_spinner
    core.no_spin_spinner.polls_with_pause = polls
    return &core.no_spin_spinner


cdef int wait_for_completion(Core *core, int64_t timeout_ns) noexcept nogil:
    """Make progress until a call is done.

    Returns:
        1 (a call is done), 0 (timeout, or a recheck was requested) or -EINTR (a signal was received).
    """
    cdef int64_t deadline_ns = pmp_now_ns() + timeout_ns
    cdef int64_t left_ns
    cdef int64_t tick
    cdef bint done
    cdef int code
    cdef pmp_spinner *spinner
    while True:
        pmp_mutex_lock(&core.lock)
        pump(core)
        done = core.done.first != NULL
        tick = next_deadline_ns(core)
        core.waiting_thread_untimed = tick < 0
        spinner = select_spinner(core, True)
        pmp_mutex_unlock(&core.lock)
        if core.kill_requested:
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


cdef bint make_progress_briefly(Core *core) noexcept nogil:
    """Make progress until a call is done, as long as it pays to spin; return True if a call is done."""
    cdef int64_t start_ns = pmp_now_ns()
    cdef pmp_spinner *spinner
    cdef bint done = False
    pmp_doorbell_tell_core(core.waiting_thread_bell)
    while True:
        pmp_mutex_lock(&core.lock)
        pump(core)
        done = core.done.first != NULL
        spinner = select_spinner(core, False)
        pmp_mutex_unlock(&core.lock)
        if core.kill_requested:
            request_completion(core)
        if done or pmp_now_ns() - start_ns > LONGEST_POLL_NS or not pmp_spin(spinner, has_work, core):
            break
    core.failed_poll_ns = 0 if done else start_ns
    return done


cdef void note_late_result(Core *core) noexcept nogil:
    """Note that a result has come after `make_progress_briefly` has given up: maybe that should have tried longer."""
    if core.failed_poll_ns != 0:
        pmp_spin_failed(&core.waiting_thread_spinner, pmp_now_ns() - core.failed_poll_ns)
        core.failed_poll_ns = 0


cdef void wake_waiting_thread(Core *core) noexcept nogil:
    """Make the waiting thread that has acquired progress, if there is one, check its future again."""
    full_fence(SEQ_CST)  # either it sees the future's new state, or this thread sees that it has acquired progress
    if core.progress_acquired:
        core.recheck_requested = True
        pmp_doorbell_ring(core.waiting_thread_bell)


cdef void request_completion(Core *core) noexcept nogil:
    """Wake the completion thread."""
    core.completion_requested = True
    pmp_doorbell_ring(&core.completion_bell)
