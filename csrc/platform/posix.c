#define _GNU_SOURCE
#define _DARWIN_C_SOURCE

#include "../platform.h"

#ifndef PMP_WINDOWS

#include "../buffer_pool.h"
#include "../doorbell.h"
#include "../watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#define NS_PER_S INT64_C(1000000000)

/* ---- time, threads, processes ---- */

int64_t pmp_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
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

/* ---- memory of this process ---- */

size_t pmp_page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

size_t pmp_machine_bytes(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES);
    return pages > 0 ? (size_t)pages * pmp_page_bytes() : 0;
}

void *pmp_aligned_new(size_t size_bytes)
{
    void *memory;
    return posix_memalign(&memory, 64, size_bytes) == 0 ? memory : NULL;
}

void pmp_aligned_free(void *memory)
{
    free(memory);
}

void pmp_pages_free(void *pages, size_t size_bytes)
{
    munmap(pages, size_bytes);
}

void pmp_pages_offer(void *pages, size_t size_bytes)
{
#ifdef MADV_FREE
    madvise(pages, size_bytes, MADV_FREE);
#else
    (void)pages;
    (void)size_bytes;
#endif
}

#ifdef __GLIBC__

/* DEFAULT_MMAP_THRESHOLD_MAX of 64-bit systems, and twice that: the limits up to which glibc adapts by itself. */
#define HEAP_OBJECT (32 << 20)
#define HEAP_KEPT   (64 << 20)

void pmp_malloc_retain(void)
{
    mallopt(M_MMAP_THRESHOLD, HEAP_OBJECT);
    mallopt(M_TRIM_THRESHOLD, HEAP_KEPT);
}

#else

void pmp_malloc_retain(void)
{
}

#endif

/* ---- memory behind a descriptor ---- */

/* "/pmp-" and 22 characters of 6 random bits each (132 bits); macOS allows 31 characters. */
#define NAME_PREFIX "/pmp-"
#define NAME_RANDOM 22

static int resized(int descriptor, size_t size_bytes)
{
    if (ftruncate(descriptor, (off_t)size_bytes) != 0) {
        const int error = -errno;
        close(descriptor);
        return error;
    }
    return descriptor;
}

/* The name exists between shm_open and shm_unlink only; a process killed between the two
 * leaves an empty object of no pages. */
int pmp_open_posix(size_t size_bytes)
{
    static const char alphabet[] =
        "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
    unsigned char random_bytes[NAME_RANDOM];
    char name[sizeof NAME_PREFIX + NAME_RANDOM] = NAME_PREFIX;

    const int error = pmp_random(random_bytes, sizeof random_bytes);
    if (error != 0) {
        return error;
    }
    for (size_t i = 0; i < NAME_RANDOM; i++) {
        name[sizeof NAME_PREFIX - 1 + i] = alphabet[random_bytes[i] & 63];
    }
    const int descriptor = shm_open(name, O_RDWR | O_CREAT | O_EXCL, S_IRUSR | S_IWUSR);
    if (descriptor < 0) {
        return -errno;
    }
    shm_unlink(name);
    return resized(descriptor, size_bytes);
}

int pmp_open_file(size_t size_bytes)
{
    const char *const folder = getenv("TMPDIR");
    char path[PATH_MAX];

    const int length = snprintf(path, sizeof path, "%s/pympipool-XXXXXX",
                                folder != NULL && folder[0] != '\0' ? folder : "/tmp");
    if (length < 0 || (size_t)length >= sizeof path) {
        return -ENAMETOOLONG;
    }
    const int descriptor = mkstemp(path); /* mode 0600 */
    if (descriptor < 0) {
        return -errno;
    }
    unlink(path);
    fcntl(descriptor, F_SETFD, FD_CLOEXEC);
    return resized(descriptor, size_bytes);
}

int pmp_check_received(int descriptor, size_t *size_bytes)
{
    struct stat status;

    if (fstat(descriptor, &status) != 0) {
        return -errno;
    }
    if (status.st_size <= 0 || (uint64_t)status.st_size % pmp_page_bytes() != 0) {
        return -EINVAL;
    }
    if ((uint64_t)status.st_size > PTRDIFF_MAX) {
        return -ENOMEM;
    }
    if (pmp_could_shrink(descriptor)) {
        return -EINVAL;
    }
    *size_bytes = (size_t)status.st_size;
    return fcntl(descriptor, F_SETFD, FD_CLOEXEC) != 0 ? -errno : 0;
}

int pmp_duplicate(int descriptor)
{
    const int copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    return copy < 0 ? -errno : copy;
}

void pmp_close(int descriptor)
{
    close(descriptor);
}

int pmp_write(int descriptor, const void *bytes, size_t count, size_t offset)
{
    const char *from = bytes;

    while (count > 0) {
        const ssize_t written = pwrite(descriptor, from, count, (off_t)offset);
        if (written < 0 && errno != EINTR) {
            return -errno;
        }
        if (written > 0) {
            from += written;
            count -= (size_t)written;
            offset += (size_t)written;
        }
    }
    return 0;
}

int64_t pmp_read(int descriptor, void *bytes, size_t count, size_t offset)
{
    const ssize_t got = pread(descriptor, bytes, count, (off_t)offset);
    return got < 0 ? -errno : got;
}

static int map(void **address, int descriptor, size_t size_bytes, int protection, int flags)
{
    void *const mapped = mmap(NULL, size_bytes, protection, flags, descriptor, 0);
    if (mapped == MAP_FAILED) {
        return -errno;
    }
    *address = mapped;
    return 0;
}

int pmp_map(void **address, int descriptor, size_t size_bytes, enum pmp_access access)
{
    return access == PMP_COPY_ON_WRITE ? map(address, descriptor, size_bytes,
                                             PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE)
           : access == PMP_READ_ONLY
               ? map(address, descriptor, size_bytes, PROT_READ, MAP_SHARED)
               : map(address, descriptor, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
}

int pmp_map_writable(void **address, int descriptor, size_t size_bytes)
{
    (void)descriptor;
    return mprotect(*address, size_bytes, PROT_READ | PROT_WRITE) != 0 ? -errno : 0;
}

int pmp_map_file(void **address, int descriptor, size_t size_bytes)
{
    return pmp_map(address, descriptor, size_bytes, PMP_COPY_ON_WRITE);
}

void pmp_unmap(void *address, size_t size_bytes)
{
    munmap(address, size_bytes);
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
