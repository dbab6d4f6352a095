/* The sending side of a channel: messages of any size over one ring.
 *
 * A small message is one record. A message that does not fit into one record is sent in fragments: one
 * record with head and sizes, then the bytes of its parts in order, cut into records of at most 64 kB and an
 * eighth of the ring, so that the receiver copies one while the sender copies the next. When the
 * ring is full or empty, both sides stop and continue later from there, so a message may be larger
 * than the memory that they share.
 */
#ifndef PMP_SENDER_H
#define PMP_SENDER_H

#include <stdbool.h>
#include <stdint.h>

#include "copy_way.h"
#include "message.h"
#include "ring.h"

typedef struct {
    pmp_producer producer;
    bool busy;       /* some fragments of a message are sent, and some are not */
    uint32_t part;   /* the next fragment starts in this part ... */
    uint64_t offset; /* ... at this byte */
    uint32_t wanted; /* payload of the record for which there was no room last time; 0: none */
    pmp_copy_way way;
    bool is_cached;   /* this message goes through the caches */
    int64_t began_ns; /* when it began; 0: it is too small to be measured */
} pmp_sender;

/* Returns true if a call, or a function, fits into one record (only such a message can be revoked). */
bool pmp_fits_record(const pmp_sender *sender, uint32_t part_count, const pmp_part *parts);

/* Sends a message, or the next fragments of it.
 *
 * Returns 0 when the last byte is in the ring. *position (may be NULL) is then the position of
 * the record if the message is a single record, otherwise UINT64_MAX. -EAGAIN: the ring is full;
 * call again with the same arguments when there is room. sender->busy is then true if a fragment was
 * sent already (if not, another message may be sent first). -EINVAL: more than PMP_PARTS_MAX
 * parts, or none, or an unknown kind. -EMSGSIZE: not even the sizes of the parts fit into one
 * record (cannot happen in a link: see PMP_LINK_CAPACITY_MIN).
 * The caller rings the consumer's doorbell after every call that returned 0 or left busy set. */
int pmp_send(pmp_sender *sender, const pmp_head *head, const pmp_part *parts, uint64_t *position);

/* Returns true if pmp_send could continue: there is room for the record for which the last pmp_send
 * found none or, if that did not fail, for the smallest message. For waiting. */
bool pmp_sender_has_room(const pmp_sender *sender);

#endif
