/* Blocks: memory for the parts of messages, where large ones are used again while warm.
 *
 * Fresh memory costs a page fault every 4 KiB, which takes longer than copying into it. So
 * a large block that is given back is kept for the next message of about its size: at most
 * PMP_BLOCKS_KEPT blocks of PMP_BLOCKS_KEPT_BYTES together. The system may take the pages of kept
 * blocks back whenever it is short of memory. Where the system has huge pages, large blocks ask
 * for them.
 *
 * A process has one pmp_blocks for all of its channels; a mutex guards it. Every block knows
 * where it came from, so that it can be given back by whoever holds it last, in any thread.
 */
#ifndef PMP_BLOCKS_H
#define PMP_BLOCKS_H

#include <stddef.h>

#define PMP_BLOCKS_KEPT       8
#define PMP_BLOCKS_KEPT_BYTES ((size_t)256 << 20)

/* Blocks below this many bytes come from malloc and go back to it. */
#define PMP_BLOCK_LARGE ((size_t)256 << 10)

typedef struct pmp_blocks pmp_blocks;

/* A place that keeps blocks, for the life of the process; NULL when there is no memory. */
pmp_blocks *pmp_blocks_create(void);

/* Memory of size_bytes, aligned to 64 bytes, contents undefined; NULL when there is none.
 * blocks is where to look for a kept one, and where it will be kept; NULL: nowhere. */
void *pmp_block_new(pmp_blocks *blocks, size_t size_bytes);

/* Gives a block back; NULL is allowed. */
void pmp_block_free(void *block);

/* Gives all kept blocks back to the system. */
void pmp_blocks_trim(pmp_blocks *blocks);

#endif
