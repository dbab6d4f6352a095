/* Shared by all test programs: one line per test, time limits, children, random numbers.
 * It comes first in each, because it asks the system's headers for everything they have. */
#ifndef PMP_TEST_SUPPORT_H
#define PMP_TEST_SUPPORT_H

#define _GNU_SOURCE

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../csrc/cache_line.h"

#ifdef __linux__
#include <sys/prctl.h>
#endif
#ifndef _WIN32
#include <sys/mman.h>
#include <sys/wait.h>
#endif

/* _exit, not exit: it may be called in any thread and in children. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "\nFAILED %s:%d: %s\n", __FILE__, __LINE__, #condition);               \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

/* The values, too, for a comparison of integers. */
#define CHECK_EQUAL(found, expected)                                                               \
    do {                                                                                           \
        const long long found_ = (long long)(found), expected_ = (long long)(expected);            \
        if (found_ != expected_) {                                                                 \
            fprintf(stderr, "\nFAILED %s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #found,  \
                    found_, expected_);                                                            \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

#ifdef _WIN32

#include "support_windows.h"

#else

/* Starts a child that ends with this process; it exits with what body returns. */
static inline pid_t start_child(int (*body)(void *), void *argument)
{
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
#ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
        _exit(body(argument));
    }
    return child;
}

/* Keeps the calling thread on the first or second (0, 1) of the usable cores, if there are two, for
 * races between cores: the system often puts two threads that wake each other on the same core. */
static inline void use_core(unsigned which)
{
#ifdef __linux__
    static cpu_set_t ours; /* from before the first call: threads and children inherit their core */
    cpu_set_t one;
    if (CPU_COUNT(&ours) == 0) {
        CHECK_EQUAL(sched_getaffinity(0, sizeof ours, &ours), 0);
    }
    for (unsigned core = 0; core < CPU_SETSIZE; core++) {
        if (CPU_ISSET(core, &ours) && which-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(core, &one);
            CHECK_EQUAL(sched_setaffinity(0, sizeof one, &one), 0);
            return;
        }
    }
#else
    (void)which;
#endif
}

/* Zeroed memory that children share; page aligned. */
static inline void *shared_memory(size_t size_bytes)
{
    void *const memory =
        mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

/* Zeroed memory whose end the address sanitizer guards to the byte. */
static inline void *guarded_memory(size_t size_bytes)
{
    void *memory;
    CHECK_EQUAL(posix_memalign(&memory, PMP_CACHE_LINE, size_bytes), 0);
    memset(memory, 0, size_bytes);
    return memory;
}

/* Returns true if the page of this byte is mapped. */
static inline bool is_mapped(const void *byte)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    return msync((void *)((uintptr_t)byte / page * page), 1, MS_ASYNC) == 0;
}

#endif

static const char *skip_reason;

static inline void skip(const char *reason)
{
    skip_reason = reason;
}

/* Runs one test and prints its line. A test that gets stuck is ended by SIGALRM, which is not
 * caught: no handler, so no system call returns early on the way there. */
static inline void run(const char *sentence, unsigned limit_s, void (*test)(void))
{
    struct timespec start, end;
    printf("%s ... ", sentence);
    fflush(stdout);
    skip_reason = NULL;
    clock_gettime(CLOCK_MONOTONIC, &start);
    alarm(limit_s);
    test();
    alarm(0);
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (skip_reason != NULL) {
        printf("skipped: %s\n", skip_reason);
    } else {
        printf("ok (%.1f s)\n",
               difftime(end.tv_sec, start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9);
    }
    fflush(stdout);
}

static inline int wait_for_child(pid_t child)
{
    int status;
    while (waitpid(child, &status, 0) != child) {
        CHECK_EQUAL(errno, EINTR);
    }
    return status;
}

static inline pthread_t start_thread(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, body, argument), 0);
    return thread;
}

static inline void join_thread(pthread_t thread)
{
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
}

/* splitmix64 (Steele, Lea, Flood 2014): a good number for every number. */
static inline uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static inline uint64_t next_random(uint64_t *state)
{
    return mix((*state)++);
}

/* Bytes that follow from key; equal keys make equal bytes. to may be NULL for no bytes. */
static inline void fill_bytes(void *to, size_t size_bytes, uint64_t key)
{
    unsigned char *at = to;
    for (; size_bytes >= 8; size_bytes -= 8, at += 8, key += UINT64_C(0x9e3779b97f4a7c15)) {
        memcpy(at, &key, 8);
    }
    if (size_bytes != 0) {
        memcpy(at, &key, size_bytes);
    }
}

static inline bool has_bytes(const void *from, size_t size_bytes, uint64_t key)
{
    const unsigned char *at = from;
    for (; size_bytes >= 8; size_bytes -= 8, at += 8, key += UINT64_C(0x9e3779b97f4a7c15)) {
        if (memcmp(at, &key, 8) != 0) {
            return false;
        }
    }
    return size_bytes == 0 || memcmp(at, &key, size_bytes) == 0;
}

#endif
