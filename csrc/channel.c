#define _GNU_SOURCE

#include "channel.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "copy.h"

#define LINK_MAGIC   UINT64_C(0x6b6e696c30706d70) /* "pmp0link" */
#define LINK_VERSION 1

/* Set in the kind of a head whose parts follow in pieces. */
#define IN_PIECES UINT32_C(0x80000000)

/* A head as it travels is pmp_head, followed by part_count sizes of 8 bytes. */
static_assert(sizeof(pmp_head) == 24, "the layout is shared between processes");
static_assert(offsetof(pmp_head, id) == 8 && offsetof(pmp_head, tag) == 16,
              "the layout is shared between processes");
static_assert(sizeof(pmp_head) + 8 * PMP_PARTS_MAX <= PMP_LINK_CAPACITY_MIN / 2 - 8,
              "the largest head must fit into a record of the smallest link");

static uint64_t padded(uint64_t size_bytes)
{
    return (size_bytes + 7) & ~UINT64_C(7);
}

static uint64_t head_bytes(uint32_t part_count)
{
    return sizeof(pmp_head) + 8 * (uint64_t)part_count;
}

static bool is_kind(uint32_t kind)
{
    return kind >= PMP_CALL && kind <= PMP_RETURNED;
}

/* ---- sending ---- */

/* Small enough that the receiver copies pieces while we copy the next ones, large enough that
 * sending one costs little beside copying it. */
static uint32_t piece_limit(const pmp_sender *sender)
{
    return (uint32_t)(sender->producer.capacity / 8);
}

/* What is larger goes in pieces. A call goes in one record where it fits, because only a record can
 * be taken back. A result goes in pieces sooner: both sides copy at the same time then, and the
 * master keeps what it received instead of copying it out of the ring. */
static uint32_t record_limit(const pmp_sender *sender, uint32_t kind)
{
    return kind == PMP_RESULT || kind == PMP_ERROR
               ? piece_limit(sender)
               : pmp_ring_record_limit(sender->producer.capacity);
}

/* Bytes of a message in one record, or UINT64_MAX when that is more than limit. */
static uint64_t message_bytes(uint32_t part_count, const pmp_part *parts, uint64_t limit)
{
    uint64_t total = head_bytes(part_count);

    for (uint32_t i = 0; i < part_count; i++) {
        if (parts[i].size_bytes > limit) {
            return UINT64_MAX;
        }
        total += padded(parts[i].size_bytes);
    }
    return total <= limit ? total : UINT64_MAX;
}

bool pmp_fits_record(const pmp_sender *sender, uint32_t part_count, const pmp_part *parts)
{
    const uint32_t limit = record_limit(sender, PMP_CALL);
    return part_count <= PMP_PARTS_MAX && message_bytes(part_count, parts, limit) <= limit;
}

static int reserve(pmp_sender *sender, uint64_t size_bytes, void **payload)
{
    const int error = pmp_ring_reserve(&sender->producer, (uint32_t)size_bytes, payload);
    sender->wanted = error == -EAGAIN ? (uint32_t)size_bytes : 0;
    return error;
}

/* Returns where the parts go. */
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
        if (parts[i].size_bytes != 0) {
            pmp_copy_across(to, parts[i].data, parts[i].size_bytes);
        }
        to += padded(parts[i].size_bytes);
    }
    *position = pmp_ring_commit(&sender->producer);
    return 0;
}

static int begin_pieces(pmp_sender *sender, const pmp_head *head, const pmp_part *parts)
{
    void *payload;
    const uint64_t size_bytes = head_bytes(head->part_count);
    const int error = reserve(sender, size_bytes, &payload);
    if (error != 0) {
        return error;
    }
    write_head(payload, head, IN_PIECES, parts);
    pmp_ring_commit(&sender->producer);
    sender->busy = true;
    sender->part = 0;
    sender->offset = 0;
    return 0;
}

static int send_piece(pmp_sender *sender, const pmp_part *part)
{
    void *payload;
    const uint64_t left = part->size_bytes - sender->offset;
    const uint64_t size_bytes = left < piece_limit(sender) ? left : piece_limit(sender);
    const int error = reserve(sender, size_bytes, &payload);
    if (error != 0) {
        return error;
    }
    pmp_copy_across(payload, (const unsigned char *)part->data + sender->offset, size_bytes);
    pmp_ring_commit(&sender->producer);
    sender->offset += size_bytes;
    return 0;
}

static int send_pieces(pmp_sender *sender, uint32_t part_count, const pmp_part *parts)
{
    while (sender->part < part_count) {
        if (sender->offset == parts[sender->part].size_bytes) {
            sender->part++;
            sender->offset = 0;
            continue;
        }
        const int error = send_piece(sender, &parts[sender->part]);
        if (error != 0) {
            return error;
        }
    }
    sender->busy = false;
    return 0;
}

int pmp_send(pmp_sender *sender, const pmp_head *head, const pmp_part *parts, uint64_t *position)
{
    const uint32_t limit = record_limit(sender, head->kind);
    uint64_t unwanted;

    position = position != NULL ? position : &unwanted;
    *position = UINT64_MAX;
    if (head->part_count == 0 || head->part_count > PMP_PARTS_MAX || !is_kind(head->kind)) {
        return -EINVAL;
    }
    if (!sender->busy) {
        const uint64_t total = message_bytes(head->part_count, parts, limit);
        if (total <= limit) {
            return send_record(sender, head, parts, total, position);
        }
        const int error = begin_pieces(sender, head, parts);
        if (error != 0) {
            return error;
        }
    }
    return send_pieces(sender, head->part_count, parts);
}

bool pmp_sender_has_room(const pmp_sender *sender)
{
    const uint32_t smallest = (uint32_t)head_bytes(1);
    return pmp_ring_has_room(&sender->producer, sender->wanted != 0 ? sender->wanted : smallest);
}

/* ---- receiving ---- */

/* Reads head and sizes into the receiver, where nobody else can change them any more. */
static int read_head(pmp_receiver *receiver, const unsigned char *from, uint32_t record_bytes)
{
    pmp_head *const head = &receiver->head;

    if (record_bytes < sizeof *head) {
        return -EBADMSG;
    }
    memcpy(head, from, sizeof *head);
    if (!is_kind(head->kind & ~IN_PIECES) || head->part_count == 0 ||
        head->part_count > PMP_PARTS_MAX || head_bytes(head->part_count) > record_bytes) {
        return -EBADMSG;
    }
    from += sizeof *head;
    for (uint32_t i = 0; i < head->part_count; i++) {
        receiver->parts[i].data = NULL;
        memcpy(&receiver->parts[i].size_bytes, from + 8 * (size_t)i, 8);
    }
    return 0;
}

/* A whole message in one record: its parts stay where they are. The cast drops a const that is
 * not true of the memory, only of the ring's view of it. */
static int find_parts(pmp_receiver *receiver, const unsigned char *record, uint32_t record_bytes)
{
    uint64_t offset = head_bytes(receiver->head.part_count);

    for (uint32_t i = 0; i < receiver->head.part_count; i++) {
        pmp_part *const part = &receiver->parts[i];
        const uint64_t left = record_bytes - offset;
        if (part->size_bytes > left || padded(part->size_bytes) > left) {
            return -EBADMSG;
        }
        part->data = (void *)(uintptr_t)(record + offset);
        offset += padded(part->size_bytes);
    }
    if (offset != record_bytes) {
        return -EBADMSG;
    }
    receiver->owned = false;
    receiver->complete = true;
    return 0;
}

/* The parts get their memory as their first bytes come: a false size costs nothing yet. */
static int begin_receiving_pieces(pmp_receiver *receiver, uint32_t record_bytes)
{
    if (head_bytes(receiver->head.part_count) != record_bytes) {
        return -EBADMSG;
    }
    pmp_ring_release(&receiver->consumer);
    receiver->head.kind &= ~IN_PIECES;
    receiver->owned = true;
    receiver->busy = true;
    receiver->part = 0;
    receiver->offset = 0;
    return 0;
}

/* On return 0 the receiver either is complete or has begun a message in pieces. */
static int begin_message(pmp_receiver *receiver)
{
    const void *record;
    uint32_t record_bytes;
    int error = pmp_ring_next(&receiver->consumer, &record, &record_bytes);
    if (error == 0) {
        error = read_head(receiver, record, record_bytes);
    }
    if (error != 0) {
        return error;
    }
    return (receiver->head.kind & IN_PIECES) != 0 ? begin_receiving_pieces(receiver, record_bytes)
                                                  : find_parts(receiver, record, record_bytes);
}

static int allocate(const pmp_receiver *receiver, pmp_part *part)
{
    if (part->data != NULL) {
        return 0;
    }
    if (part->size_bytes > PTRDIFF_MAX) {
        return -ENOMEM;
    }
    part->data = pmp_block_new(receiver->blocks, part->size_bytes);
    return part->data != NULL ? 0 : -ENOMEM;
}

static int receive_piece(pmp_receiver *receiver, pmp_part *part)
{
    const void *piece;
    uint32_t piece_bytes;
    const int error = pmp_ring_next(&receiver->consumer, &piece, &piece_bytes);
    if (error != 0) {
        return error;
    }
    if (piece_bytes == 0 || piece_bytes > part->size_bytes - receiver->offset) {
        return -EBADMSG;
    }
    if (allocate(receiver, part) != 0) {
        return -ENOMEM;
    }
    memcpy((unsigned char *)part->data + receiver->offset, piece, piece_bytes);
    pmp_ring_release(&receiver->consumer);
    receiver->offset += piece_bytes;
    return 0;
}

static int receive_pieces(pmp_receiver *receiver)
{
    while (receiver->part < receiver->head.part_count) {
        pmp_part *const part = &receiver->parts[receiver->part];
        if (receiver->offset == part->size_bytes) {
            receiver->part++;
            receiver->offset = 0;
            continue;
        }
        const int error = receive_piece(receiver, part);
        if (error != 0) {
            return error;
        }
    }
    receiver->busy = false;
    receiver->complete = true;
    return 0;
}

int pmp_receive(pmp_receiver *receiver)
{
    if (!receiver->complete && !receiver->busy) {
        const int error = begin_message(receiver);
        if (error != 0) {
            return error;
        }
    }
    return receiver->complete ? 0 : receive_pieces(receiver);
}

static void free_parts(pmp_receiver *receiver)
{
    for (uint32_t i = 0; i < receiver->head.part_count; i++) {
        pmp_block_free(receiver->parts[i].data);
        receiver->parts[i].data = NULL;
    }
}

void pmp_receive_done(pmp_receiver *receiver)
{
    if (!receiver->complete) {
        return;
    }
    if (receiver->owned) {
        free_parts(receiver);
    } else {
        pmp_ring_release(&receiver->consumer);
    }
    receiver->owned = false;
    receiver->complete = false;
}

void pmp_receiver_close(pmp_receiver *receiver)
{
    if (receiver->owned) {
        free_parts(receiver);
    }
    receiver->owned = false;
    receiver->busy = false;
    receiver->complete = false;
}

/* ---- link ---- */

typedef struct {
    uint64_t magic;
    uint32_t version;
    uint32_t unused;
    uint64_t capacity;
    _Alignas(64) pmp_doorbell bell;
    _Alignas(64) unsigned char rings[];
} shared_link;

static_assert(offsetof(shared_link, capacity) == 16, "the layout is shared between processes");
static_assert(offsetof(shared_link, bell) == 64, "the layout is shared between processes");
static_assert(offsetof(shared_link, rings) == 128, "the layout is shared between processes");

size_t pmp_link_footprint(uint64_t capacity)
{
    return sizeof(shared_link) + 2 * pmp_ring_footprint(capacity);
}

static void *ring_of_calls(shared_link *link)
{
    return link->rings;
}

static void *ring_of_results(shared_link *link, uint64_t capacity)
{
    return link->rings + pmp_ring_footprint(capacity);
}

/* Before the footprint is computed: no capacity that gets through makes it overflow. */
static bool is_link_capacity(uint64_t capacity)
{
    return capacity >= PMP_LINK_CAPACITY_MIN && capacity <= UINT64_C(1) << 31;
}

int pmp_link_init(void *memory, size_t size_bytes, uint64_t capacity)
{
    shared_link *const link = memory;

    if (!is_link_capacity(capacity) || size_bytes < pmp_link_footprint(capacity)) {
        return -EINVAL;
    }
    int error = pmp_ring_init(ring_of_calls(link), capacity);
    if (error == 0) {
        error = pmp_ring_init(ring_of_results(link, capacity), capacity);
    }
    if (error != 0) {
        return error;
    }
    link->magic = LINK_MAGIC;
    link->version = LINK_VERSION;
    link->capacity = capacity;
    return 0;
}

static int check_link(const shared_link *link, size_t size_bytes, uint64_t *capacity)
{
    if (size_bytes < sizeof *link || link->magic != LINK_MAGIC || link->version != LINK_VERSION) {
        return -EINVAL;
    }
    *capacity = *(const volatile uint64_t *)&link->capacity;
    return is_link_capacity(*capacity) && size_bytes >= pmp_link_footprint(*capacity) ? 0 : -EINVAL;
}

static int open_link(shared_link *link, size_t size_bytes, bool is_master, pmp_sender *sender,
                     pmp_receiver *receiver, pmp_doorbell **bell)
{
    uint64_t capacity;
    int error = check_link(link, size_bytes, &capacity);
    if (error != 0) {
        return error;
    }
    void *const calls = ring_of_calls(link);
    void *const results = ring_of_results(link, capacity);
    const size_t available = pmp_ring_footprint(capacity);

    *sender = (pmp_sender){.busy = false};
    memset(receiver, 0, sizeof *receiver);
    error = pmp_producer_open(&sender->producer, is_master ? calls : results, available);
    if (error == 0) {
        error = pmp_consumer_open(&receiver->consumer, is_master ? results : calls, available);
    }
    if (error != 0) {
        return error;
    }
    *bell = &link->bell;
    return 0;
}

int pmp_link_open_master(void *memory, size_t size_bytes, pmp_sender *calls, pmp_receiver *results,
                         pmp_doorbell **bell)
{
    return open_link(memory, size_bytes, true, calls, results, bell);
}

int pmp_link_open_worker(void *memory, size_t size_bytes, pmp_receiver *calls, pmp_sender *results,
                         pmp_doorbell **bell)
{
    return open_link(memory, size_bytes, false, results, calls, bell);
}
