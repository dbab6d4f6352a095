/* News: tells one reader which of many rings have something new, so that it need not look at each of them.
 *
 * Each ring has a slot, and each slot a bit. A bit is set if the reader will look at that ring: because there is something new
 * in it, or because the reader watches the ring all the time.
 *
 *     writer                                   reader, before it stops watching a ring
 *     publish in the ring (release)            clear the bit
 *     full fence                               full fence
 *     the bit is clear? set it; full fence     look at the ring once more
 *     ring the reader's doorbell
 *
 * Of the two first fences one comes first: either the writer sees that its bit is clear, or the reader sees what was published. So
 * as long as the reader watches a ring, news in it cost the writer one load of a word that does not change. The second
 * fence is that of the doorbell (doorbell.h). tests/csrc/doorbell.pml models both together.
 *
 * A bit may also be set without news: the reader looks in vain then.
 */
#ifndef PMP_NEWS_H
#define PMP_NEWS_H

#include <stdint.h>

#include "cache_line.h"

/* Number of slots. A power of two, and a multiple of 64. */
#define PMP_NEWS_SLOTS 65536
#define PMP_NEWS_WORDS (PMP_NEWS_SLOTS / 64)

/* Lives in shared memory; zeroed memory has no news. */
typedef struct {
    _Alignas(PMP_CACHE_LINE) _Atomic uint64_t words[PMP_NEWS_WORDS];
} pmp_news;

/* Sets the bit of a slot, after something was published. Includes a full fence on every path:
 * ring doorbells with pmp_doorbell_ring_after_fence. */
void pmp_news_add(pmp_news *news, uint32_t slot);

/* Clears the bit of a slot. Look at its ring after that. Includes a full fence. Only for the reader. */
void pmp_news_clear(pmp_news *news, uint32_t slot);

/* Returns the first slot from `from` on whose bit is set, except those in `watched`, which has a bit for each slot;
 * slot_count if there is none. Acquire. */
uint32_t pmp_news_next(const pmp_news *news, const uint64_t *watched, uint32_t from,
                       uint32_t slot_count);

#endif
