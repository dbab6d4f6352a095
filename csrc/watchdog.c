#define _GNU_SOURCE
#define _DARWIN_C_SOURCE

#include "watchdog.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

/* Linux reports that the peer is gone with POLLRDHUP, if that is requested. POLLHUP is reported
 * everywhere without a request. POLLIN is not requested: other code reads the data. */
#ifdef POLLRDHUP
#define HANG_UP POLLRDHUP
#else
#define HANG_UP 0
#endif

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
    struct pollfd watched = {.fd = (int)(intptr_t)argument, .events = HANG_UP};

    while (poll(&watched, 1, -1) <= 0) {
        /* EINTR or EAGAIN: nothing has happened on the connection. */
    }
    kill_this_process();
    return NULL;
}

/* The thread inherits the signal mask, so it never runs with a signal unblocked. */
static int create_blocked(pthread_attr_t *attributes, int descriptor)
{
    sigset_t all, before;
    pthread_t thread;

    sigfillset(&all);
    int error = pthread_sigmask(SIG_BLOCK, &all, &before);
    if (error != 0) {
        return -error;
    }
    error = pthread_create(&thread, attributes, watch, (void *)(intptr_t)descriptor);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -error;
}

int pmp_watchdog_start(int descriptor)
{
    pthread_attr_t attributes;

    if (descriptor < 0) {
        return -EBADF;
    }
    int error = -pthread_attr_init(&attributes);
    if (error != 0) {
        return error;
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    error = create_blocked(&attributes, descriptor);
    pthread_attr_destroy(&attributes);
    return error;
}

int pmp_end_with_parent(int parent_pid)
{
#ifdef PR_SET_PDEATHSIG
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    return getppid() == parent_pid ? 0 : -ESRCH;
}
