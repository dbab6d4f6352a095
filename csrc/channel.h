/* The channel: messages of any size over the rings of one link.
 *
 * A message is a head and up to PMP_PARTS_MAX parts (runs of bytes). A small message is one
 * record: head, sizes of the parts, parts, each part 8-byte aligned. A message that does not
 * fit into one record is sent in pieces: one record with head and sizes, then the bytes of its
 * parts in order, cut into records of at most an eighth of the ring, so that the receiver
 * copies one while the sender copies the next. Both go on from where the ring stopped them, so
 * a message may be larger than any memory the two sides share.
 *
 * The link is one segment:   header | worker's doorbell | ring of calls | ring of results
 */
#ifndef PMP_CHANNEL_H
#define PMP_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "blocks.h"
#include "doorbell.h"
#include "ring.h"

/* Most parts of one message, the first included. */
#define PMP_PARTS_MAX 1024

/* What a message is. */
enum pmp_kind {
    PMP_CALL = 1,     /* master to worker: run this; tag: number of a function sent before, or 0 */
    PMP_FUNCTION = 2, /* master to worker: a function that calls refer to; tag: its number */
    PMP_END = 3,      /* master to worker: no more calls will come */
    PMP_RESULT = 4,   /* worker to master: what a call returned; tag: its run time, ns */
    PMP_ERROR = 5,    /* worker to master: what a call raised; tag: its run time, ns */
    PMP_RETURNED =
        6 /* a worker's relay to master: this call was not begun, and will not be there */
};

typedef struct {
    uint32_t kind;
    uint32_t part_count;
    uint64_t id;  /* of the call; 0 where there is none */
    uint64_t tag; /* by kind, see above */
} pmp_head;

typedef struct {
    void *data; /* 8-byte aligned in received messages; may be NULL when size_bytes is 0 */
    uint64_t size_bytes;
} pmp_part;

/* ---- sending ---- */

typedef struct {
    pmp_producer producer;
    bool busy;       /* a message is on its way in pieces */
    uint32_t part;   /* the next piece starts in this part ... */
    uint64_t offset; /* ... at this byte */
    uint32_t wanted; /* payload of the record that last found no room; 0: none */
} pmp_sender;

/* Whether a call, or a function, fits into one record (only such a message can be revoked). */
bool pmp_fits_record(const pmp_sender *sender, uint32_t part_count, const pmp_part *parts);

/* Sends a message, or the next pieces of it.
 *
 * Returns 0 when the last byte is on its way; *position (may be NULL) is then the position of
 * its record when it was a single one, else UINT64_MAX. -EAGAIN: the ring is full; call again
 * with the same arguments when there is room; sender->busy tells whether a piece is out already
 * (if not, another message may be sent first). -EINVAL: more than PMP_PARTS_MAX parts, or none,
 * or an unknown kind. -EMSGSIZE: not even the sizes of the parts fit into one record (cannot
 * happen in a link: see PMP_LINK_CAPACITY_MIN).
 * The caller rings the consumer's doorbell after every call that returned 0 or left busy set. */
int pmp_send(pmp_sender *sender, const pmp_head *head, const pmp_part *parts, uint64_t *position);

/* Whether pmp_send could get on: room for the record that the last pmp_send found no room for,
 * or, if it did not fail, for the smallest message. For waiting. */
bool pmp_sender_has_room(const pmp_sender *sender);

/* ---- receiving ---- */

typedef struct {
    pmp_consumer consumer;
    pmp_head head;
    pmp_part parts[PMP_PARTS_MAX];
    bool complete;      /* head and parts hold a message that was not given back yet */
    pmp_blocks *blocks; /* where memory for pieces comes from; NULL at open, the caller's to set */
    bool owned;         /* parts are blocks (they came in pieces); else they lie in the ring */
    uint32_t part;      /* the next piece goes into this part ... */
    uint64_t offset;    /* ... at this byte */
    bool busy;          /* a message in pieces has begun */
} pmp_receiver;

/* Receives what is there. Returns 0 when head and parts hold a whole message: it is valid until
 * pmp_receive_done. With owned, the caller may keep a part (and pmp_block_free it later) by
 * setting its data to NULL. -EAGAIN: no whole message yet. -ENOMEM: no memory for a part; the
 * message is lost, the channel unusable. -EBADMSG: nonsense in the ring; the channel is unusable.
 * The caller rings the producer's doorbell after every call that may have given space back:
 * after -EAGAIN (pieces, or records that were taken back, may have gone), after 0 with owned,
 * and after pmp_receive_done. */
int pmp_receive(pmp_receiver *receiver);

/* Releases the message: its record, and the parts that were not kept. */
void pmp_receive_done(pmp_receiver *receiver);

/* Frees what a half-received message holds; for closing. */
void pmp_receiver_close(pmp_receiver *receiver);

/* ---- link ---- */

/* Smallest capacity of a link's rings: the sizes of PMP_PARTS_MAX parts fit into one record. */
#define PMP_LINK_CAPACITY_MIN 32768

/* Bytes of a segment for a link whose rings have this capacity (a power of two) each. */
size_t pmp_link_footprint(uint64_t capacity);

/* Lays out a link in a fresh segment. Errors: -EINVAL (capacity, or size too small). */
int pmp_link_init(void *memory, size_t size_bytes, uint64_t capacity);

/* Opens the master's side (sends calls, receives results) or the worker's side of a link.
 * *bell is the worker's doorbell inside the link.
 * Errors: -EINVAL (no link, or one of another version or size). */
int pmp_link_open_master(void *memory, size_t size_bytes, pmp_sender *calls, pmp_receiver *results,
                         pmp_doorbell **bell);
int pmp_link_open_worker(void *memory, size_t size_bytes, pmp_receiver *calls, pmp_sender *results,
                         pmp_doorbell **bell);

#endif
