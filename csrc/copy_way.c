#include "copy_way.h"

#define FIRST_INTERVAL 4
#define LAST_INTERVAL  256

bool pmp_copy_way_next(pmp_copy_way *way)
{
    if (way->interval == 0) {
        way->interval = way->left = FIRST_INTERVAL;
    }
    if (way->left == 0) {
        return !way->is_cached;
    }
    way->left--;
    return way->is_cached;
}

/* The least time is forgotten slowly: what it was measured with may not be so any more. */
static void note(uint64_t *best, uint64_t took)
{
    *best = *best == 0 || took < *best ? took : *best + *best / 32;
}

static bool is_clearly_less(uint64_t took, uint64_t other)
{
    return took < other - other / 8;
}

void pmp_copy_way_took(pmp_copy_way *way, bool is_cached, uint64_t size_bytes, int64_t took_ns)
{
    note(&way->best[is_cached], 1 + (uint64_t)took_ns * 1000 / size_bytes);
    if (is_cached == way->is_cached) {
        return;
    }
    if (is_clearly_less(way->best[is_cached], way->best[way->is_cached])) {
        way->is_cached = is_cached;
        way->interval = FIRST_INTERVAL;
    } else if (way->interval < LAST_INTERVAL) {
        way->interval *= 2;
    }
    way->left = way->interval;
}
