/* Large parts of a call for several ranks: each lies in shared memory, once for all of them.
 *
 *     parts of the call ── pmp_store_next ─► segments ── descriptors, when ranks ask ─► mapped by each rank, copy-on-write
 *                                       └─► parts with PMP_STORED in their sizes ── pmp_send ─► ring
 *
 * A segment belongs to one call. When the call has ended it is kept for the next one, since the first writing of a page takes
 * several times as long as the second. It is written again only when it is mapped nowhere any more, by no rank and no process
 * that a rank has forked: the kernel knows that (pmp_shm_is_unused). Otherwise it is left to them, and the kernel frees it with
 * the last mapping.
 *
 * To map and unmap a page costs about what it costs to copy it into memory of large pages. What this saves is memory: so it is
 * for parts whose copies together would be large.
 */
#ifndef PMP_STORED_PARTS_H
#define PMP_STORED_PARTS_H

#include <stdint.h>

#include "message.h"
#include "shm.h"

/* Most parts of a call that are stored, the first ones: each takes a descriptor. */
#define PMP_STORED_PARTS_MAX 8

/* Most segments, and bytes of them, that are kept. */
#define PMP_STORE_KEPT_MAX       8
#define PMP_STORE_KEPT_BYTES_MAX ((uint64_t)512 << 20)

typedef struct {
    pmp_shm shm;
    uint64_t written_bytes; /* how much of it has pages */
} pmp_stored_segment;

/* The segments that are kept. Zeroed at the beginning; the caller guards it. */
typedef struct {
    pmp_stored_segment kept[PMP_STORE_KEPT_MAX]; /* the one kept longest first */
    uint32_t count;
    uint64_t bytes;
} pmp_store;

typedef struct {
    pmp_part *parts; /* as they are sent */
    uint32_t stored_count;
    uint32_t next;                          /* the next bytes go into this segment ... */
    uint64_t offset;                        /* ... at this offset */
    uint32_t numbers[PMP_STORED_PARTS_MAX]; /* which of the parts each segment is */
    pmp_stored_segment segments[PMP_STORED_PARTS_MAX];
} pmp_stored_parts;

/* Begins to store the parts of at least so many bytes that a call has. Returns NULL if it has none, or if there is no memory.
 *
 * The data of the parts must stay until pmp_store_next returns 0. The caller owns the result. */
pmp_stored_parts *pmp_store_begin(const pmp_part *parts, uint32_t part_count, uint64_t least_bytes);

/* Stores the next megabytes. Returns 0 when all is stored; -EAGAIN: call it again. Other errors (there is no memory, or no
 * descriptor is free) are final: the call must be sent without. */
int pmp_store_next(pmp_store *store, pmp_stored_parts *stored);

/* Keeps its segments, and frees it; NULL is allowed. Only when all ranks have answered the call, so that none will ask for
 * them. */
void pmp_store_keep(pmp_store *store, pmp_stored_parts *stored);

/* Frees it, and closes its segments; NULL is allowed. */
void pmp_store_free(pmp_stored_parts *stored);

/* Closes all segments that are kept. */
void pmp_store_clear(pmp_store *store);

#endif
