#define _GNU_SOURCE
#define _DARWIN_C_SOURCE

#include "../platform.h"

#ifndef PMP_WINDOWS

#include "../doorbell.h"
#include "../watchdog.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S INT64_C(1000000000)

/* ---- time, threads, processes ---- */

/* The clock of Python's time.monotonic: on macOS it stands still while the machine sleeps, where CLOCK_MONOTONIC goes on. */
#ifdef CLOCK_UPTIME_RAW
#define CLOCK CLOCK_UPTIME_RAW
#else
#define CLOCK CLOCK_MONOTONIC
#endif

int64_t pmp_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

void pmp_yield(void)
{
    sched_yield();
}

void pmp_pause_us(uint32_t pause_us)
{
    usleep(pause_us);
}

int64_t pmp_process_id(void)
{
    return getpid();
}

/* ---- descriptors that wake a thread with a selector ---- */

/* An eventfd takes eight bytes. */
void pmp_wakeup_write(int descriptor)
{
    static const uint64_t one = 1;
    const ssize_t written = write(descriptor, &one, sizeof one);
    (void)written; /* if there is no room, the thread is about to wake up anyway */
}

void pmp_wakeup_read(int descriptor)
{
    char bytes[4096];
    const ssize_t got = read(descriptor, bytes, sizeof bytes);
    (void)got;
}

void pmp_wakeup_close(int descriptor)
{
    close(descriptor);
}

/* ---- doorbells, where there are no futexes ---- */

#if defined(PMP_BSD) || defined(PMP_PORTABLE_WAIT)

#define PAUSE_MIN_NS INT64_C(50000)
#define PAUSE_MAX_NS INT64_C(2000000)

void pmp_doorbell_wake(pmp_doorbell *bell)
{
    (void)bell; /* the sleeper polls for what has disarmed it */
}

int pmp_doorbell_sleep(pmp_doorbell *bell, int64_t timeout_ns)
{
    const int64_t start = pmp_now_ns();
    int64_t pause_ns = PAUSE_MIN_NS;

    while (atomic_load_explicit(&bell->asleep, memory_order_acquire) == 1) {
        const int64_t left_ns = timeout_ns < 0 ? pause_ns : timeout_ns - (pmp_now_ns() - start);
        if (left_ns <= 0) {
            return -ETIMEDOUT;
        }
        const struct timespec nap = {.tv_nsec = (long)(left_ns < pause_ns ? left_ns : pause_ns)};
        if (nanosleep(&nap, NULL) != 0 && errno == EINTR) {
            return -EINTR;
        }
        pause_ns = 2 * pause_ns < PAUSE_MAX_NS ? 2 * pause_ns : PAUSE_MAX_NS;
    }
    return 0;
}

#endif

/* ---- the watchdog ---- */

/* The thread needs very little. The rest is room for thread-local storage of other libraries, which can be large. */
#define STACK_BYTES (256 * 1024)

static void kill_this_process(void)
{
    if (getpgrp() == getpid()) {
        kill(0, SIGKILL);
    }
    kill(getpid(), SIGKILL);
}

static void *watch(void *argument)
{
    pmp_watch_wait((int)(intptr_t)argument);
    kill_this_process();
    return NULL;
}

/* The thread inherits the signal mask, so it never runs with a signal unblocked. */
static int create_blocked(pthread_attr_t *attributes, int watched)
{
    sigset_t all, before;
    pthread_t thread;

    sigfillset(&all);
    int error = pthread_sigmask(SIG_BLOCK, &all, &before);
    if (error != 0) {
        return -error;
    }
    error = pthread_create(&thread, attributes, watch, (void *)(intptr_t)watched);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -error;
}

int pmp_watchdog_start(int descriptor)
{
    pthread_attr_t attributes;

    if (descriptor < 0) {
        return -EBADF;
    }
    const int watched = pmp_watch_open(descriptor);
    if (watched < 0) {
        return watched;
    }
    int error = -pthread_attr_init(&attributes);
    if (error != 0) {
        pmp_watch_close(watched);
        return error;
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    error = create_blocked(&attributes, watched);
    pthread_attr_destroy(&attributes);
    if (error != 0) {
        pmp_watch_close(watched);
    }
    return error;
}

#endif
