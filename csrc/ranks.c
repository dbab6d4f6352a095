#include "ranks.h"

#include <assert.h>
#include <stdatomic.h>

/* A word: the number of calls modulo 2^16, then the outcome. Two ranks differ by one call at most. */
#define OUTCOME_BITS 48
#define OUTCOME_MASK ((UINT64_C(1) << OUTCOME_BITS) - 1)

static_assert(sizeof(pmp_rank_word) == PMP_CACHE_LINE, "the layout is shared between processes");

/* Returns how many calls a word is ahead of this rank. */
static int16_t calls_ahead(const pmp_ranks *ranks, uint64_t word)
{
    return (int16_t)(uint16_t)((word >> OUTCOME_BITS) - (ranks->own >> OUTCOME_BITS));
}

static uint64_t load_word(const pmp_ranks *ranks, uint32_t rank)
{
    return atomic_load_explicit(&ranks->words[rank].ended, memory_order_acquire);
}

/* Returns true if a call has ended on this rank, but not on that one yet. */
static bool is_behind(const pmp_ranks *ranks, uint32_t rank)
{
    return rank != ranks->rank && calls_ahead(ranks, load_word(ranks, rank)) < 0;
}

bool pmp_ranks_end(pmp_ranks *ranks, uint64_t outcome)
{
    const uint64_t count = (ranks->own >> OUTCOME_BITS) + 1;

    ranks->own = count << OUTCOME_BITS | (outcome & OUTCOME_MASK);
    atomic_store_explicit(&ranks->words[ranks->rank].ended, ranks->own, memory_order_release);
    /* Of two ranks that store at the same time, at least one sees the other's word. */
    atomic_thread_fence(memory_order_seq_cst);
    return pmp_ranks_have_ended(ranks);
}

bool pmp_ranks_have_ended(const pmp_ranks *ranks)
{
    for (uint32_t rank = 0; rank < ranks->count; rank++) {
        if (is_behind(ranks, rank)) {
            return false;
        }
    }
    return true;
}

bool pmp_ranks_need_core(const pmp_ranks *ranks, const pmp_doorbell *bells, uint32_t core)
{
    for (uint32_t rank = 0; rank < ranks->count; rank++) {
        if (pmp_doorbell_core(&bells[rank]) == core && is_behind(ranks, rank)) {
            return true;
        }
    }
    return false;
}

bool pmp_ranks_use_core(const pmp_ranks *ranks, const pmp_doorbell *bells, uint32_t core)
{
    for (uint32_t rank = 0; rank < ranks->count; rank++) {
        if (rank != ranks->rank && pmp_doorbell_core(&bells[rank]) == core) {
            return true;
        }
    }
    return false;
}

uint32_t pmp_ranks_other_core(const pmp_ranks *ranks, const pmp_doorbell *bells, uint32_t core)
{
    for (uint32_t i = 1; i < ranks->count; i++) {
        const uint32_t other = pmp_doorbell_core(&bells[(ranks->rank + i) % ranks->count]);
        if (other != 0 && other != core) {
            return other;
        }
    }
    return 0;
}

bool pmp_ranks_agree(const pmp_ranks *ranks)
{
    for (uint32_t rank = 0; rank < ranks->count; rank++) {
        const uint64_t word = rank != ranks->rank ? load_word(ranks, rank) : ranks->own;
        if (word != ranks->own && calls_ahead(ranks, word) == 0) {
            return false;
        }
    }
    return true;
}
