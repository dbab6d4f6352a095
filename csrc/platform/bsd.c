#define _GNU_SOURCE
#define _DARWIN_C_SOURCE

#include "../platform.h"

/* macOS and FreeBSD. With PMP_AS_ON_BSD it is tested on Linux, where libkqueue is installed. */
#ifdef PMP_BSD

#include "../watchdog.h"

#include <errno.h>
#include <sys/event.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/time.h>
#include <unistd.h>

int pmp_random(void *bytes, size_t count)
{
    return getentropy(bytes, count) == 0 ? 0 : -errno;
}

/* ---- memory ---- */

void *pmp_pages_new(size_t size_bytes)
{
    void *const pages =
        mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    return pages != MAP_FAILED ? pages : NULL;
}

void pmp_pages_populate(void *pages, size_t size_bytes)
{
    madvise(pages, size_bytes, MADV_WILLNEED);
}

int pmp_pages_used(const void *pages, size_t size_bytes, int sampled, bool written)
{
    (void)pages;
    (void)size_bytes;
    (void)sampled;
    (void)written;
    return 0;
}

int pmp_open_anonymous(size_t size_bytes)
{
    (void)size_bytes;
    return -ENOSYS;
}

/* No call is needed: the size given to ftruncate counts against the system's limit. */
int pmp_reserve_pages(int descriptor, size_t size_bytes)
{
    (void)descriptor;
    (void)size_bytes;
    return 0;
}

int pmp_seal(int descriptor)
{
    (void)descriptor;
    return 0;
}

bool pmp_could_shrink(int descriptor)
{
    (void)descriptor;
    return false;
}

int pmp_reopen(int descriptor, bool is_writable)
{
    (void)descriptor;
    (void)is_writable;
    return -ENOSYS;
}

bool pmp_is_only_opener(int descriptor)
{
    (void)descriptor;
    return false;
}

/* ---- the master's end ---- */

/* The poll of macOS reports nothing for a socket of which no data is requested, not even a hang-up. Here data that
 * arrives wakes the thread, once (EV_CLEAR), until the end does. */
int pmp_watch_open(int connection)
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

void pmp_watch_wait(int watch)
{
    struct kevent event;
    do {
        event.flags = 0;
        while (kevent(watch, NULL, 0, &event, 1, NULL) <= 0) {
            /* EINTR: nothing has happened on the connection. */
        }
    } while ((event.flags & EV_EOF) == 0);
}

void pmp_watch_close(int watch)
{
    close(watch);
}

/* There is no such request. */
int pmp_end_with_parent(int parent_pid)
{
    return getppid() == parent_pid ? 0 : -ESRCH;
}

#endif
