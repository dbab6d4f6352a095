/* Which way a sender copies what it writes into its ring: through the caches, or past them (copy.h).
 *
 * Past the caches takes twice as long where the two cores share a cache, and a tenth of the time where they do not. Which cores
 * these are changes, and a virtual machine may tell wrong what they share. So a sender measures: now and then it sends a message
 * the other way, and it stays with the way of which the fastest messages were faster. As long as that does not change, it tries more
 * and more rarely.
 */
#ifndef PMP_COPY_WAY_H
#define PMP_COPY_WAY_H

#include <stdbool.h>
#include <stdint.h>

/* Process-local. Zeroed, it begins past the caches. */
typedef struct {
    bool is_cached;    /* the way of most messages: through the caches */
    uint32_t left;     /* number of messages until the other way is tried */
    uint32_t interval; /* number of messages between the last two trials, or 0 */
    uint64_t best[2];  /* of both ways, the least time of a message, ps per byte; 0: none yet */
} pmp_copy_way;

/* Returns true if the next message that is measured goes through the caches. */
bool pmp_copy_way_next(pmp_copy_way *way);

/* Notes how long a message has taken that went this way, receiving included. */
void pmp_copy_way_took(pmp_copy_way *way, bool is_cached, uint64_t size_bytes, int64_t took_ns);

#endif
