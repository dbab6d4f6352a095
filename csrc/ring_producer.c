#include <errno.h>

#include "ring.h"
#include "ring_layout.h"

/* Returns the tail of the consumer that is furthest behind. An impossible one counts as furthest of all. */
static uint64_t load_tail(const pmp_producer *producer)
{
    uint64_t furthest = load_tail_of(producer->ring, 0);

    for (uint32_t i = 1; i < producer->consumer_count; i++) {
        const uint64_t tail = load_tail_of(producer->ring, i);
        if (producer->head - tail > producer->head - furthest) {
            furthest = tail;
        }
    }
    return furthest;
}

int pmp_producer_open(pmp_producer *producer, void *memory, size_t available)
{
    ring_facts facts;
    const int error = pmp_ring_check(memory, available, &facts);
    if (error != 0) {
        return error;
    }
    *producer = (pmp_producer){.ring = memory,
                               .records = (unsigned char *)memory +
                                          bytes_before_records(facts.consumer_count),
                               .capacity = facts.capacity,
                               .consumer_count = facts.consumer_count,
                               .head = facts.head};
    producer->cached_tail = load_tail(producer);
    return 0;
}

/* Returns the bytes up to the end of a record of this span, if it were the next. Where the record
 * does not fit before the end of the buffer, the bytes left there count too. */
static uint64_t bytes_needed(const pmp_producer *producer, uint64_t span)
{
    const uint64_t before_end = producer->capacity - offset_of(producer->capacity, producer->head);
    return span <= before_end ? span : before_end + span;
}

/* An impossible tail (the other side is corrupt) means that there is no room, forever. */
static bool is_free(const pmp_producer *producer, uint64_t tail, uint64_t needed)
{
    const uint64_t used = producer->head - tail;
    return used <= producer->capacity && needed <= producer->capacity - used;
}

static record *write_record(pmp_producer *producer, uint64_t position, uint32_t size_bytes,
                            uint32_t state)
{
    record *const written = record_at(producer->records, producer->capacity, position);
    atomic_store_explicit(&written->size, size_bytes, memory_order_relaxed);
    atomic_store_explicit(&written->state, state, memory_order_relaxed);
    return written;
}

int pmp_ring_reserve(pmp_producer *producer, uint32_t size_bytes, void **payload)
{
    producer->reserved = 0;
    if (size_bytes > pmp_ring_record_limit(producer->capacity)) {
        return -EMSGSIZE;
    }
    const uint64_t span = span_of(size_bytes);
    const uint64_t needed = bytes_needed(producer, span);
    if (!is_free(producer, producer->cached_tail, needed)) {
        producer->cached_tail = load_tail(producer);
        if (!is_free(producer, producer->cached_tail, needed)) {
            return -EAGAIN;
        }
    }
    if (needed > span) {
        write_record(producer, producer->head, (uint32_t)(needed - span - sizeof(record)), WRAP);
    }
    producer->reserved = needed;
    producer->reserved_at = producer->head + needed - span;
    *payload = write_record(producer, producer->reserved_at, size_bytes, READY) + 1;
    return 0;
}

uint64_t pmp_ring_commit(pmp_producer *producer)
{
    shared_ring *const ring = producer->ring;

    producer->head += producer->reserved;
    producer->reserved = 0;
    /* Release: header and payload are visible to a consumer that sees this head. */
    atomic_store_explicit(&ring->head, producer->head, memory_order_release);
    return producer->reserved_at;
}

/* Returns true if a record that was committed here is still in the ring. As long as it is, only the
 * producer could overwrite its header, so the producer may read the header even if the consumer
 * releases the record at this moment. */
static bool is_in_ring(const pmp_producer *producer, uint64_t position)
{
    return position - load_tail(producer) < producer->capacity && position < producer->head;
}

int pmp_ring_revoke(pmp_producer *producer, uint64_t position)
{
    if (!is_in_ring(producer, position)) {
        return -EBUSY;
    }
    record *const revoked = record_at(producer->records, producer->capacity, position);
    return change_state(revoked, READY, REVOKED) ? 0 : -EBUSY;
}

bool pmp_ring_claimed(const pmp_producer *producer, uint64_t position)
{
    if (!is_in_ring(producer, position)) {
        return true;
    }
    record *const checked = record_at(producer->records, producer->capacity, position);
    return atomic_load_explicit(&checked->state, memory_order_relaxed) == CLAIMED;
}

bool pmp_ring_is_empty(const pmp_producer *producer)
{
    return load_tail(producer) == producer->head;
}

bool pmp_ring_has_room(const pmp_producer *producer, uint32_t size_bytes)
{
    return is_free(producer, load_tail(producer), bytes_needed(producer, span_of(size_bytes)));
}
