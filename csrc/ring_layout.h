/* The layout of a ring in a segment, for the three files that know it: ring.c, ring_producer.c and ring_consumer.c. */
#ifndef PMP_RING_LAYOUT_H
#define PMP_RING_LAYOUT_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache_line.h"

typedef struct {
    _Alignas(PMP_CACHE_LINE) _Atomic uint64_t position;
} shared_tail;

/* The layout in the segment: the records follow the tails. The producer and each consumer write one
 * cache line of it. */
typedef struct {
    uint64_t magic;
    uint32_t version;
    uint32_t consumer_count;
    uint64_t capacity;
    _Alignas(PMP_CACHE_LINE) _Atomic uint64_t head;
    shared_tail tails[];
} shared_ring;

static_assert(sizeof(shared_ring) == 2 * PMP_CACHE_LINE, "the layout is shared between processes");
static_assert(offsetof(shared_ring, capacity) == 16, "the layout is shared between processes");
static_assert(offsetof(shared_ring, head) == PMP_CACHE_LINE, "the producer's cache line");
static_assert(offsetof(shared_ring, tails) == 2 * PMP_CACHE_LINE, "the consumers' cache lines");
static_assert(sizeof(shared_tail) == PMP_CACHE_LINE, "the layout is shared between processes");

/* The fields are atomic, although head orders them, so that the consumer loads each exactly once:
 * the value that was checked is the value that is used, whatever the other side does meanwhile. */
typedef struct {
    _Atomic uint32_t size;
    _Atomic uint32_t state;
} record;

static_assert(sizeof(record) == 8, "the layout is shared between processes");
static_assert(sizeof(_Atomic uint64_t) == 8 && ATOMIC_LLONG_LOCK_FREE == 2 &&
                  ATOMIC_INT_LOCK_FREE == 2,
              "a lock inside an atomic would not be shared between processes");

/* No state is 0, so that memory that was never written is not taken for a record. */
enum {
    READY = 1,   /* published */
    CLAIMED = 2, /* the consumer has it */
    REVOKED = 3, /* the producer took it back */
    WRAP = 4     /* nothing from here to the end of the buffer */
};

/* Returns the bytes that a record takes, header and padding included. */
static inline uint64_t span_of(uint32_t size_bytes)
{
    return sizeof(record) + (((uint64_t)size_bytes + 7) & ~UINT64_C(7));
}

static inline uint64_t offset_of(uint64_t capacity, uint64_t position)
{
    return position & (capacity - 1);
}

static inline record *record_at(unsigned char *records, uint64_t capacity, uint64_t position)
{
    return (record *)(void *)(records + offset_of(capacity, position));
}

/* Relaxed is enough for revoking and claiming: the two compare-and-swaps are on one word, on whose
 * order of changes all threads agree, and the record's bytes change owner with head and tail, not
 * with its state. */
static inline bool change_state(record *changed, uint32_t from, uint32_t to)
{
    return atomic_compare_exchange_strong_explicit(&changed->state, &from, to, memory_order_relaxed,
                                                   memory_order_relaxed);
}

static inline size_t bytes_before_records(uint32_t consumer_count)
{
    return sizeof(shared_ring) + consumer_count * sizeof(shared_tail);
}

/* Acquire: the consumer has finished reading what it released before we write there. */
static inline uint64_t load_tail_of(void *memory, uint32_t number)
{
    shared_ring *const ring = memory;
    return atomic_load_explicit(&ring->tails[number].position, memory_order_acquire);
}

/* What is read of a ring once, before it is used. */
typedef struct {
    uint64_t capacity, head;
    uint32_t consumer_count;
} ring_facts;

/* Checks that the memory holds a ring. Both sides do this before they use it. Errors: -EINVAL. */
int pmp_ring_check(void *memory, size_t available, ring_facts *facts);

#endif
