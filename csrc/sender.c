#include "sender.h"

#include <errno.h>
#include <string.h>

#include "copy.h"
#include "platform.h"

/* Larger fragments are not faster, also in larger rings. */
#define FRAGMENT_BYTES_MAX ((uint64_t)64 << 10)

/* Small enough that the receiver copies fragments while the sender copies the next ones, large enough that
 * sending one costs little beside copying it. */
static uint32_t fragment_limit(const pmp_sender *sender)
{
    const uint64_t eighth = sender->producer.capacity / 8;
    return (uint32_t)(eighth < FRAGMENT_BYTES_MAX ? eighth : FRAGMENT_BYTES_MAX);
}

/* A larger message is sent in fragments. A call is sent as one record where it fits, because only a
 * record can be recalled. A result is fragmented sooner: then both sides copy at the same time, and
 * the master keeps the buffer that it received instead of copying it out of the ring. */
static uint32_t record_limit(const pmp_sender *sender, uint32_t kind)
{
    return kind == PMP_RESULT || kind == PMP_ERROR
               ? fragment_limit(sender)
               : pmp_ring_record_limit(sender->producer.capacity);
}

/* Returns the bytes of a message in one record, or UINT64_MAX when that is more than limit. */
static uint64_t message_bytes(uint32_t part_count, const pmp_part *parts, uint64_t limit)
{
    uint64_t total = pmp_head_bytes(part_count);

    for (uint32_t i = 0; i < part_count; i++) {
        const uint64_t sent = pmp_sent_bytes(&parts[i]);
        if (sent > limit) {
            return UINT64_MAX;
        }
        total += pmp_padded(sent);
    }
    return total <= limit ? total : UINT64_MAX;
}

bool pmp_fits_record(const pmp_sender *sender, uint32_t part_count, const pmp_part *parts)
{
    const uint32_t limit = record_limit(sender, PMP_CALL);
    return part_count <= PMP_PARTS_MAX && message_bytes(part_count, parts, limit) <= limit;
}

static uint64_t total_bytes(uint32_t part_count, const pmp_part *parts)
{
    uint64_t total = 0;

    for (uint32_t i = 0; i < part_count; i++) {
        total += pmp_sent_bytes(&parts[i]);
    }
    return total;
}

/* Of a message that is half as large again as the ring, or larger, the sender notices how fast it is received. */
static void begin_copying(pmp_sender *sender, uint32_t part_count, const pmp_part *parts)
{
    const bool is_measured = total_bytes(part_count, parts) >= sender->producer.capacity * 3 / 2;

    sender->began_ns = is_measured ? pmp_now_ns() : 0;
    sender->is_cached = is_measured ? pmp_copy_way_next(&sender->way) : sender->way.is_cached;
}

static void end_copying(pmp_sender *sender, uint32_t part_count, const pmp_part *parts)
{
    if (sender->began_ns != 0) {
        pmp_copy_way_took(&sender->way, sender->is_cached, total_bytes(part_count, parts),
                          pmp_now_ns() - sender->began_ns);
    }
}

static void copy(bool is_cached, void *to, const void *from, uint64_t size_bytes)
{
    if (is_cached) {
        memcpy(to, from, size_bytes);
    } else {
        pmp_copy_nontemporal(to, from, size_bytes);
    }
}

static int reserve(pmp_sender *sender, uint64_t size_bytes, void **payload)
{
    const int error = pmp_ring_reserve(&sender->producer, (uint32_t)size_bytes, payload);
    sender->wanted = error == -EAGAIN ? (uint32_t)size_bytes : 0;
    return error;
}

/* Writes head and sizes. Returns the address where the parts go. */
static unsigned char *write_head(unsigned char *to, const pmp_head *head, uint32_t flags,
                                 const pmp_part *parts)
{
    pmp_head sent = *head;
    sent.kind |= flags;
    memcpy(to, &sent, sizeof sent);
    to += sizeof sent;
    for (uint32_t i = 0; i < head->part_count; i++) {
        memcpy(to, &parts[i].size_bytes, 8);
        to += 8;
    }
    return to;
}

static int send_record(pmp_sender *sender, const pmp_head *head, const pmp_part *parts,
                       uint64_t total, uint64_t *position)
{
    void *payload;
    const int error = reserve(sender, total, &payload);
    if (error != 0) {
        return error;
    }
    unsigned char *to = write_head(payload, head, 0, parts);
    for (uint32_t i = 0; i < head->part_count; i++) {
        const uint64_t sent = pmp_sent_bytes(&parts[i]);
        if (sent != 0) {
            copy(sender->way.is_cached, to, parts[i].data, sent);
        }
        to += pmp_padded(sent);
    }
    *position = pmp_ring_commit(&sender->producer);
    return 0;
}

static int begin_fragments(pmp_sender *sender, const pmp_head *head, const pmp_part *parts)
{
    void *payload;
    const uint64_t size_bytes = pmp_head_bytes(head->part_count);
    const int error = reserve(sender, size_bytes, &payload);
    if (error != 0) {
        return error;
    }
    write_head(payload, head, PMP_IN_FRAGMENTS, parts);
    pmp_ring_commit(&sender->producer);
    begin_copying(sender, head->part_count, parts);
    sender->busy = true;
    sender->part = 0;
    sender->offset = 0;
    return 0;
}

static int send_fragment(pmp_sender *sender, const pmp_part *part)
{
    void *payload;
    const uint64_t left = part->size_bytes - sender->offset;
    const uint64_t size_bytes = left < fragment_limit(sender) ? left : fragment_limit(sender);
    const int error = reserve(sender, size_bytes, &payload);
    if (error != 0) {
        return error;
    }
    copy(sender->is_cached, payload, (const unsigned char *)part->data + sender->offset,
         size_bytes);
    pmp_ring_commit(&sender->producer);
    sender->offset += size_bytes;
    return 0;
}

static int send_fragments(pmp_sender *sender, uint32_t part_count, const pmp_part *parts)
{
    while (sender->part < part_count) {
        if (sender->offset == pmp_sent_bytes(&parts[sender->part])) {
            sender->part++;
            sender->offset = 0;
            continue;
        }
        const int error = send_fragment(sender, &parts[sender->part]);
        if (error != 0) {
            return error;
        }
    }
    end_copying(sender, part_count, parts);
    sender->busy = false;
    return 0;
}

int pmp_send(pmp_sender *sender, const pmp_head *head, const pmp_part *parts, uint64_t *position)
{
    const uint32_t limit = record_limit(sender, head->kind);
    uint64_t unwanted;

    position = position != NULL ? position : &unwanted;
    *position = UINT64_MAX;
    if (head->part_count == 0 || head->part_count > PMP_PARTS_MAX || !pmp_is_kind(head->kind)) {
        return -EINVAL;
    }
    if (!sender->busy) {
        const uint64_t total = message_bytes(head->part_count, parts, limit);
        if (total <= limit) {
            return send_record(sender, head, parts, total, position);
        }
        const int error = begin_fragments(sender, head, parts);
        if (error != 0) {
            return error;
        }
    }
    return send_fragments(sender, head->part_count, parts);
}

bool pmp_sender_has_room(const pmp_sender *sender)
{
    const uint32_t smallest = (uint32_t)pmp_head_bytes(1);
    return pmp_ring_has_room(&sender->producer, sender->wanted != 0 ? sender->wanted : smallest);
}
