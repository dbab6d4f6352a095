"""The C structures of the dispatcher: calls, functions, workers, and the state that its threads share.

Every field of `Core`, and of the structures that it points to, is guarded by `Core.lock` unless its comment says
otherwise. The lists of calls are doubly linked through the calls themselves; a call is in at most one list. So are the lists
of workers; `worker_sets.pxd` decides in which of them a worker is.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from pympipool._core.ring cimport (
    PMP_FUNCTION_CACHE_SIZE, PMP_NEWS_WORDS, c_bool, pmp_doorbell, pmp_news, pmp_part, pmp_receiver, pmp_sender,
    pmp_spinner, pmp_store, pmp_stored_parts,
)
from pympipool._core.state_lock cimport counter
from pympipool._core.trace_buffer cimport Recording, Times

cdef extern from "platform.h" nogil:
    ctypedef struct pmp_mutex:
        pass
    int pmp_mutex_init(pmp_mutex *mutex)
    void pmp_mutex_destroy(pmp_mutex *mutex)
    void pmp_mutex_lock(pmp_mutex *mutex)
    c_bool pmp_mutex_trylock(pmp_mutex *mutex)
    void pmp_mutex_unlock(pmp_mutex *mutex)


cdef extern from *:
    """
    typedef _Atomic(int) pmp_shared_flag;
    typedef _Atomic(int64_t) pmp_shared_time;
    typedef _Atomic(uint64_t) pmp_shared_count;
    """
    # For fields that threads read and write without the lock. Each load and each store is sequentially consistent.
    ctypedef bint shared_flag "pmp_shared_flag"
    ctypedef int64_t shared_time "pmp_shared_time"
    ctypedef uint64_t shared_count "pmp_shared_count"


cdef enum:
    WATCHED_MAX = 8  # number of workers whose rings every round looks at; of the others it looks at those with news


cdef struct Function:
    uint64_t number
    counter references
    int64_t estimate_ns  # estimated run time of one call; 0: not known yet
    pmp_part part        # the function's pickle, which lies behind the struct


cdef struct Worker


cdef struct Call:
    Call *next
    Call *previous
    Worker *worker        # at which the call is in flight, or NULL
    uint64_t id           # with PMP_TRACED set if the call is traced, and PMP_CACHED if its result will be cached
    void *future          # a counted reference to the FutureCore
    void *arguments       # a counted reference to the object that holds large arguments, or NULL
    Function *function    # a counted reference; NULL: the call carries its function itself
    pmp_part *parts       # the arguments
    uint32_t part_count
    pmp_stored_parts *stored  # large ones that the ranks of a worker share, or NULL
    uint32_t rows         # number of calls that this one stands for: 1, or the size of a batch
    int attempts_left     # number of retries left after the death of a worker
    bint watched          # a callback or another thread waits for the end of this call
    uint64_t position     # in the worker's ring; UINT64_MAX: the call cannot be recalled
    uint64_t begins_at    # where in that ring the first record was sent for it, which may be its function
    int unbegun_ends      # number of times that workers have died when they were to begin it; see `dead_workers.has_begun`
    int64_t unbegun_ns    # when that was counted last
    int64_t estimate_ns   # estimated run time and overhead
    bint was_recalled     # the call was recalled once from a worker that was too slow to start it
    bint is_error         # the result is an exception
    bint cancelled        # the future has ended, and the worker that runs the call is to be killed
    uint64_t run_ns       # run time as measured by the worker
    uint64_t lost_bytes   # size of a result for which there was no memory; 0: it is in `result`
    uint32_t result_count
    pmp_part *result      # from malloc; the data of small results lie behind it
    bint result_owned     # the data of each part are a buffer of the pool that the call owns
    Times times           # of a traced call


cdef struct CallList:
    Call *first
    Call *last
    Py_ssize_t length
    Py_ssize_t rows       # number of calls with each call of a batch counted by itself


cdef struct WorkerList:
    Worker *first
    Worker *last


cdef struct WorkerHeap:
    Worker **workers  # the one with the smallest estimate in flight is the first; has room for all workers
    int count


cdef struct Worker:
    Worker *next
    Worker *previous
    WorkerList *list               # the list that the worker is in, or NULL
    WorkerHeap *heap               # the heap that the worker is in, or NULL
    int heap_index
    uint64_t number
    int64_t added_ns               # when it was added
    uint32_t slot                  # its bit in `Core.news`
    bint watched                   # every round looks at its rings
    int rank_count
    pmp_sender calls               # each rank receives each call
    pmp_receiver *results          # one for each rank; they lie behind the struct
    pmp_doorbell *bells            # one for each rank
    void *link                     # the memory of its rings
    pmp_doorbell *relay_bell       # that of the relay, which serves the worker together with others; NULL: it has its own
    pmp_news *relay_news           # where the relay learns that there is something new for this worker
    CallList in_flight             # calls that were sent and have no result yet, in the order of sending
    int64_t in_flight_estimate_ns  # sum of their estimates
    int64_t front_since_ns         # time at which the first call in flight became the first
    bint front_claimed             # the worker is known to have started it
    bint front_overdue             # it is known to take so long that no other call should wait behind it
    Call *sending                  # the call in flight of which some fragments are not sent yet, or NULL
    bint receiving                 # some fragments of an answer have arrived, and some have not
    bint may_stall                 # counted in `Core.stalling`
    bint reserved                  # the worker runs only the call that it was started for
    bint retired                   # the worker gets no more calls
    bint condemned                 # the worker is to be killed for the call that it runs
    uint64_t failing_call          # the id of that call if it fails with the worker; 0: it was cancelled, or there is none
    bint unresponsive              # the worker did not start a call that it was woken for; see `is_responsive`
    int failure                    # negative errno: the worker's ring holds invalid data
    uint64_t ended                 # number of calls with a result, each call of a batch counted by itself
    uint64_t known[PMP_FUNCTION_CACHE_SIZE]  # number of the function in each slot of the worker's function cache


cdef struct Core:
    pmp_mutex lock
    Worker **workers
    int worker_count
    int rank_count               # of all workers together
    Worker **slots               # the worker of each slot, or NULL
    uint32_t slot_count          # number of slots of which some were used
    pmp_news *news               # the slots of workers that have sent something; beside the doorbells
    pmp_doorbell *relay_bell     # beside them too, as is the next one: see `Worker`
    pmp_news *relay_news
    Worker *watched[WATCHED_MAX]
    int watched_count
    int next_unwatched           # index in `watched` of the worker that is watched longest
    uint64_t watched_slots[PMP_NEWS_WORDS]
    Worker *last_used            # the worker that got the last call, or NULL
    WorkerList idle              # workers that may get a call and have none, the one that was used last first
    WorkerList unresponsive      # the same, but they did not start a call that they were woken for
    WorkerList unclaimed         # workers with one call in flight that they are not known to have started
    WorkerList several           # workers with more than one call in flight
    WorkerHeap with_one          # workers that may get another call before they are idle, and have one
    WorkerHeap with_several      # the same, with more than one
    bint storing                 # the next bytes of a call's large parts can be stored at once: no doorbell announces that
    pmp_store store              # shared memory for the large parts of the next calls of several ranks
    int stalling                 # number of workers that may soon have nothing to do unless messages are moved
    int64_t rebalance_ns         # `rebalance` would find nothing before this time
    int64_t next_rebalance_ns    # it is not called before this time, so that it never takes much of all time
    int64_t next_look_ns         # `send_and_notify` looks for no results before this time
    Py_ssize_t in_flight         # calls in flight at all workers
    CallList waiting             # calls that were not sent to a worker
    CallList done                # calls whose results have arrived and are not set on their futures yet
    Py_ssize_t watched_done      # number of watched calls in `done`
    int64_t default_estimate_ns  # estimated run time of calls that carry their function
    uint64_t submitted           # number of calls submitted; a batch counts once
    uint64_t returned            # number of calls with a result; each call of a batch counts
    uint64_t failed              # number of results that are exceptions; a batch counts once
    int64_t first_ns             # time of the first submission; 0: none yet
    int64_t last_ns              # time of the last result
    Recording *recording         # the active trace; NULL: there is none
    void *notices                # a counted reference to what wakes workers after an announcement: see `workers.Notices`
    pmp_doorbell *progress_bell        # rung by workers; the progress thread sleeps on it
    pmp_doorbell *waiting_thread_bell  # rung by workers; the waiting thread that has acquired progress sleeps on it
    pmp_doorbell short_sleep_bell      # interrupts a short sleep of the progress thread
    pmp_doorbell completion_bell       # the completion thread sleeps on it
    pmp_spinner waiting_thread_spinner
    pmp_spinner short_spinner    # replaces it while a rank needs the core of the waiting thread
    pmp_spinner no_spin_spinner  # replaces waiting_thread_spinner while a worker needs the core more than the master
    int core_count               # number of cores that this process may use
    # The following fields are also read, and some of them written, without the lock; see progress_engine.pyx.
    shared_flag progress_thread_asleep   # the progress thread sleeps on progress_bell, or is about to
    shared_flag progress_thread_untimed  # the progress thread sleeps without a timeout: no call could be late
    shared_flag progress_acquired        # a waiting thread makes progress in place of the progress thread
    shared_flag poll_expected            # the thread of an event loop will make progress soon
    shared_count polls                   # number of times that it has done so
    shared_time failed_poll_ns           # time of the last one if no result has arrived since; 0: one has
    shared_flag waiting_thread_untimed   # the waiting thread sleeps without a deadline for calls: no call could be late
    shared_flag recheck_requested        # the waiting thread must check its future again
    shared_flag sets_all                 # results that no thread fetches are set on their futures within milliseconds, always
    shared_flag completion_requested     # the completion thread must check `done`
    shared_flag kill_requested           # a worker must be killed: see `Workers.workers_to_kill`
    shared_flag stopping


cdef inline void append(CallList *calls, Call *call) noexcept nogil:
    """Add a call at the end of a list."""
    call.next = NULL
    call.previous = calls.last
    if calls.last == NULL:
        calls.first = call
    else:
        calls.last.next = call
    calls.last = call
    calls.length += 1
    calls.rows += call.rows


cdef inline void prepend(CallList *calls, Call *call) noexcept nogil:
    """Add a call at the front of a list."""
    call.previous = NULL
    call.next = calls.first
    if calls.first == NULL:
        calls.last = call
    else:
        calls.first.previous = call
    calls.first = call
    calls.length += 1
    calls.rows += call.rows


cdef inline void remove(CallList *calls, Call *call) noexcept nogil:
    """Take a call out of its list."""
    if call.previous == NULL:
        calls.first = call.next
    else:
        call.previous.next = call.next
    if call.next == NULL:
        calls.last = call.previous
    else:
        call.next.previous = call.previous
    calls.length -= 1
    calls.rows -= call.rows
