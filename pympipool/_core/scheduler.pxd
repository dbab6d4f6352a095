"""Calls, workers and what the dispatcher knows of them, as C structures; the workers' lines. See scheduler.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from pympipool._core.trace_buffer cimport Recording, Times
from pympipool._core.ring cimport (
    pmp_doorbell, pmp_part, pmp_receiver, pmp_sender, pmp_spinner,
)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_trylock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)

cdef enum:
    FUNCTION_CACHE_SIZE = 256  # functions that a worker remembers: number n lies in slot n modulo FUNCTION_CACHE_SIZE


cdef struct Function:
    uint64_t number
    int64_t references   # changed with the GIL held
    int64_t estimate_ns  # of one call's run time; 0: not known yet
    pmp_part part        # its pickle, behind the struct


cdef struct Call:
    Call *next
    Call *previous
    uint64_t id
    void *future          # a reference to its FutureCore
    void *arguments       # a reference to what holds large arguments, or NULL
    Function *function    # counted; NULL: the call carries its function itself
    pmp_part *parts       # the arguments
    uint32_t part_count
    uint32_t rows         # calls in it: 1, or those of a batch
    int attempts_left     # how often it may begin anew when its worker died
    bint watched          # somebody wants to be told of its end
    uint64_t position     # in the worker's ring; UINT64_MAX: cannot be taken back
    int64_t estimate_ns
    bint was_recalled       # was taken back from a line, where it would have waited
    bint is_error
    uint64_t run_ns       # how long the worker took
    uint32_t result_count
    pmp_part *result      # from malloc; small data lie behind it
    bint result_owned     # each part's data came from malloc
    Times times           # of a traced call


cdef struct CallList:
    Call *first
    Call *last
    Py_ssize_t length
    Py_ssize_t rows          # those of a batch each by itself


cdef struct Worker:
    uint64_t number
    pmp_sender calls
    pmp_receiver results
    pmp_doorbell *bell
    CallList in_flight            # sent, without a result yet, in order
    int64_t in_flight_estimate_ns
    int64_t progress_ns      # when the first of its line came to be the first
    Call *sending            # in pieces on its way
    bint reserved            # runs only the call it was started for
    bint retired             # takes no more calls
    bint unresponsive              # did not begin the call that it was woken for; see is_responsive
    int failure              # negative errno: nonsense on its ring
    uint64_t ended           # calls that ended here, those of a batch each by itself
    uint64_t known[FUNCTION_CACHE_SIZE]    # numbers of the functions that it remembers


cdef struct Core:
    pthread_mutex_t lock
    Worker **workers
    int worker_count
    int last_used
    CallList waiting
    CallList done            # results have arrived, futures do not know yet
    CallList deferred        # ... and the main thread left them to the deliverer
    Py_ssize_t watched_done        # of these, how many are watched
    int64_t default_estimate_ns  # of calls that carry their function
    uint64_t submitted
    uint64_t returned          # of these two, calls of a batch: the batch, each by itself
    uint64_t failed            # of the returned
    int64_t first_ns           # when the first was submitted
    int64_t last_ns            # when the last returned
    Recording *recording     # of a trace; NULL: there is none
    pmp_doorbell *mover_bell   # rung by workers; the mover sleeps on it
    pmp_doorbell *helper_bell  # rung by workers; a thread that waits for a future sleeps on it
    pmp_doorbell nap_bell      # cuts the mover's naps short
    pmp_doorbell deliverer_bell
    pmp_spinner helper_spinner
    pmp_spinner no_spin_spinner   # takes the place of helper_spinner while its core is of more use to a worker
    int core_count             # that this process may use
    bint mover_parked        # sleeps on mover_bell, or is about to
    bint mover_untimed       # ... until it is rung: nothing could be late when it looked
    bint helping             # a thread that waits for a future moves bytes
    bint helper_untimed      # ... and sleeps as long as it likes: nothing could be late when it looked
    bint kicked              # that thread is to look at its future again
    bint completion_requested            # the deliverer is to look at what is done
    bint corrupt             # some worker has failed
    bint stopping


cdef void append(CallList *calls, Call *call) noexcept nogil
cdef void prepend(CallList *calls, Call *call) noexcept nogil
cdef void remove(CallList *calls, Call *call) noexcept nogil

cdef Worker *find_worker(Core *core, uint64_t number) noexcept nogil
cdef int64_t next_deadline_ns(Core *core) noexcept nogil
cdef bint recall(Worker *worker, Call *call) noexcept nogil
cdef bint is_claimed(Worker *worker, Call *call) noexcept nogil
cdef Worker *worker_of(Core *core, Call *call) noexcept nogil
cdef void enqueue(Worker *worker, Call *call, uint64_t position) noexcept nogil
cdef Call *take_back_to_waiting(Core *core, Worker *worker, Call *call) noexcept nogil
cdef void rebalance(Core *core, int64_t now_ns) noexcept nogil
cdef Worker *select_worker(Core *core, Call *call, int64_t now_ns) noexcept nogil
cdef int64_t estimate(Core *core, Call *call) noexcept nogil
cdef void update_estimate(Core *core, Call *call, int64_t run_ns) noexcept nogil
