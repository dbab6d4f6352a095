/* The receiving side of a channel: messages of any size over one ring (see sender.h).
 *
 * The receiver trusts nothing that it reads: a message that contradicts itself is -EBADMSG.
 */
#ifndef PMP_RECEIVER_H
#define PMP_RECEIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "buffer_pool.h"
#include "message.h"
#include "ring.h"

typedef struct {
    pmp_consumer consumer;
    pmp_head head;
    pmp_part parts[PMP_PARTS_MAX];
    bool complete; /* head and parts hold a message that was not given back yet */
    pmp_buffer_pool
        *pool;       /* where memory for fragments comes from; NULL at open, the caller's to set */
    bool owned;      /* parts are pool (they came in fragments); else they lie in the ring */
    uint32_t part;   /* the next fragment goes into this part ... */
    uint64_t offset; /* ... at this byte */
    bool busy;       /* a message in fragments has begun */
    bool lost;       /* there was no memory for the message: the parts have sizes, but no data */
    bool takes_stored; /* parts may lie in shared memory; else they are invalid data */
    uint32_t
        rank_count; /* so many ranks, or the master for them, copy parts of this size at the same time */
} pmp_receiver;

/* Receives the next message, or its next fragments. Returns 0 when head and parts hold a whole
 * message: it is valid until pmp_receive_done. With owned, the caller may keep a part (and
 * pmp_buffer_free it later) by setting its data to NULL. If there is no memory for a message in fragments, its
 * fragments are dropped as they arrive, and lost is set. -EAGAIN: no whole message yet. -EBADMSG:
 * invalid data in the ring; the channel is unusable.
 * The caller rings the producer's doorbell after every call that may have released space:
 * after -EAGAIN (fragments, or revoked records, may have been passed), after 0 with owned,
 * and after pmp_receive_done. */
int pmp_receive(pmp_receiver *receiver);

/* Releases the message: its record, and the parts that were not kept. */
void pmp_receive_done(pmp_receiver *receiver);

/* Frees the parts of a message that is only partly received. For closing. */
void pmp_receiver_close(pmp_receiver *receiver);

#endif
