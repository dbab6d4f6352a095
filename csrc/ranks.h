/* The ranks of one worker: each of them runs every call, and none begins a call before all have ended the one before.
 *
 * Each rank has a word on a cache line of its own in the segment that they share: how many calls have ended there,
 * and how the last of them ended (its outcome). Only that rank writes it. A rank that has sent its answer stores its word
 * (release), and does not begin another call before each other word counts at least as many calls. So a rank is at
 * most one call ahead of any other, and whoever sees a word also sees the answer before it.
 *
 * If a call has different outcomes on its ranks, all of them see that, and none begins another call: a rank that is
 * ahead has seen that the outcomes were equal.
 */
#ifndef PMP_RANKS_H
#define PMP_RANKS_H

#include <stdbool.h>
#include <stdint.h>

#include "cache_line.h"
#include "doorbell.h"

/* Lies in shared memory, zeroed. */
typedef struct {
    _Alignas(PMP_CACHE_LINE) _Atomic uint64_t ended;
} pmp_rank_word;

/* A rank's own view of all ranks. Process-local; not to be shared. */
typedef struct {
    pmp_rank_word *words; /* one for each rank */
    uint32_t count;       /* of ranks */
    uint32_t rank;        /* this one */
    uint64_t own;         /* what this rank has stored last */
} pmp_ranks;

/* Announces that a call has ended on this rank (release, then full fence). Of the outcome, 48 bits are compared.
 * Returns true if it has ended on all ranks now. Of the ranks that end it at the same time, at least one gets true. */
bool pmp_ranks_end(pmp_ranks *ranks, uint64_t outcome);

/* Returns true if all calls that have ended on this rank have ended on the other ranks too (acquire). */
bool pmp_ranks_have_ended(const pmp_ranks *ranks);

/* Returns true if a rank that has not ended the last call of this one may need this core: it began to wait there last. bells has the
 * doorbell of each rank. */
bool pmp_ranks_need_core(const pmp_ranks *ranks, const pmp_doorbell *bells, uint32_t core);

/* Returns true if another rank began to wait on this core last. */
bool pmp_ranks_use_core(const pmp_ranks *ranks, const pmp_doorbell *bells, uint32_t core);

/* Returns a core, not this one, on which another rank began to wait last: that of the next rank, if possible; 0 if none is known. */
uint32_t pmp_ranks_other_core(const pmp_ranks *ranks, const pmp_doorbell *bells, uint32_t core);

/* Returns true if the last call had the same outcome on all ranks. Only after pmp_ranks_have_ended has returned true. */
bool pmp_ranks_agree(const pmp_ranks *ranks);

#endif
