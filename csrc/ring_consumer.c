#include <errno.h>

#include "ring.h"
#include "ring_layout.h"

int pmp_consumer_open(pmp_consumer *consumer, void *memory, size_t available, uint32_t number)
{
    ring_facts facts;
    const int error = pmp_ring_check(memory, available, &facts);
    if (error != 0 || number >= facts.consumer_count) {
        return -EINVAL;
    }
    *consumer = (pmp_consumer){.ring = memory,
                               .records = (unsigned char *)memory +
                                          bytes_before_records(facts.consumer_count),
                               .capacity = facts.capacity,
                               .number = number,
                               .is_one_of_many = facts.consumer_count > 1,
                               .tail = load_tail_of(memory, number),
                               .cached_head = facts.head};
    return 0;
}

/* Acquire: pairs with the release in pmp_ring_commit. */
static uint64_t load_head(const pmp_consumer *consumer)
{
    shared_ring *const ring = consumer->ring;
    return atomic_load_explicit(&ring->head, memory_order_acquire);
}

/* Release: the consumer has finished reading these records before the producer may overwrite them. */
static void advance_tail(pmp_consumer *consumer, uint64_t span)
{
    shared_ring *const ring = consumer->ring;
    consumer->tail += span;
    atomic_store_explicit(&ring->tails[consumer->number].position, consumer->tail,
                          memory_order_release);
}

/* Finds the bytes between tail and head; head is loaded only when the known ones are used up. */
static int available_bytes(pmp_consumer *consumer, uint64_t *bytes)
{
    if (consumer->cached_head == consumer->tail) {
        consumer->cached_head = load_head(consumer);
    }
    *bytes = consumer->cached_head - consumer->tail;
    if (*bytes == 0) {
        return -EAGAIN;
    }
    return *bytes <= consumer->capacity && *bytes % 8 == 0 ? 0 : -EBADMSG;
}

static bool is_valid(const pmp_consumer *consumer, uint64_t bytes, uint32_t size, uint32_t state)
{
    const uint64_t before_end = consumer->capacity - offset_of(consumer->capacity, consumer->tail);
    const uint64_t span = span_of(size);

    if (span > bytes || span > before_end) {
        return false;
    }
    return state == READY || state == REVOKED || (state == WRAP && span == before_end) ||
           (state == CLAIMED && consumer->is_one_of_many);
}

/* Returns true if this record is the consumer's, claimed by itself or, for all, by another one; false if it was revoked. */
static bool claim(pmp_consumer *consumer, record *next, uint32_t state)
{
    if (state == READY) {
        if (change_state(next, READY, CLAIMED)) {
            return true;
        }
        /* It was claimed, or revoked, between the load and the swap, and stays so. */
        state = atomic_load_explicit(&next->state, memory_order_relaxed);
    }
    return state == CLAIMED && consumer->is_one_of_many;
}

/* Tail passes a wrap marker or a revoked record at once: its space is the producer's again even if
 * the consumer then works on the next record for a long time. */
static int claim_next(pmp_consumer *consumer)
{
    for (;;) {
        uint64_t bytes;
        const int error = available_bytes(consumer, &bytes);
        if (error != 0) {
            return error;
        }
        record *const next = record_at(consumer->records, consumer->capacity, consumer->tail);
        const uint32_t size = atomic_load_explicit(&next->size, memory_order_relaxed);
        const uint32_t state = atomic_load_explicit(&next->state, memory_order_relaxed);
        if (!is_valid(consumer, bytes, size, state)) {
            return -EBADMSG;
        }
        if (claim(consumer, next, state)) {
            consumer->taken = span_of(size);
            consumer->taken_size = size;
            return 0;
        }
        advance_tail(consumer, span_of(size));
    }
}

int pmp_ring_next(pmp_consumer *consumer, const void **payload, uint32_t *size_bytes)
{
    if (consumer->taken == 0) {
        const int error = claim_next(consumer);
        if (error != 0) {
            return error;
        }
    }
    *payload = record_at(consumer->records, consumer->capacity, consumer->tail) + 1;
    *size_bytes = consumer->taken_size;
    return 0;
}

void pmp_ring_release(pmp_consumer *consumer)
{
    advance_tail(consumer, consumer->taken);
    consumer->taken = 0;
}

bool pmp_ring_has_record(const pmp_consumer *consumer)
{
    return load_head(consumer) != consumer->tail;
}
