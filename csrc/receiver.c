#include "receiver.h"

#include <errno.h>
#include <string.h>

#include "copy.h"

/* A part of at least this size is not expected to fit into any cache. */
#define CACHE_BYTES ((uint64_t)16 << 20)

/* The same of the copies that the ranks of a worker, and the master for each of them, make at the same time. Measured on 2 cores
 * with a cache of 32 MB, there and back: 2 x 8 MB take 0.87 ms through the caches, 1.18 ms past them; 4 x 8 MB 2.1 and 2.3 ms;
 * 4 x 12 MB 3.5 ms either way; 8 x 8 MB 4.8 and 4.5 ms. */
#define SHARED_CACHE_BYTES ((uint64_t)48 << 20)

/* No process has a larger address space. */
#define PART_BYTES_MAX ((uint64_t)1 << 48)

/* Reads head and sizes into the receiver, where the sender cannot change them any more. */
static int read_head(pmp_receiver *receiver, const unsigned char *from, uint32_t record_bytes)
{
    pmp_head *const head = &receiver->head;

    if (record_bytes < sizeof *head) {
        return -EBADMSG;
    }
    memcpy(head, from, sizeof *head);
    if (!pmp_is_kind(head->kind & ~PMP_IN_FRAGMENTS) || head->part_count == 0 ||
        head->part_count > PMP_PARTS_MAX || pmp_head_bytes(head->part_count) > record_bytes) {
        return -EBADMSG;
    }
    from += sizeof *head;
    for (uint32_t i = 0; i < head->part_count; i++) {
        receiver->parts[i].data = NULL;
        memcpy(&receiver->parts[i].size_bytes, from + 8 * (size_t)i, 8);
        if ((receiver->parts[i].size_bytes & PMP_STORED) != 0 && !receiver->takes_stored) {
            return -EBADMSG;
        }
    }
    return 0;
}

/* Finds the parts of a whole message in one record, where they stay. The cast drops a const that
 * does not apply to the memory, only to the ring's view of it. */
static int find_parts(pmp_receiver *receiver, const unsigned char *record, uint32_t record_bytes)
{
    uint64_t offset = pmp_head_bytes(receiver->head.part_count);

    for (uint32_t i = 0; i < receiver->head.part_count; i++) {
        pmp_part *const part = &receiver->parts[i];
        const uint64_t left = record_bytes - offset, sent = pmp_sent_bytes(part);
        if (sent > left || pmp_padded(sent) > left) {
            return -EBADMSG;
        }
        part->data = (void *)(uintptr_t)(record + offset);
        offset += pmp_padded(sent);
    }
    if (offset != record_bytes) {
        return -EBADMSG;
    }
    receiver->owned = false;
    receiver->lost = false;
    receiver->complete = true;
    return 0;
}

/* Each part gets its memory when its first bytes arrive, so a false size costs nothing yet. */
static int begin_receiving_fragments(pmp_receiver *receiver, uint32_t record_bytes)
{
    if (pmp_head_bytes(receiver->head.part_count) != record_bytes) {
        return -EBADMSG;
    }
    pmp_ring_release(&receiver->consumer);
    receiver->head.kind &= ~PMP_IN_FRAGMENTS;
    receiver->owned = true;
    receiver->busy = true;
    receiver->lost = false;
    receiver->part = 0;
    receiver->offset = 0;
    return 0;
}

/* On return 0 the receiver either is complete or has begun a message in fragments. */
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
    return (receiver->head.kind & PMP_IN_FRAGMENTS) != 0
               ? begin_receiving_fragments(receiver, record_bytes)
               : find_parts(receiver, record, record_bytes);
}

static void free_parts(pmp_receiver *receiver)
{
    for (uint32_t i = 0; i < receiver->head.part_count; i++) {
        pmp_buffer_free(receiver->parts[i].data);
        receiver->parts[i].data = NULL;
    }
}

/* Allocates the memory of a part before its first fragment is copied. Without memory the message is
 * lost, and what it has is freed: the next message is to find memory. */
static int allocate(pmp_receiver *receiver, pmp_part *part)
{
    if (part->data != NULL || receiver->lost) {
        return 0;
    }
    if (part->size_bytes > PART_BYTES_MAX) {
        return -EBADMSG;
    }
    part->data = pmp_buffer_new(receiver->pool, part->size_bytes);
    if (part->data == NULL) {
        free_parts(receiver);
        receiver->lost = true;
    }
    return 0;
}

/* A part that is smaller than a cache is likely to be there still when it is read. */
static void copy_fragment(void *to, const void *fragment, uint32_t fragment_bytes,
                          uint64_t part_bytes, uint32_t rank_count)
{
    if (part_bytes < CACHE_BYTES && part_bytes * rank_count < SHARED_CACHE_BYTES) {
        memcpy(to, fragment, fragment_bytes);
    } else {
        pmp_copy_nontemporal(to, fragment, fragment_bytes);
    }
}

static int receive_fragment(pmp_receiver *receiver, pmp_part *part)
{
    const void *fragment;
    uint32_t fragment_bytes;
    const int error = pmp_ring_next(&receiver->consumer, &fragment, &fragment_bytes);
    if (error != 0) {
        return error;
    }
    if (fragment_bytes == 0 || fragment_bytes > part->size_bytes - receiver->offset) {
        return -EBADMSG;
    }
    if (allocate(receiver, part) != 0) {
        return -EBADMSG;
    }
    if (!receiver->lost) {
        copy_fragment((unsigned char *)part->data + receiver->offset, fragment, fragment_bytes,
                      part->size_bytes, receiver->rank_count);
    }
    pmp_ring_release(&receiver->consumer);
    receiver->offset += fragment_bytes;
    return 0;
}

static int receive_fragments(pmp_receiver *receiver)
{
    while (receiver->part < receiver->head.part_count) {
        pmp_part *const part = &receiver->parts[receiver->part];
        if (receiver->offset == pmp_sent_bytes(part)) {
            receiver->part++;
            receiver->offset = 0;
            continue;
        }
        const int error = receive_fragment(receiver, part);
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
    return receiver->complete ? 0 : receive_fragments(receiver);
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
