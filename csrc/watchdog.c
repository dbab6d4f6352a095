#define _GNU_SOURCE
#define _DARWIN_C_SOURCE

#include "watchdog.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#ifdef __APPLE__
#define PMP_KQUEUE
#endif
#ifdef PMP_KQUEUE
#include <sys/event.h>
#include <sys/time.h>
#else
#include <poll.h>
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

#ifdef PMP_KQUEUE

/* The poll of macOS reports nothing for a socket of which no data is requested, not even a hang-up. Here data that
 * arrives wakes the thread, once (EV_CLEAR), until the end does. */
static int open_watch(int connection)
{
    const int queue = kqueue();
    struct kevent end_or_data;
    if (queue < 0) {
        return -errno;
    }
    EV_SET(&end_or_data, (uintptr_t)connection, EVFILT_READ, EV_ADD | EV_CLEAR, 0, 0, NULL);
    if (kevent(queue, &end_or_data, 1, NULL, 0, NULL) != 0) {
        const int error = -errno;
        close(queue);
        return error;
    }
    return queue;
}

static void close_watch(int queue)
{
    close(queue);
}

static void wait_for_end(int queue)
{
    struct kevent event;
    do {
        event.flags = 0;
        while (kevent(queue, NULL, 0, &event, 1, NULL) <= 0) {
            /* EINTR: nothing has happened on the connection. */
        }
    } while ((event.flags & EV_EOF) == 0);
}

#else

/* Linux reports that the peer is gone with POLLRDHUP, if that is requested. Elsewhere POLLHUP is reported without a
 * request. POLLIN is not requested: other code reads the data. */
#ifdef POLLRDHUP
#define HANG_UP POLLRDHUP
#else
#define HANG_UP 0
#endif

static int open_watch(int connection)
{
    return connection;
}

static void close_watch(int connection)
{
    (void)connection; /* it is not the watchdog's */
}

static void wait_for_end(int connection)
{
    struct pollfd watched = {.fd = connection, .events = HANG_UP};

    while (poll(&watched, 1, -1) <= 0) {
        /* EINTR or EAGAIN: nothing has happened on the connection. */
    }
}

#endif

static void *watch(void *argument)
{
    wait_for_end((int)(intptr_t)argument);
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
    const int watched = open_watch(descriptor);
    if (watched < 0) {
        return watched;
    }
    int error = -pthread_attr_init(&attributes);
    if (error != 0) {
        close_watch(watched);
        return error;
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    error = create_blocked(&attributes, watched);
    pthread_attr_destroy(&attributes);
    if (error != 0) {
        close_watch(watched);
    }
    return error;
}

int pmp_end_with_parent(int parent_pid)
{
#ifdef PR_SET_PDEATHSIG
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    return getppid() == parent_pid ? 0 : -ESRCH;
}
