/* The ring: a queue of variable-length records in shared memory, with one producer and
 * one consumer, without locks.
 *
 * Head and tail count bytes since the beginning and never wrap (2^64 bytes last for
 * centuries); a position is such a count. The producer alone writes head, the consumer
 * alone writes tail, each on a cache line of its own, and each side caches the other's
 * index so that it touches the foreign line only when the ring looks full or empty.
 *
 * A record is a header of 8 bytes (size, state) and its payload, padded to 8 bytes. A record
 * never wraps: when it does not fit before the end of the buffer, a wrap marker fills
 * the rest. Publishing is a release store of head, looking an acquire load of head.
 *
 * Taking back: the consumer claims a record before it reads it, with a compare-and-swap
 * of the record's state; the producer may revoke a published record in the same way.
 * One of the two wins, and a revoked record is skipped. So calls can be sent ahead of time and
 * still be given to another worker later.
 *
 * The consumer trusts nothing it reads: a header that does not fit the ring is -EBADMSG.
 */
#ifndef PMP_RING_H
#define PMP_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Smallest capacity, bytes. */
#define PMP_RING_CAPACITY_MIN 256

/* Bytes that a ring of this capacity (a power of two) takes in a segment; a multiple of 64. */
size_t pmp_ring_footprint(uint64_t capacity);

/* Payload of the largest record that fits into a ring of this capacity, bytes: any record up
 * to it can be pushed as soon as the consumer has caught up, whatever the position. */
uint32_t pmp_ring_record_limit(uint64_t capacity);

/* Makes an empty ring in zeroed memory aligned to 64 bytes, before the other side attaches.
 * Errors: -EINVAL when capacity is not a power of two of at least PMP_RING_CAPACITY_MIN, or
 * above 2^31. */
int pmp_ring_init(void *memory, uint64_t capacity);

/* The producer's own view of a ring. Process-local; not to be shared. */
typedef struct {
    void *ring;           /* the shared part */
    uint64_t capacity;    /* bytes, a power of two; read once at open, never again */
    uint64_t head;        /* own copy of the published head */
    uint64_t tail_seen;   /* tail at the last look */
    uint64_t reserved;    /* bytes up to the end of the reserved record; 0: none reserved */
    uint64_t reserved_at; /* position of the reserved record */
} pmp_producer;

/* The consumer's own view of a ring. Process-local; not to be shared. */
typedef struct {
    void *ring;
    uint64_t capacity;
    uint64_t tail;       /* own copy of the released tail */
    uint64_t head_seen;  /* head at the last look */
    uint64_t taken;      /* bytes of the record that was handed out; 0: none */
    uint32_t taken_size; /* bytes of its payload */
} pmp_consumer;

/* Opens either side of the ring in memory of available bytes.
 * Errors: -EINVAL when what lies there is no ring that fits. */
int pmp_producer_open(pmp_producer *producer, void *memory, size_t available);
int pmp_consumer_open(pmp_consumer *consumer, void *memory, size_t available);

/* Reserves a record of size_bytes (0 is allowed); *payload is where to write, 8-byte aligned.
 * Nothing is visible to the consumer before pmp_ring_commit. Reserving again replaces the
 * reservation.
 * Errors: -EAGAIN (no room now), -EMSGSIZE (above pmp_ring_record_limit: never fits). */
int pmp_ring_reserve(pmp_producer *producer, uint32_t size_bytes, void **payload);

/* Publishes the reserved record (release) and returns its position, for pmp_ring_revoke.
 * The caller then rings the consumer's doorbell. */
uint64_t pmp_ring_commit(pmp_producer *producer);

/* Takes the record at this position back. Only by the producer, for positions that commit
 * returned. Returns 0: the consumer will never see it; -EBUSY: the consumer has it. */
int pmp_ring_revoke(pmp_producer *producer, uint64_t position);

/* Whether the consumer has begun the record at this position. */
bool pmp_ring_claimed(const pmp_producer *producer, uint64_t position);

/* Claims the next record that was not revoked; *payload stays valid until pmp_ring_release.
 * Calling it again before the release returns the same record.
 * Errors: -EAGAIN (empty), -EBADMSG (the ring is damaged; it stays so). */
int pmp_ring_next(pmp_consumer *consumer, const void **payload, uint32_t *size_bytes);

/* Gives the space of the record handed out last back to the producer (release store). */
void pmp_ring_release(pmp_consumer *consumer);

/* Whether there is something between tail and head (acquire). True for revoked records too, so
 * pmp_ring_next may still say -EAGAIN. Cheap: for spinning on. */
bool pmp_ring_has_record(const pmp_consumer *consumer);

/* Whether a record of this size could be reserved now (acquire). For waiting for room. */
bool pmp_ring_has_room(const pmp_producer *producer, uint32_t size_bytes);

#endif
