#include "stored_parts.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "copy.h"

/* What is stored at a time: the caller holds a lock that others wait for. It takes a millisecond. */
#define SLICE_BYTES ((uint64_t)2 << 20)

pmp_stored_parts *pmp_store_begin(const pmp_part *parts, uint32_t part_count, uint64_t least_bytes)
{
    pmp_stored_parts *stored = NULL;

    for (uint32_t i = 1; i < part_count; i++) { /* the first part is the pickle */
        if (parts[i].size_bytes < least_bytes) {
            continue;
        }
        if (stored == NULL) {
            stored = calloc(1, sizeof *stored + part_count * sizeof(pmp_part));
            if (stored == NULL) {
                return NULL;
            }
            stored->parts = (pmp_part *)(void *)(stored + 1);
            memcpy(stored->parts, parts, part_count * sizeof(pmp_part));
        }
        if (stored->stored_count == PMP_STORED_PARTS_MAX) {
            break;
        }
        stored->parts[i].size_bytes |= PMP_STORED;
        stored->segments[stored->stored_count].shm.descriptor = -1;
        stored->numbers[stored->stored_count++] = i;
    }
    return stored;
}

static pmp_stored_segment take_kept(pmp_store *store, uint32_t i)
{
    const pmp_stored_segment taken = store->kept[i];

    store->count--;
    store->bytes -= taken.shm.size_bytes;
    memmove(&store->kept[i], &store->kept[i + 1], (store->count - i) * sizeof taken);
    return taken;
}

/* Of about the size that is wanted, so that small parts do not keep large segments from being used by large ones. */
static bool is_fit(const pmp_stored_segment *kept, uint64_t size_bytes)
{
    return size_bytes <= kept->written_bytes && size_bytes >= kept->shm.size_bytes / 2 &&
           pmp_shm_is_unused(&kept->shm);
}

static int open_segment(pmp_store *store, pmp_stored_segment *segment, uint64_t size_bytes)
{
    for (uint32_t i = 0; i < store->count; i++) {
        if (is_fit(&store->kept[i], size_bytes)) {
            *segment = take_kept(store, i);
            return pmp_shm_map(&segment->shm);
        }
    }
    segment->written_bytes = 0;
    return pmp_shm_create_unmapped(&segment->shm, size_bytes);
}

/* New pages are written by a system call: it needs no zeroes in them before, and does not raise SIGBUS if there is no memory. */
static int write_slice(pmp_stored_segment *segment, const void *from, uint64_t count,
                       uint64_t offset)
{
    if (offset + count <= segment->written_bytes) {
        pmp_copy_nontemporal((char *)segment->shm.address + offset, from, count);
        return 0;
    }
    const int error = pmp_shm_overwrite(&segment->shm, from, count, offset);
    if (error == 0) {
        segment->written_bytes = offset + count;
    }
    return error;
}

static int store_slice(pmp_store *store, pmp_stored_parts *stored)
{
    const pmp_part *const part = &stored->parts[stored->numbers[stored->next]];
    pmp_stored_segment *const segment = &stored->segments[stored->next];
    const uint64_t size_bytes = part->size_bytes & ~PMP_STORED;
    const uint64_t left = size_bytes - stored->offset;
    const uint64_t slice = left < SLICE_BYTES ? left : SLICE_BYTES;

    int error = segment->shm.descriptor < 0 ? open_segment(store, segment, size_bytes) : 0;
    if (error == 0) {
        error =
            write_slice(segment, (const char *)part->data + stored->offset, slice, stored->offset);
    }
    if (error != 0) {
        return error;
    }
    stored->offset += slice;
    if (stored->offset == size_bytes) {
        stored->next++;
        stored->offset = 0;
    }
    return 0;
}

int pmp_store_next(pmp_store *store, pmp_stored_parts *stored)
{
    if (stored->next < stored->stored_count) {
        const int error = store_slice(store, stored);
        if (error != 0) {
            return error;
        }
    }
    return stored->next < stored->stored_count ? -EAGAIN : 0;
}

static void keep(pmp_store *store, const pmp_stored_segment *segment)
{
    while (store->count > 0 &&
           (store->count == PMP_STORE_KEPT_MAX ||
            store->bytes + segment->shm.size_bytes > PMP_STORE_KEPT_BYTES_MAX)) {
        pmp_stored_segment displaced = take_kept(store, 0);
        pmp_shm_close(&displaced.shm);
    }
    store->kept[store->count++] = *segment;
    store->bytes += segment->shm.size_bytes;
}

void pmp_store_keep(pmp_store *store, pmp_stored_parts *stored)
{
    for (uint32_t i = 0; stored != NULL && i < stored->next; i++) {
        pmp_stored_segment *const segment = &stored->segments[i];
        if (segment->shm.size_bytes <= PMP_STORE_KEPT_BYTES_MAX) {
            keep(store, segment);
            segment->shm = (pmp_shm){.descriptor = -1};
        }
    }
    pmp_store_free(stored);
}

void pmp_store_clear(pmp_store *store)
{
    while (store->count > 0) {
        pmp_stored_segment segment = take_kept(store, store->count - 1);
        pmp_shm_close(&segment.shm);
    }
}

void pmp_store_free(pmp_stored_parts *stored)
{
    if (stored == NULL) {
        return;
    }
    for (uint32_t i = 0; i < stored->stored_count; i++) {
        pmp_shm_close(&stored->segments[i].shm);
    }
    free(stored);
}
