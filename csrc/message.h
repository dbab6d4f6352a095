/* The messages that go through rings: a head and up to PMP_PARTS_MAX parts (runs of bytes).
 *
 *     head | size of each part | parts, each padded to 8 bytes           in one record
 *     head | size of each part || bytes || bytes || ...                  in fragments, each a record
 *
 * sender.h writes them, receiver.h reads them.
 */
#ifndef PMP_MESSAGE_H
#define PMP_MESSAGE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Largest number of parts of one message, the first included. */
#define PMP_PARTS_MAX 1024

/* Number of functions that a worker keeps: function number n lies in slot n modulo this. Master and worker both apply this
 * rule, so neither has to tell the other which function was displaced. A power of two. */
#define PMP_FUNCTION_CACHE_SIZE 256

/* Estimated run time of the calls that are sent ahead to a worker, ns: on a ring (scheduler.pyx) and over TCP
 * (transport/tcp/prefetch.py) alike. */
#define PMP_PREFETCH_NS 1000000

/* Time that a call may run, at least, before no other call should wait behind it, ns. Shared as above. */
#define PMP_OVERDUE_NS 2000000

/* The kinds of messages. */
enum pmp_kind {
    PMP_CALL = 1,     /* master to worker: a call; tag: number of a function sent before, or 0 */
    PMP_FUNCTION = 2, /* master to worker: a function that calls refer to; tag: its number */
    PMP_END = 3,      /* master to worker: no more calls will come */
    PMP_RESULT = 4,   /* worker to master: the result of a call; tag: its run time, ns */
    PMP_ERROR = 5,    /* worker to master: the exception of a call; tag: its run time, ns */
    PMP_RECALLED =
        6, /* a worker's relay to master: the worker did not start this call, and will not */
};

typedef struct {
    uint32_t kind;
    uint32_t part_count;
    uint64_t id; /* of the call, perhaps with PMP_TRACED and PMP_CACHED; 0: it belongs to no call */
    uint64_t tag; /* depends on the kind, see above */
} pmp_head;

/* Set in the id of a traced call. The answer to such a call has one more part, which does not belong to the
 * result: int64_t values, ns of the clock that pmp_now_ns reads on the worker's host. The values are the time at
 * which the worker received the call, the time at which it had made the answer, the number of packages that the
 * call imported, for each of them the time that took and 32 bytes with its name, and any further times.
 * It is a low one of the free bits, because Python converts integers below 2^60 faster. */
#define PMP_TRACED (UINT64_C(1) << 56)

/* Set in the id of a call whose result will be kept in a cache: a worker that sees the cache directory may write a large
 * result to a file there, and answer with a reference to it (caching/file_format.py). */
#define PMP_CACHED (UINT64_C(1) << 57)

/* Set in the size of a part of which no byte is in the message: it lies in shared memory, once for all ranks that receive
 * the call. Each of them asks for it by the id of the call. See stored_parts.h. */
#define PMP_STORED (UINT64_C(1) << 63)

typedef struct {
    void *data; /* 8-byte aligned in received messages; may be NULL when size_bytes is 0 */
    uint64_t size_bytes;
} pmp_part;

/* ---- the layout in a ring, for sender and receiver ---- */

/* Set in the kind of a head whose parts follow in fragments. */
#define PMP_IN_FRAGMENTS UINT32_C(0x80000000)

/* In the ring, a head is a pmp_head followed by part_count sizes of 8 bytes. */
static_assert(sizeof(pmp_head) == 24, "the layout is shared between processes");
static_assert(offsetof(pmp_head, id) == 8 && offsetof(pmp_head, tag) == 16,
              "the layout is shared between processes");

/* Returns the bytes that a part takes in a record. */
static inline uint64_t pmp_padded(uint64_t size_bytes)
{
    return (size_bytes + 7) & ~UINT64_C(7);
}

/* Returns the bytes of a part that are in the message. */
static inline uint64_t pmp_sent_bytes(const pmp_part *part)
{
    return (part->size_bytes & PMP_STORED) != 0 ? 0 : part->size_bytes;
}

/* Returns the bytes of a head and of the sizes of its parts. */
static inline uint64_t pmp_head_bytes(uint32_t part_count)
{
    return sizeof(pmp_head) + 8 * (uint64_t)part_count;
}

static inline bool pmp_is_kind(uint32_t kind)
{
    return kind >= PMP_CALL && kind <= PMP_RECALLED;
}

#endif
