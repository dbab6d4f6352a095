/* Measures the ring alone, between two processes on two cores that never sleep, and the limits of the machine.
 *
 *     ring WHAT SIZE COUNT      prints one number, ns per operation
 *
 *     spin         a cache line handed to and fro: the limit of every round trip (SIZE is ignored)
 *     ping-pong    a record of SIZE bytes to and fro over two rings, written and read on each side
 *     stream       records of SIZE bytes one way, written on one side and read on the other
 *     memcpy       SIZE bytes copied inside one process: the limit of every transfer
 *     push         records pushed into a ring of 4 MiB that must not get full, by one process (for callgrind)
 *     push-pop     the same, each record popped again
 */
#define _GNU_SOURCE

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "doorbell.h"
#include "ring.h"

#ifndef CAPACITY
#define CAPACITY (UINT64_C(1) << 19)
#endif

/* Polls between two yields: where both processes share a core, a waiting process must let the other run. */
#define POLLS 2000

typedef struct {
    _Alignas(64) _Atomic uint64_t ping;
    _Alignas(64) _Atomic uint64_t pong;
} flags;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void *map_shared(size_t size_bytes)
{
    void *const memory =
        mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        fail("mmap");
    }
    memset(memory, 0, size_bytes); /* page faults must not be measured */
    return memory;
}

static void *allocate(size_t size_bytes)
{
    void *const memory = malloc(size_bytes);
    if (memory == NULL) {
        fail("malloc");
    }
    memset(memory, 1, size_bytes);
    return memory;
}

/* Binds the process to the index-th of its usable cores; does nothing if there are fewer. */
static void pin(int index)
{
    cpu_set_t allowed, chosen;
    sched_getaffinity(0, sizeof allowed, &allowed);
    for (int core = 0; core < CPU_SETSIZE; core++) {
        if (CPU_ISSET(core, &allowed) && index-- == 0) {
            CPU_ZERO(&chosen);
            CPU_SET(core, &chosen);
            sched_setaffinity(0, sizeof chosen, &chosen);
            return;
        }
    }
}

static void relax(unsigned *polls)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
    if (++*polls % POLLS == 0) {
        sched_yield();
    }
}

/* ---- two processes ---- */

typedef struct {
    flags *flags;
    pmp_producer to;
    pmp_consumer from;
    unsigned char *buffer;
    uint32_t size_bytes;
    long count;
} side;

static void await(_Atomic uint64_t *flag, uint64_t value)
{
    unsigned polls = 0;
    while (atomic_load_explicit(flag, memory_order_acquire) != value) {
        relax(&polls);
    }
}

static void push(side *me)
{
    unsigned polls = 0;
    void *payload;
    while (pmp_ring_reserve(&me->to, me->size_bytes, &payload) != 0) {
        relax(&polls);
    }
    memcpy(payload, me->buffer, me->size_bytes);
    pmp_ring_commit(&me->to);
}

static void pop(side *me)
{
    unsigned polls = 0;
    const void *payload;
    uint32_t size_bytes;
    while (pmp_ring_next(&me->from, &payload, &size_bytes) != 0) {
        relax(&polls);
    }
    memcpy(me->buffer, payload, size_bytes);
    pmp_ring_release(&me->from);
}

static void spin_here(side *me)
{
    for (long i = 1; i <= me->count; i++) {
        atomic_store_explicit(&me->flags->ping, (uint64_t)i, memory_order_release);
        await(&me->flags->pong, (uint64_t)i);
    }
}

static void spin_there(side *me)
{
    for (long i = 1; i <= me->count; i++) {
        await(&me->flags->ping, (uint64_t)i);
        atomic_store_explicit(&me->flags->pong, (uint64_t)i, memory_order_release);
    }
}

static void ping(side *me)
{
    for (long i = 0; i < me->count; i++) {
        push(me);
        pop(me);
    }
}

static void pong(side *me)
{
    for (long i = 0; i < me->count; i++) {
        pop(me);
        push(me);
    }
}

static void stream(side *me)
{
    for (long i = 0; i < me->count; i++) {
        push(me);
    }
    await(&me->flags->pong, (uint64_t)me->count);
}

static void drain(side *me)
{
    for (long i = 0; i < me->count; i++) {
        pop(me);
    }
    atomic_store_explicit(&me->flags->pong, (uint64_t)me->count, memory_order_release);
}

static void open_side(side *me, void *to, void *from)
{
    const size_t footprint = pmp_ring_footprint(CAPACITY, 1);
    if (pmp_producer_open(&me->to, to, footprint) != 0 ||
        pmp_consumer_open(&me->from, from, footprint, 0) != 0) {
        fail("opening a ring");
    }
}

/* Runs `here` in this process and `there` in another one; returns the ns that `here` took. */
static int64_t run_two(void (*here)(side *), void (*there)(side *), uint32_t size_bytes, long count)
{
    void *const forth = map_shared(pmp_ring_footprint(CAPACITY, 1));
    void *const back = map_shared(pmp_ring_footprint(CAPACITY, 1));
    if (pmp_ring_init(forth, CAPACITY, 1) != 0 || pmp_ring_init(back, CAPACITY, 1) != 0) {
        fail("making a ring");
    }
    side me = {.flags = map_shared(sizeof(flags)),
               .buffer = allocate(size_bytes + 1),
               .size_bytes = size_bytes,
               .count = count};
    const pid_t child = fork();
    if (child < 0) {
        fail("fork");
    }
    if (child == 0) {
        pin(1);
        open_side(&me, back, forth);
        atomic_store(&me.flags->pong, UINT64_MAX);
        there(&me);
        _exit(0);
    }
    pin(0);
    open_side(&me, forth, back);
    await(&me.flags->pong, UINT64_MAX);
    const int64_t start_ns = pmp_now_ns();
    here(&me);
    const int64_t taken_ns = pmp_now_ns() - start_ns;
    waitpid(child, NULL, 0);
    return taken_ns;
}

/* ---- one process ---- */

static int64_t copy(size_t size_bytes, long count)
{
    unsigned char *const from = allocate(size_bytes);
    unsigned char *const to = allocate(size_bytes);
    const int64_t start_ns = pmp_now_ns();
    for (long i = 0; i < count; i++) {
        memcpy(to, from, size_bytes);
        __asm__ __volatile__("" ::"r"(to) : "memory"); /* prevents the compiler from removing the copy */
    }
    return pmp_now_ns() - start_ns;
}

static int64_t run_alone(uint32_t size_bytes, long count, int is_popped)
{
    const uint64_t capacity = UINT64_C(1) << 22;
    void *const memory = map_shared(pmp_ring_footprint(capacity, 1));
    side me = {.buffer = allocate(size_bytes + 1), .size_bytes = size_bytes};
    if (pmp_ring_init(memory, capacity, 1) != 0 ||
        pmp_producer_open(&me.to, memory, pmp_ring_footprint(capacity, 1)) != 0 ||
        pmp_consumer_open(&me.from, memory, pmp_ring_footprint(capacity, 1), 0) != 0) {
        fail("making a ring");
    }
    const int64_t start_ns = pmp_now_ns();
    for (long i = 0; i < count; i++) {
        push(&me);
        if (is_popped) {
            pop(&me);
        }
    }
    return pmp_now_ns() - start_ns;
}

static int64_t run(const char *what, size_t size_bytes, long count)
{
    const uint32_t record_bytes = (uint32_t)size_bytes;
    if (strcmp(what, "spin") == 0) {
        return run_two(spin_here, spin_there, 0, count);
    }
    if (strcmp(what, "memcpy") == 0) {
        return copy(size_bytes, count);
    }
    if (size_bytes > pmp_ring_record_limit(CAPACITY)) {
        fprintf(stderr, "SIZE %zu is above the limit of a record, %u\n", size_bytes,
                pmp_ring_record_limit(CAPACITY));
        exit(2);
    }
    if (strcmp(what, "ping-pong") == 0) {
        return run_two(ping, pong, record_bytes, count);
    }
    if (strcmp(what, "stream") == 0) {
        return run_two(stream, drain, record_bytes, count);
    }
    if (strcmp(what, "push") == 0 || strcmp(what, "push-pop") == 0) {
        return run_alone(record_bytes, count, strcmp(what, "push") != 0);
    }
    fprintf(stderr, "unknown: %s\n", what);
    exit(2);
}

int main(int argc, char **argv)
{
    if (argc != 4 || atol(argv[3]) < 1) {
        fprintf(stderr, "usage: ring spin|ping-pong|stream|memcpy|push|push-pop SIZE COUNT\n");
        return 2;
    }
    const long count = atol(argv[3]);
    printf("%.3f\n", (double)run(argv[1], (size_t)atoll(argv[2]), count) / (double)count);
    return 0;
}
