/* The doorbell: how one waiting side is woken, without a system call while nobody sleeps.
 *
 *     sleeper                              ringer
 *     arm: asleep = 1; full fence          publish work (release); full fence
 *     look for work; found: disarm         asleep == 1? exchange it with 0,
 *     sleep while asleep == 1              and wake whoever sleeps
 *
 * The two fences make it impossible that the sleeper misses the work and the ringer misses
 * the sleeper (store-load order on both sides). tests/csrc/doorbell.pml is the model of this
 * protocol and is checked exhaustively.
 *
 * A doorbell has one sleeper at a time and any number of ringers. Arming may be done by another
 * thread on behalf of a sleeper that is still in pmp_doorbell_sleep.
 *
 * Linux sleeps on a futex. With PMP_PORTABLE_WAIT (and wherever there is no futex) the
 * sleeper looks at the word after pauses that grow from 50 us to 2 ms.
 */
#ifndef PMP_DOORBELL_H
#define PMP_DOORBELL_H

#include <stdbool.h>
#include <stdint.h>

/* Lives in shared memory, on a cache line of its own; zeroed memory is a disarmed doorbell. */
typedef struct {
    _Alignas(64) _Atomic uint32_t asleep;
} pmp_doorbell;

/* Wakes the sleeper if there is one. Call it after publishing. Never blocks. */
void pmp_doorbell_ring(pmp_doorbell *bell);

/* Says that somebody is about to sleep (store, then full fence). Look for work after it. */
void pmp_doorbell_arm(pmp_doorbell *bell);

/* Takes that back, without waking anybody. */
void pmp_doorbell_disarm(pmp_doorbell *bell);

/* Sleeps while the doorbell is armed; timeout_ns < 0: without limit.
 * Returns 0 (rung or disarmed), -ETIMEDOUT or -EINTR (a signal came: the caller may want
 * to look at it). The doorbell stays armed after the last two. Spurious 0 is possible. */
int pmp_doorbell_sleep(pmp_doorbell *bell, int64_t timeout_ns);

/* How long a waiter spins before it sleeps; adapts to what spinning brought lately, or would have
 * brought: waits that were hardly longer than the budget make it grow, long ones make it shrink.
 * Where spinning takes a core from whom one waits for, set near_ns to 0: then it shrinks with each
 * miss. */
typedef struct {
    int64_t budget_ns; /* what the next wait may spin */
    int64_t least_ns;
    int64_t most_ns; /* 0: never spin */
    int64_t near_ns; /* a miss that took less makes the budget grow; 0: none does */
} pmp_spinner;

/* A spinner with a budget of up to most_ns. */
void pmp_spinner_init(pmp_spinner *spinner, int64_t most_ns);

/* Waits until ready(context) is true: spins within the budget (pauses first, then yields
 * the core between looks), then arms and sleeps. ready is called often; it must be cheap and
 * must not block. timeout_ns < 0: without limit.
 * Returns 0 (ready), -ETIMEDOUT, -EINTR (as above). The doorbell is disarmed on return. */
int pmp_wait(pmp_doorbell *bell, pmp_spinner *spinner, bool (*ready)(void *context), void *context,
             int64_t timeout_ns);

/* Monotonic clock, ns. */
int64_t pmp_now_ns(void);

#endif
