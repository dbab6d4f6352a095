#include "ring.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>

#define RING_MAGIC   UINT64_C(0x676e697230706d70) /* "pmp0ring" */
#define RING_VERSION 1
#define CACHE_LINE   64
#define CAPACITY_MAX (UINT64_C(1) << 31)

/* What lies in the segment. Producer and consumer each write one cache line of it. */
typedef struct {
    uint64_t magic;
    uint32_t version;
    uint32_t unused;
    uint64_t capacity;
    _Alignas(CACHE_LINE) _Atomic uint64_t head;
    _Alignas(CACHE_LINE) _Atomic uint64_t tail;
    _Alignas(CACHE_LINE) unsigned char records[];
} shared_ring;

static_assert(sizeof(shared_ring) == 192, "the layout is shared between processes");
static_assert(offsetof(shared_ring, capacity) == 16, "the layout is shared between processes");
static_assert(offsetof(shared_ring, head) == 64, "the producer's cache line");
static_assert(offsetof(shared_ring, tail) == 128, "the consumer's cache line");
static_assert(offsetof(shared_ring, records) == 192, "the layout is shared between processes");

/* Atomic, though head orders them, so that the consumer's one look is one look: what was
 * checked is what is used, whatever the other side does meanwhile. */
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

static bool is_capacity(uint64_t capacity)
{
    return capacity >= PMP_RING_CAPACITY_MIN && capacity <= CAPACITY_MAX &&
           (capacity & (capacity - 1)) == 0;
}

/* Bytes that a record takes, header and padding included. */
static uint64_t span_of(uint32_t size_bytes)
{
    return sizeof(record) + (((uint64_t)size_bytes + 7) & ~UINT64_C(7));
}

static uint64_t offset_of(uint64_t capacity, uint64_t position)
{
    return position & (capacity - 1);
}

static record *record_at(void *memory, uint64_t capacity, uint64_t position)
{
    shared_ring *const ring = memory;
    return (record *)(void *)(ring->records + offset_of(capacity, position));
}

size_t pmp_ring_footprint(uint64_t capacity)
{
    return sizeof(shared_ring) + (size_t)capacity;
}

/* Where a record of half the capacity does not fit before the end of the buffer, less than half
 * of it is wasted there, and the record fits at the beginning. */
uint32_t pmp_ring_record_limit(uint64_t capacity)
{
    return (uint32_t)(capacity / 2 - sizeof(record));
}

int pmp_ring_init(void *memory, uint64_t capacity)
{
    shared_ring *const ring = memory;

    if (!is_capacity(capacity)) {
        return -EINVAL;
    }
    ring->magic = RING_MAGIC;
    ring->version = RING_VERSION;
    ring->capacity = capacity;
    atomic_init(&ring->head, 0);
    atomic_init(&ring->tail, 0);
    return 0;
}

/* What both sides check before they believe that there is a ring. */
static int check_ring(void *memory, size_t available, uint64_t *capacity, uint64_t *head,
                      uint64_t *tail)
{
    shared_ring *const ring = memory;

    if ((uintptr_t)memory % CACHE_LINE != 0 || available < sizeof(shared_ring) ||
        ring->magic != RING_MAGIC || ring->version != RING_VERSION) {
        return -EINVAL;
    }
    *capacity = *(volatile uint64_t *)&ring->capacity;
    *tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    *head = atomic_load_explicit(&ring->head, memory_order_acquire);
    if (!is_capacity(*capacity) || *capacity > available - sizeof(shared_ring) || *head % 8 != 0 ||
        *tail % 8 != 0 || *head - *tail > *capacity) {
        return -EINVAL;
    }
    return 0;
}

/* ---- the producer ---- */

int pmp_producer_open(pmp_producer *producer, void *memory, size_t available)
{
    uint64_t capacity, head, tail;
    const int error = check_ring(memory, available, &capacity, &head, &tail);
    if (error != 0) {
        return error;
    }
    *producer = (pmp_producer){
        .ring = memory, .capacity = capacity, .head = head, .tail_seen = tail, .reserved = 0};
    return 0;
}

/* Bytes up to the end of a record of this span, if it were the next: what is left before the end
 * of the buffer, too, where the record does not fit there. */
static uint64_t bytes_needed(const pmp_producer *producer, uint64_t span)
{
    const uint64_t before_end = producer->capacity - offset_of(producer->capacity, producer->head);
    return span <= before_end ? span : before_end + span;
}

/* A tail that cannot be (the other side is damaged) means no room, for ever. */
static bool is_free(const pmp_producer *producer, uint64_t tail, uint64_t needed)
{
    const uint64_t used = producer->head - tail;
    return used <= producer->capacity && needed <= producer->capacity - used;
}

/* Acquire: the consumer has finished reading what it released before we write there. */
static uint64_t load_tail(const pmp_producer *producer)
{
    shared_ring *const ring = producer->ring;
    return atomic_load_explicit(&ring->tail, memory_order_acquire);
}

static record *write_record(pmp_producer *producer, uint64_t position, uint32_t size_bytes,
                            uint32_t state)
{
    record *const written = record_at(producer->ring, producer->capacity, position);
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
    if (!is_free(producer, producer->tail_seen, needed)) {
        producer->tail_seen = load_tail(producer);
        if (!is_free(producer, producer->tail_seen, needed)) {
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
    /* Release: header and payload are visible to whoever sees this head. */
    atomic_store_explicit(&ring->head, producer->head, memory_order_release);
    return producer->reserved_at;
}

/* Whether a record that was committed here is still in the ring. As long as it is, only we
 * could overwrite its header, so the header may be looked at even if the consumer
 * releases the record at this moment. */
static bool is_in_ring(const pmp_producer *producer, uint64_t position)
{
    return position - load_tail(producer) < producer->capacity && position < producer->head;
}

/* Relaxed is enough for revoking and claiming: the two compare-and-swaps are on one word, whose
 * order of changes all threads agree on, and the record's bytes change owner with head and
 * tail, not with its state. */
static bool change_state(record *changed, uint32_t from, uint32_t to)
{
    return atomic_compare_exchange_strong_explicit(&changed->state, &from, to, memory_order_relaxed,
                                                   memory_order_relaxed);
}

int pmp_ring_revoke(pmp_producer *producer, uint64_t position)
{
    if (!is_in_ring(producer, position)) {
        return -EBUSY;
    }
    record *const revoked = record_at(producer->ring, producer->capacity, position);
    return change_state(revoked, READY, REVOKED) ? 0 : -EBUSY;
}

bool pmp_ring_claimed(const pmp_producer *producer, uint64_t position)
{
    if (!is_in_ring(producer, position)) {
        return true;
    }
    record *const looked_at = record_at(producer->ring, producer->capacity, position);
    return atomic_load_explicit(&looked_at->state, memory_order_relaxed) == CLAIMED;
}

bool pmp_ring_has_room(const pmp_producer *producer, uint32_t size_bytes)
{
    return is_free(producer, load_tail(producer), bytes_needed(producer, span_of(size_bytes)));
}

/* ---- the consumer ---- */

int pmp_consumer_open(pmp_consumer *consumer, void *memory, size_t available)
{
    uint64_t capacity, head, tail;
    const int error = check_ring(memory, available, &capacity, &head, &tail);
    if (error != 0) {
        return error;
    }
    *consumer = (pmp_consumer){
        .ring = memory, .capacity = capacity, .tail = tail, .head_seen = head, .taken = 0};
    return 0;
}

/* Acquire: pairs with the release in pmp_ring_commit. */
static uint64_t load_head(const pmp_consumer *consumer)
{
    shared_ring *const ring = consumer->ring;
    return atomic_load_explicit(&ring->head, memory_order_acquire);
}

/* Release: whatever we read of these records was read before the producer may overwrite it. */
static void advance_tail(pmp_consumer *consumer, uint64_t span)
{
    shared_ring *const ring = consumer->ring;
    consumer->tail += span;
    atomic_store_explicit(&ring->tail, consumer->tail, memory_order_release);
}

/* Finds the bytes between tail and head; head is loaded only when the known ones are used up. */
static int look_for_bytes(pmp_consumer *consumer, uint64_t *bytes)
{
    if (consumer->head_seen == consumer->tail) {
        consumer->head_seen = load_head(consumer);
    }
    *bytes = consumer->head_seen - consumer->tail;
    if (*bytes == 0) {
        return -EAGAIN;
    }
    return *bytes <= consumer->capacity && *bytes % 8 == 0 ? 0 : -EBADMSG;
}

static bool is_sound(const pmp_consumer *consumer, uint64_t bytes, uint32_t size, uint32_t state)
{
    const uint64_t before_end = consumer->capacity - offset_of(consumer->capacity, consumer->tail);
    const uint64_t span = span_of(size);

    if (span > bytes || span > before_end) {
        return false;
    }
    return state == READY || state == REVOKED || (state == WRAP && span == before_end);
}

/* Tail passes over a wrap marker or a revoked record at once: its space is the producer's
 * again even if we then work on the next record for long. */
static int claim_next(pmp_consumer *consumer)
{
    for (;;) {
        uint64_t bytes;
        const int error = look_for_bytes(consumer, &bytes);
        if (error != 0) {
            return error;
        }
        record *const next = record_at(consumer->ring, consumer->capacity, consumer->tail);
        const uint32_t size = atomic_load_explicit(&next->size, memory_order_relaxed);
        const uint32_t state = atomic_load_explicit(&next->state, memory_order_relaxed);
        if (!is_sound(consumer, bytes, size, state)) {
            return -EBADMSG;
        }
        /* A READY that is not READY any more was revoked between the two looks. */
        if (state == READY && change_state(next, READY, CLAIMED)) {
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
    *payload = record_at(consumer->ring, consumer->capacity, consumer->tail) + 1;
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
