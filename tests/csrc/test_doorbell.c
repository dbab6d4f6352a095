/* The doorbell: sleeping, waking, timeouts, and above all that no ring is ever lost.
 *
 * usage: test_doorbell [SECONDS]    how long each hunt for a lost ring takes
 *
 * doorbell.pml proves for a model what the hunts test in the code. In a hunt, two threads or two
 * processes go to sleep and wake each other as often as they can. A side that is not woken sleeps
 * until the alarm ends the test. */
#include "support.h"

#include "../../csrc/doorbell.h"

#include <stdatomic.h>

#define MS INT64_C(1000000)

static int64_t hunt_ns = 1000 * MS;

/* Returns the time limit of a hunt on a busy machine. */
static unsigned hunt_limit_s(void)
{
    return 30 + (unsigned)(2 * hunt_ns / (1000 * MS));
}

static pmp_doorbell *new_bell(void)
{
    return shared_memory(sizeof(pmp_doorbell));
}

static uint32_t asleep(pmp_doorbell *bell)
{
    return atomic_load(&bell->asleep);
}

/* ---- one thread ---- */

static void ringing_without_sleeper_does_nothing(void)
{
    pmp_doorbell *const bell = new_bell();
    pmp_doorbell_ring(bell);
    CHECK_EQUAL(asleep(bell), 0);
    CHECK_EQUAL(pmp_doorbell_sleep(bell, -1), 0);
    pmp_doorbell_arm(bell);
    CHECK_EQUAL(asleep(bell), 1);
    pmp_doorbell_disarm(bell);
    CHECK_EQUAL(pmp_doorbell_sleep(bell, -1), 0);
}

static void ring_between_arm_and_sleep_is_kept(void)
{
    pmp_doorbell *const bell = new_bell();
    pmp_doorbell_arm(bell);
    pmp_doorbell_ring(bell);
    CHECK_EQUAL(asleep(bell), 0);
    CHECK_EQUAL(pmp_doorbell_sleep(bell, -1), 0);
}

static void sleep_times_out(void)
{
    pmp_doorbell *const bell = new_bell();
    const int64_t start_ns = pmp_now_ns();
    pmp_doorbell_arm(bell);
    CHECK_EQUAL(pmp_doorbell_sleep(bell, 30 * MS), -ETIMEDOUT);
    CHECK(pmp_now_ns() - start_ns >= 30 * MS);
    CHECK_EQUAL(asleep(bell), 1);
    CHECK_EQUAL(pmp_doorbell_sleep(bell, 0), -ETIMEDOUT);
}

/* ---- a signal ---- */

static bool never(void *context)
{
    ++*(int *)context;
    return false;
}

#ifdef _WIN32

static void signal_ends_a_sleep(void)
{
    skip("Windows has no signals");
}

#else

static void do_nothing(int signal_number)
{
    (void)signal_number;
}

typedef struct {
    pthread_t sleeper;
    _Atomic bool over;
} signaller;

/* Sends signals repeatedly, because the first may arrive before the sleeper sleeps. */
static void *send_signals(void *argument)
{
    signaller *const target = argument;
    while (!atomic_load(&target->over)) {
        pthread_kill(target->sleeper, SIGUSR1);
        usleep(1000);
    }
    return NULL;
}

static void signal_ends_a_sleep(void)
{
    pmp_doorbell *const bell = new_bell();
    signaller target = {.sleeper = pthread_self()};
    pmp_spinner spinner;
    int polls = 0;
    const struct sigaction action = {.sa_handler = do_nothing};

    CHECK_EQUAL(sigaction(SIGUSR1, &action, NULL), 0);
    const pthread_t thread = start_thread(send_signals, &target);
    pmp_doorbell_arm(bell);
    CHECK_EQUAL(pmp_doorbell_sleep(bell, -1), -EINTR);
    CHECK_EQUAL(asleep(bell), 1);
    CHECK_EQUAL(pmp_doorbell_sleep(bell, 10000 * MS), -EINTR);
    pmp_spinner_init(&spinner, 0);
    CHECK_EQUAL(pmp_wait(bell, &spinner, never, &polls, -1), -EINTR);
    CHECK_EQUAL(asleep(bell), 0);
    atomic_store(&target.over, true);
    join_thread(thread);
    signal(SIGUSR1, SIG_DFL);
}

#endif

/* ---- pmp_wait ---- */

typedef struct {
    int polls, ready_at;
} countdown;

static bool at_nth_poll(void *context)
{
    countdown *const counted = context;
    return ++counted->polls >= counted->ready_at;
}

static void wait_returns_at_once_when_ready(void)
{
    pmp_doorbell *const bell = new_bell();
    pmp_spinner spinner;
    countdown counted = {0, 1};
    pmp_spinner_init(&spinner, 10 * MS);
    CHECK_EQUAL(pmp_wait(bell, &spinner, at_nth_poll, &counted, 0), 0);
    CHECK_EQUAL(counted.polls, 1);
}

static void wait_tells_core(void)
{
    pmp_doorbell bell = {0};
    pmp_spinner spinner;
    countdown counted = {0, 1};
    pmp_spinner_init(&spinner, 0);
    CHECK_EQUAL(pmp_doorbell_core(&bell), 0);
    const uint32_t core = pmp_current_core();
    CHECK_EQUAL(pmp_wait(&bell, &spinner, at_nth_poll, &counted, -1), 0);
    CHECK_EQUAL(pmp_doorbell_core(&bell), core);
#ifdef PMP_LINUX
    CHECK(core > 0);
#endif
}

#ifdef PMP_LINUX

static void check_usable(const cpu_set_t *expected)
{
    cpu_set_t usable;
    CHECK_EQUAL(sched_getaffinity(0, sizeof usable, &usable), 0);
    CHECK(CPU_EQUAL(&usable, expected));
}

static void thread_moves_and_stays_free(void)
{
    cpu_set_t usable;
    CHECK_EQUAL(sched_getaffinity(0, sizeof usable, &usable), 0);
    for (uint32_t core = 0; core <= CPU_SETSIZE + 1; core++) {
        const bool is_usable = core > 0 && core <= CPU_SETSIZE && CPU_ISSET(core - 1, &usable);
        CHECK_EQUAL(pmp_move_to_core(core), is_usable);
        check_usable(&usable);
        while (is_usable && pmp_current_core() != core) { /* the system has moved it on */
            pmp_move_to_core(core);
        }
    }
}

static void thread_finds_each_core_that_it_may_use(void)
{
    cpu_set_t usable, found;
    CHECK_EQUAL(sched_getaffinity(0, sizeof usable, &usable), 0);
    CPU_ZERO(&found);
    for (uint32_t core = pmp_next_core(0); core != 0; core = pmp_next_core(core)) {
        CPU_SET(core - 1, &found);
    }
    CHECK(CPU_EQUAL(&found, &usable));
    CHECK_EQUAL(pmp_next_core(CPU_SETSIZE), 0);
}

#endif

static void poll_ends_when_ready_or_after_count(void)
{
    countdown counted = {0, 3};
    CHECK(pmp_poll(3, at_nth_poll, &counted));
    CHECK_EQUAL(counted.polls, 3);
    counted = (countdown){0, 4};
    CHECK(!pmp_poll(3, at_nth_poll, &counted));
    CHECK_EQUAL(counted.polls, 3);
    CHECK(!pmp_poll(0, at_nth_poll, &counted));
    CHECK_EQUAL(counted.polls, 3);
}

typedef struct {
    pmp_doorbell *bell;
    bool was_armed;
} latecomer;

/* Ready as soon as the bell is armed, as if the work had arrived just before. */
static bool once_armed(void *context)
{
    latecomer *const late = context;
    late->was_armed |= asleep(late->bell) == 1;
    return late->was_armed;
}

static void wait_checks_again_after_arming(void)
{
    latecomer late = {.bell = new_bell()};
    pmp_spinner spinner;
    pmp_spinner_init(&spinner, 0);
    CHECK_EQUAL(pmp_wait(late.bell, &spinner, once_armed, &late, -1), 0);
    CHECK_EQUAL(asleep(late.bell), 0);
}

static void wait_times_out(void)
{
    for (int64_t max_ns = 0; max_ns <= 5 * MS; max_ns += 5 * MS) {
        pmp_doorbell *const bell = new_bell();
        pmp_spinner spinner;
        int polls = 0;
        const int64_t start_ns = pmp_now_ns();
        pmp_spinner_init(&spinner, max_ns);
        CHECK_EQUAL(pmp_wait(bell, &spinner, never, &polls, 30 * MS), -ETIMEDOUT);
        CHECK(pmp_now_ns() - start_ns >= 30 * MS);
        CHECK_EQUAL(asleep(bell), 0);
        CHECK_EQUAL(pmp_wait(bell, &spinner, never, &polls, 0), -ETIMEDOUT);
        CHECK_EQUAL(asleep(bell), 0);
    }
}

typedef struct {
    pmp_doorbell *bell;
    _Atomic bool over;
} ringer;

static void *ring_without_work(void *argument)
{
    ringer *const own = argument;
    while (!atomic_load(&own->over)) {
        pmp_doorbell_ring(own->bell);
        usleep(1000);
    }
    return NULL;
}

static void rings_without_work_do_not_extend_timeout(void)
{
    ringer own = {.bell = new_bell()};
    pmp_spinner spinner;
    int polls;
    const pthread_t thread = start_thread(ring_without_work, &own);
    pmp_spinner_init(&spinner, 0);
    do { /* until a ring came in between: the ringer may have no core for a while */
        polls = 0;
        CHECK_EQUAL(pmp_wait(own.bell, &spinner, never, &polls, 300 * MS), -ETIMEDOUT);
    } while (polls <= 4);
    atomic_store(&own.over, true);
    join_thread(thread);
}

static void spinning_adapts_to_its_success(void)
{
    pmp_doorbell *const bell = new_bell();
    pmp_spinner spinner;
    int polls = 0;

    pmp_spinner_init(&spinner, MS);
    CHECK_EQUAL(spinner.budget_ns, MS);
    for (int64_t budget_ns = MS; budget_ns > spinner.min_ns; budget_ns /= 2) {
        CHECK_EQUAL(spinner.budget_ns, budget_ns);
        CHECK_EQUAL(pmp_wait(bell, &spinner, never, &polls, 5 * MS), -ETIMEDOUT);
    }
    CHECK_EQUAL(pmp_wait(bell, &spinner, never, &polls, 5 * MS), -ETIMEDOUT);
    CHECK_EQUAL(spinner.budget_ns, spinner.min_ns);
    CHECK(spinner.min_ns > 0);
    for (int64_t budget_ns = spinner.min_ns; budget_ns < MS; budget_ns *= 2) {
        countdown counted = {0, 3};
        CHECK_EQUAL(spinner.budget_ns, budget_ns);
        CHECK_EQUAL(pmp_wait(bell, &spinner, at_nth_poll, &counted, -1), 0);
    }
    CHECK_EQUAL(spinner.budget_ns, MS);
}

static void wait_until_armed(pmp_spinner *spinner)
{
    latecomer late = {.bell = new_bell()};
    CHECK_EQUAL(pmp_wait(late.bell, spinner, once_armed, &late, -1), 0);
    CHECK(late.was_armed);
}

static void near_misses_grow_budget_until_it_fails(void)
{
    const int64_t max_ns = MS;
    pmp_spinner spinner;

    pmp_spinner_init(&spinner, max_ns);
    spinner.near_miss_ns =
        INT64_MAX; /* load on the machine must not turn a near miss into a far one */
    spinner.budget_ns = spinner.min_ns;
    for (int64_t budget_ns = spinner.min_ns; budget_ns < max_ns; budget_ns *= 2) {
        CHECK_EQUAL(spinner.budget_ns, budget_ns);
        wait_until_armed(&spinner);
    }
    CHECK_EQUAL(spinner.budget_ns, max_ns);
    wait_until_armed(&spinner);
    CHECK_EQUAL(spinner.budget_ns, spinner.min_ns);
    spinner.near_miss_ns = 0;
    spinner.budget_ns = max_ns / 16;
    wait_until_armed(&spinner);
    CHECK_EQUAL(spinner.budget_ns, max_ns / 32);
}

/* Returns the number of misses until the budget has grown to its limit and failed again. */
static int misses_until_failure(pmp_spinner *spinner)
{
    int misses = 1;
    while (spinner->budget_ns < spinner->max_ns) {
        wait_until_armed(spinner);
        misses++;
    }
    wait_until_armed(spinner);
    return misses;
}

static void failing_spins_are_tried_more_rarely(void)
{
    pmp_spinner spinner;

    pmp_spinner_init(&spinner, 16 * 2000);
    spinner.near_miss_ns =
        INT64_MAX; /* load on the machine must not turn a near miss into a far one */
    const int first = misses_until_failure(&spinner);
    int last = misses_until_failure(&spinner);
    CHECK(last > first);
    for (int i = 0; i < 3; i++) {
        const int next = misses_until_failure(&spinner);
        CHECK(next > last);
        last = next;
    }
    /* After successes, spinning is soon tried as often as before. */
    for (int i = 0; i < 8; i++) {
        countdown counted = {0, 3};
        CHECK_EQUAL(pmp_wait(new_bell(), &spinner, at_nth_poll, &counted, -1), 0);
    }
    CHECK_EQUAL(spinner.budget_ns, spinner.max_ns);
    CHECK_EQUAL(spinner.pause, 0);
}

static void no_budget_means_no_spinning(void)
{
    pmp_doorbell *const bell = new_bell();
    pmp_spinner spinner;
    int polls = 0;
    pmp_spinner_init(&spinner, 0);
    CHECK_EQUAL(pmp_wait(bell, &spinner, never, &polls, 20 * MS), -ETIMEDOUT);
    CHECK(polls <= 4); /* first, armed, woken, at the end */
    CHECK_EQUAL(spinner.budget_ns, 0);
}

/* ---- the hunts ---- */

enum { LINES = 8 };

/* Two sides that take turns. Publishing and looking are as in the ring, a release store and an
 * acquire load: nothing here may be stronger than there, or it would hide a missing fence. And
 * as in the ring there is a payload, in lines that the other core has: until these are here, the
 * move waits in the store buffer, and a core that does not wait for it polls past it. */
typedef struct {
    pmp_doorbell bells[2];
    _Alignas(64) _Atomic uint64_t turn; /* side 0 moves when it is even */
    _Alignas(64) _Atomic bool over;
    struct {
        _Alignas(64) uint64_t word;
    } payload[LINES];
} table;

typedef struct {
    table *shared;
    uint64_t side;
    bool sleeps; /* otherwise it spins, and answers at once or a little later */
} player;

static bool is_my_turn(void *context)
{
    const player *const me = context;
    return atomic_load_explicit(&me->shared->turn, memory_order_acquire) % 2 == me->side;
}

/* Waits up to a microsecond, so that answers fall on every moment of going to sleep. */
static void dawdle(uint64_t random)
{
    for (volatile uint64_t left = random % 512; left > 0; left--) {
    }
}

static void await_my_turn(player *me)
{
    pmp_spinner spinner;
    pmp_spinner_init(&spinner, 0);
    if (me->sleeps) {
        CHECK_EQUAL(pmp_wait(&me->shared->bells[me->side], &spinner, is_my_turn, me, -1), 0);
        return;
    }
    for (unsigned polls = 1; !is_my_turn(me); polls++) {
        if (polls % 1024 == 0) {
            sched_yield(); /* for machines of one core */
        }
    }
}

static void move(table *shared, uint64_t turn)
{
    for (int line = 0; line < LINES; line++) {
        CHECK_EQUAL(shared->payload[line].word, turn);
        shared->payload[line].word = turn + 1;
    }
    atomic_store_explicit(&shared->turn, turn + 1, memory_order_release);
}

/* A side leaves only after its move, so the other side gets its last turn, too. */
static void play(player *me)
{
    table *const shared = me->shared;
    const int64_t end_ns = pmp_now_ns() + hunt_ns;

    while (!atomic_load_explicit(&shared->over, memory_order_relaxed)) {
        await_my_turn(me);
        const uint64_t turn = atomic_load_explicit(&shared->turn, memory_order_relaxed);
        if (!me->sleeps) {
            dawdle(mix(turn));
        }
        if (pmp_now_ns() >= end_ns) {
            atomic_store_explicit(&shared->over, true, memory_order_relaxed);
        }
        move(shared, turn);
        pmp_doorbell_ring(&shared->bells[1 - me->side]);
    }
}

static void *play_in_thread(void *argument)
{
    use_core(1);
    play(argument);
    return NULL;
}

static int play_in_process(void *argument)
{
    use_core(1);
    play(argument);
    return 0;
}

static void play_against_thread(bool other_sleeps)
{
    table *const shared = shared_memory(sizeof *shared);
    player first = {shared, 0, true}, second = {shared, 1, other_sleeps};
    const pthread_t thread = start_thread(play_in_thread, &second);
    play(&first);
    join_thread(thread);
    printf("%llu turns ", (unsigned long long)shared->turn);
}

static void play_against_process(bool other_sleeps)
{
    table *const shared = shared_memory(sizeof *shared);
    player first = {shared, 0, true};
    player *const second = shared_memory(sizeof *second);
    *second = (player){shared, 1, other_sleeps};
    const pid_t child = start_child(play_in_process, second);
    play(&first);
    CHECK_EQUAL(wait_for_child(child), 0);
    printf("%llu turns ", (unsigned long long)shared->turn);
}

static void two_threads_sleep_by_turns(void)
{
    play_against_thread(true);
}

static void one_thread_sleeps_and_one_answers(void)
{
    play_against_thread(false);
}

static void two_processes_sleep_by_turns(void)
{
    play_against_process(true);
}

static void one_process_sleeps_and_one_answers(void)
{
    play_against_process(false);
}

/* ---- arming on behalf of a sleeper ----
 *
 * Much as in the master: a sleeper waits for work; a helper sometimes comes, disarms the sleeper's
 * bell, does the work that comes meanwhile itself, and when it leaves arms the bell again
 * and polls once more. */
typedef struct {
    pmp_doorbell bell;
    pthread_mutex_t lock;
    bool parked;             /* under the lock: the sleeper sleeps, or is about to */
    _Atomic uint64_t done;   /* written under the lock */
    _Atomic uint64_t posted; /* by the ringer */
    _Atomic bool over, helper_over;
} desk;

/* Under the lock. Returns whether there was any. */
static bool do_work(desk *shared)
{
    const uint64_t posted = atomic_load_explicit(&shared->posted, memory_order_acquire);
    if (posted == atomic_load_explicit(&shared->done, memory_order_relaxed)) {
        return false;
    }
    atomic_store_explicit(&shared->done, posted, memory_order_release);
    return true;
}

/* Under the lock, which is given up during the sleep. */
static void park(desk *shared)
{
    pmp_doorbell_arm(&shared->bell);
    if (!do_work(shared)) {
        shared->parked = true;
        pthread_mutex_unlock(&shared->lock);
        CHECK_EQUAL(pmp_doorbell_sleep(&shared->bell, -1), 0);
        pthread_mutex_lock(&shared->lock);
        shared->parked = false;
    }
    pmp_doorbell_disarm(&shared->bell);
}

static void *sleeper(void *argument)
{
    desk *const shared = argument;
    use_core(1);
    pthread_mutex_lock(&shared->lock);
    do {
        park(shared);
        do_work(shared);
    } while (!atomic_load(&shared->over));
    pthread_mutex_unlock(&shared->lock);
    return NULL;
}

static void help(desk *shared, uint64_t random)
{
    pthread_mutex_lock(&shared->lock);
    if (shared->parked) {
        pmp_doorbell_disarm(&shared->bell);
    }
    for (uint64_t polls = random % 8; polls > 0; polls--) {
        do_work(shared);
        dawdle(random >> polls);
    }
    if (shared->parked) {
        pmp_doorbell_arm(&shared->bell);
        do_work(shared);
    }
    pthread_mutex_unlock(&shared->lock);
}

/* Comes once for each unit of work, so that it does not make good for a ring it lost. */
static void *helper(void *argument)
{
    desk *const shared = argument;
    use_core(1);
    for (uint64_t seen = 0, done; !atomic_load(&shared->helper_over); seen = done) {
        while ((done = atomic_load(&shared->done)) == seen && !atomic_load(&shared->helper_over)) {
            sched_yield();
        }
        dawdle(mix(done));
        help(shared, mix(done));
    }
    return NULL;
}

static void post(desk *shared, uint64_t number)
{
    atomic_store_explicit(&shared->posted, number, memory_order_release);
    pmp_doorbell_ring(&shared->bell);
    while (atomic_load_explicit(&shared->done, memory_order_acquire) != number) {
        sched_yield();
    }
}

static void other_thread_arms_for_sleeper(void)
{
    desk *const shared = shared_memory(sizeof *shared);
    const int64_t end_ns = pmp_now_ns() + hunt_ns;
    uint64_t number = 0;

    pthread_mutex_init(&shared->lock, NULL);
    const pthread_t sleeper_thread = start_thread(sleeper, shared);
    const pthread_t helper_thread = start_thread(helper, shared);
    while (pmp_now_ns() < end_ns) {
        post(shared, ++number);
        dawdle(mix(number));
    }
    /* First the helper: it would take the last unit of work, and the sleeper would not be woken. */
    atomic_store(&shared->helper_over, true);
    join_thread(helper_thread);
    atomic_store(&shared->over, true);
    post(shared, number + 1);
    join_thread(sleeper_thread);
    printf("%llu rings ", (unsigned long long)number);
}

int main(int argument_count, char **arguments)
{
    if (argument_count > 1) {
        hunt_ns = (int64_t)(1000 * atof(arguments[1])) * MS;
    }
    run("ringing without a sleeper does nothing", 60, ringing_without_sleeper_does_nothing);
    run("a ring between arming and sleeping is kept", 60, ring_between_arm_and_sleep_is_kept);
    run("sleep times out", 60, sleep_times_out);
    run("a signal ends a sleep", 60, signal_ends_a_sleep);
    run("wait returns at once when ready", 60, wait_returns_at_once_when_ready);
    run("a poll ends when ready, or after its count", 60, poll_ends_when_ready_or_after_count);
    run("wait checks again after arming", 60, wait_checks_again_after_arming);
    run("wait times out", 60, wait_times_out);
    run("rings without work do not extend a timeout", 60, rings_without_work_do_not_extend_timeout);
    run("spinning adapts to its success", 60, spinning_adapts_to_its_success);
    run("near misses grow the budget until it fails", 60, near_misses_grow_budget_until_it_fails);
    run("failing spins are tried ever more rarely", 60, failing_spins_are_tried_more_rarely);
    run("no budget means no spinning", 60, no_budget_means_no_spinning);
#ifdef PMP_LINUX
    run("a thread moves to a core and stays free", 60, thread_moves_and_stays_free);
    run("a thread finds each core that it may use", 60, thread_finds_each_core_that_it_may_use);
#endif
    use_core(0);
    run("a wait tells its core", 60, wait_tells_core);
    run("no ring is lost between two threads that sleep", hunt_limit_s(),
        two_threads_sleep_by_turns);
    run("no ring is lost between a sleeping and a spinning thread", hunt_limit_s(),
        one_thread_sleeps_and_one_answers);
    run("no ring is lost between two processes that sleep", hunt_limit_s(),
        two_processes_sleep_by_turns);
    run("no ring is lost between a sleeping and a spinning process", hunt_limit_s(),
        one_process_sleeps_and_one_answers);
    run("no ring is lost when another thread arms for a sleeper", hunt_limit_s(),
        other_thread_arms_for_sleeper);
    return 0;
}
