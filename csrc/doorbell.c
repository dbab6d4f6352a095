#define _GNU_SOURCE
#define _DARWIN_C_SOURCE

#include "doorbell.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

#if defined(__linux__) && !defined(PMP_PORTABLE_WAIT)
#define PMP_FUTEX
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define NS_PER_S INT64_C(1000000000)

/* Looks with a pause between them before the waiter begins to yield: one to two microseconds on
 * current x86 and ARM cores. An answer that comes sooner finds us on the core. */
#define LOOKS_WITH_PAUSE 32

#define SPIN_LEAST_NS 2000

static_assert(sizeof(pmp_doorbell) == 64, "the layout is shared between processes");

static struct timespec to_timespec(int64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

int64_t pmp_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* ---- the bell ---- */

#ifdef PMP_FUTEX

/* Not FUTEX_PRIVATE_FLAG: the word is shared between processes. */
static void wake(pmp_doorbell *bell)
{
    syscall(SYS_futex, &bell->asleep, FUTEX_WAKE, 1, NULL, NULL, 0);
}

int pmp_doorbell_sleep(pmp_doorbell *bell, int64_t timeout_ns)
{
    const struct timespec timeout = to_timespec(timeout_ns < 0 ? 0 : timeout_ns);

    /* The kernel compares the word with 1 before it lets us sleep: a ring between arming and
     * here is not lost. */
    if (syscall(SYS_futex, &bell->asleep, FUTEX_WAIT, 1, timeout_ns < 0 ? NULL : &timeout, NULL,
                0) == 0) {
        return 0;
    }
    return errno == ETIMEDOUT || errno == EINTR ? -errno : 0;
}

#else

#define PAUSE_LEAST_NS INT64_C(50000)
#define PAUSE_MOST_NS  INT64_C(2000000)

static void wake(pmp_doorbell *bell)
{
    (void)bell; /* the exchange in pmp_doorbell_ring is what the sleeper looks for */
}

int pmp_doorbell_sleep(pmp_doorbell *bell, int64_t timeout_ns)
{
    const int64_t start = pmp_now_ns();
    int64_t pause_ns = PAUSE_LEAST_NS;

    while (atomic_load_explicit(&bell->asleep, memory_order_acquire) == 1) {
        const int64_t left_ns = timeout_ns < 0 ? pause_ns : timeout_ns - (pmp_now_ns() - start);
        if (left_ns <= 0) {
            return -ETIMEDOUT;
        }
        const struct timespec nap = to_timespec(left_ns < pause_ns ? left_ns : pause_ns);
        if (nanosleep(&nap, NULL) != 0 && errno == EINTR) {
            return -EINTR;
        }
        pause_ns = 2 * pause_ns < PAUSE_MOST_NS ? 2 * pause_ns : PAUSE_MOST_NS;
    }
    return 0;
}

#endif

void pmp_doorbell_ring(pmp_doorbell *bell)
{
    /* Our publishing is visible before we look whether somebody sleeps. Pairs with the fence
     * in pmp_doorbell_arm: at least one of the two sides sees what the other wrote before its
     * fence. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&bell->asleep, memory_order_relaxed) == 0) {
        return;
    }
    /* Of several ringers one makes the system call. */
    if (atomic_exchange_explicit(&bell->asleep, 0, memory_order_release) == 1) {
        wake(bell);
    }
}

void pmp_doorbell_arm(pmp_doorbell *bell)
{
    atomic_store_explicit(&bell->asleep, 1, memory_order_relaxed);
    /* Being asleep is visible before we look for work once more. */
    atomic_thread_fence(memory_order_seq_cst);
}

void pmp_doorbell_disarm(pmp_doorbell *bell)
{
    atomic_store_explicit(&bell->asleep, 0, memory_order_relaxed);
}

/* ---- waiting ---- */

static void pause_core(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory"); /* "yield" is over at once on most cores */
#endif
}

void pmp_spinner_init(pmp_spinner *spinner, int64_t most_ns)
{
    spinner->most_ns = most_ns;
    spinner->least_ns = most_ns < SPIN_LEAST_NS ? most_ns : SPIN_LEAST_NS;
    spinner->budget_ns = most_ns;
    spinner->near_ns = 2 * most_ns;
}

static int64_t between(int64_t least, int64_t value, int64_t most)
{
    return value < least ? least : value > most ? most : value;
}

static bool look_with_pauses(bool (*ready)(void *context), void *context)
{
    for (int look = 0; look < LOOKS_WITH_PAUSE; look++) {
        pause_core();
        if (ready(context)) {
            return true;
        }
    }
    return false;
}

static bool look_and_yield(int64_t end_ns, bool (*ready)(void *context), void *context)
{
    do {
        sched_yield();
        if (ready(context)) {
            return true;
        }
    } while (pmp_now_ns() < end_ns);
    return false;
}

static void set_budget(pmp_spinner *spinner, int64_t budget_ns)
{
    spinner->budget_ns = between(spinner->least_ns, budget_ns, spinner->most_ns);
}

/* What spinning brought is the best guess at what it will bring. */
static void learn_from_find(pmp_spinner *spinner)
{
    set_budget(spinner, 2 * spinner->budget_ns);
}

/* A wait that was over soon after we went to sleep, or before we were awake again, would have been
 * over within a larger budget: that is how the budget grows again after long waits. Where all that
 * may be spun was in vain it begins anew, for the next waits may be just as long. */
static void learn_from_miss(pmp_spinner *spinner, int64_t took_ns)
{
    if (took_ns >= spinner->near_ns) {
        set_budget(spinner, spinner->budget_ns / 2);
    } else if (spinner->budget_ns < spinner->most_ns) {
        set_budget(spinner, 2 * spinner->budget_ns);
    } else {
        set_budget(spinner, 0);
    }
}

/* ---- sleeping ---- */

static int arm_and_sleep(pmp_doorbell *bell, bool (*ready)(void *context), void *context,
                         int64_t timeout_ns)
{
    pmp_doorbell_arm(bell);
    const int error = ready(context) ? 0 : pmp_doorbell_sleep(bell, timeout_ns);
    pmp_doorbell_disarm(bell);
    return error;
}

/* Sleeps until it is ready; end_ns < 0: without limit. */
static int sleep_until(pmp_doorbell *bell, bool (*ready)(void *context), void *context,
                       int64_t end_ns)
{
    int64_t left_ns = -1;
    do {
        if (end_ns >= 0) {
            left_ns = end_ns - pmp_now_ns();
            if (left_ns <= 0) {
                return ready(context) ? 0 : -ETIMEDOUT;
            }
        }
        const int error = arm_and_sleep(bell, ready, context, left_ns);
        if (error != 0) {
            return ready(context) ? 0 : error;
        }
    } while (!ready(context));
    return 0;
}

int pmp_wait(pmp_doorbell *bell, pmp_spinner *spinner, bool (*ready)(void *context), void *context,
             int64_t timeout_ns)
{
    const bool may_spin = spinner->most_ns > 0 && timeout_ns != 0;

    if (ready(context)) {
        return 0;
    }
    if (may_spin && look_with_pauses(ready, context)) {
        learn_from_find(spinner);
        return 0;
    }
    const int64_t start_ns = pmp_now_ns();
    const int64_t end_ns = timeout_ns < 0 ? -1 : start_ns + timeout_ns;
    if (may_spin) {
        const int64_t spun_ns = start_ns + spinner->budget_ns;
        if (look_and_yield(end_ns < 0 || spun_ns < end_ns ? spun_ns : end_ns, ready, context)) {
            learn_from_find(spinner);
            return 0;
        }
    }
    const int code = sleep_until(bell, ready, context, end_ns);
    if (may_spin && code != -EINTR) {
        learn_from_miss(spinner, code == 0 ? pmp_now_ns() - start_ns : INT64_MAX);
    }
    return code;
}
