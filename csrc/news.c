#include "news.h"

#include <assert.h>
#include <stdatomic.h>

static_assert(sizeof(pmp_news) == PMP_NEWS_SLOTS / 8, "the layout is shared between processes");

static uint64_t bit_of(uint32_t slot)
{
    return UINT64_C(1) << (slot % 64);
}

void pmp_news_add(pmp_news *news, uint32_t slot)
{
    /* A slot comes out of shared memory: it must not lead out of the array. */
    _Atomic uint64_t *const word = &news->words[slot % PMP_NEWS_SLOTS / 64];

    /* What was published is visible before this thread loads the bit. Pairs with the fence in pmp_news_clear. */
    atomic_thread_fence(memory_order_seq_cst);
    if ((atomic_load_explicit(word, memory_order_relaxed) & bit_of(slot)) == 0) {
        /* Release: a reader that sees the bit sees what was published. */
        atomic_fetch_or_explicit(word, bit_of(slot), memory_order_release);
        /* The bit is visible before this thread checks for a sleeper. Pairs with the fence in pmp_doorbell_arm. */
        atomic_thread_fence(memory_order_seq_cst);
    }
}

void pmp_news_clear(pmp_news *news, uint32_t slot)
{
    /* Acquire: what was published before the bit was set is visible. */
    atomic_fetch_and_explicit(&news->words[slot / 64], ~bit_of(slot), memory_order_acquire);
    atomic_thread_fence(memory_order_seq_cst);
}

uint32_t pmp_news_next(const pmp_news *news, const uint64_t *watched, uint32_t from,
                       uint32_t slot_count)
{
    uint64_t skipped = bit_of(from) - 1; /* slots before `from` in its word */

    for (uint32_t first = from - from % 64; first < slot_count; first += 64) {
        const uint64_t word = atomic_load_explicit(&news->words[first / 64], memory_order_acquire) &
                              ~watched[first / 64] & ~skipped;
        if (word != 0) {
            const uint32_t slot = first + (uint32_t)__builtin_ctzll(word);
            return slot < slot_count ? slot : slot_count;
        }
        skipped = 0;
    }
    return slot_count;
}
