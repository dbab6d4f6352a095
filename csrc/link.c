#include "link.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#define LINK_MAGIC   UINT64_C(0x6b6e696c30706d70) /* "pmp0link" */
#define LINK_VERSION 4

static_assert(sizeof(pmp_head) + 8 * PMP_PARTS_MAX <= PMP_LINK_CAPACITY_MIN / 2 - 8,
              "the largest head must fit into a record of the smallest link");

typedef struct {
    uint64_t magic;
    uint32_t version;
    uint32_t rank_count;
    uint64_t capacity;
    _Atomic uint32_t slot;
    _Atomic uint32_t shares_bell, awaits_room;
    _Alignas(PMP_CACHE_LINE) pmp_doorbell bells[];
} shared_link;

static_assert(offsetof(shared_link, capacity) == 16, "the layout is shared between processes");
static_assert(offsetof(shared_link, bells) == PMP_CACHE_LINE,
              "the layout is shared between processes");

/* Where the parts of a link are. */
typedef struct {
    pmp_doorbell *bells;
    pmp_rank_word *words;
    unsigned char *calls, *results;
    size_t calls_bytes, results_bytes; /* of the ring of calls, and of each ring of results */
} link_parts;

static link_parts parts_of(shared_link *link, uint64_t capacity, uint32_t rank_count)
{
    link_parts parts = {.bells = link->bells};
    parts.words = (pmp_rank_word *)(void *)(parts.bells + rank_count);
    parts.calls = (unsigned char *)(parts.words + rank_count);
    parts.calls_bytes = pmp_ring_footprint(capacity, rank_count);
    parts.results = parts.calls + parts.calls_bytes;
    parts.results_bytes = pmp_ring_footprint(capacity, 1);
    return parts;
}

size_t pmp_link_footprint(uint64_t capacity, uint32_t rank_count)
{
    return sizeof(shared_link) + rank_count * (sizeof(pmp_doorbell) + sizeof(pmp_rank_word)) +
           pmp_ring_footprint(capacity, rank_count) + rank_count * pmp_ring_footprint(capacity, 1);
}

/* Must be checked before the footprint is computed: nothing that passes makes that overflow. */
static bool is_link(uint64_t capacity, uint32_t rank_count)
{
    return capacity >= PMP_LINK_CAPACITY_MIN && capacity <= UINT64_C(1) << 31 && rank_count >= 1 &&
           rank_count <= PMP_RANKS_MAX;
}

int pmp_link_init(void *memory, size_t size_bytes, uint64_t capacity, uint32_t rank_count)
{
    shared_link *const link = memory;

    if (!is_link(capacity, rank_count) || size_bytes < pmp_link_footprint(capacity, rank_count)) {
        return -EINVAL;
    }
    const link_parts parts = parts_of(link, capacity, rank_count);
    int error = pmp_ring_init(parts.calls, capacity, rank_count);
    for (uint32_t rank = 0; rank < rank_count && error == 0; rank++) {
        error = pmp_ring_init(parts.results + rank * parts.results_bytes, capacity, 1);
    }
    if (error != 0) {
        return error;
    }
    link->magic = LINK_MAGIC;
    link->version = LINK_VERSION;
    link->rank_count = rank_count;
    link->capacity = capacity;
    atomic_init(&link->slot, PMP_NO_SLOT);
    atomic_init(&link->shares_bell, 0);
    atomic_init(&link->awaits_room, 0);
    return 0;
}

static int check_link(const shared_link *link, size_t size_bytes, uint64_t *capacity,
                      uint32_t *rank_count)
{
    if (size_bytes < sizeof *link || link->magic != LINK_MAGIC || link->version != LINK_VERSION) {
        return -EINVAL;
    }
    *capacity = *(const volatile uint64_t *)&link->capacity;
    *rank_count = *(const volatile uint32_t *)&link->rank_count;
    return is_link(*capacity, *rank_count) &&
                   size_bytes >= pmp_link_footprint(*capacity, *rank_count)
               ? 0
               : -EINVAL;
}

int pmp_link_rank_count(void *memory, size_t size_bytes)
{
    uint64_t capacity;
    uint32_t rank_count;
    const int error = check_link(memory, size_bytes, &capacity, &rank_count);
    return error == 0 ? (int)rank_count : error;
}

int pmp_link_open_master(void *memory, size_t size_bytes, uint32_t rank_count, uint32_t slot,
                         pmp_sender *calls, pmp_receiver *results, pmp_doorbell **bells)
{
    shared_link *const link = memory;
    uint64_t capacity;
    uint32_t found;
    int error = check_link(memory, size_bytes, &capacity, &found);
    if (error != 0 || found != rank_count) {
        return -EINVAL;
    }
    const link_parts parts = parts_of(memory, capacity, rank_count);
    *calls = (pmp_sender){.busy = false};
    memset(results, 0, rank_count * sizeof *results);
    error = pmp_producer_open(&calls->producer, parts.calls, parts.calls_bytes);
    for (uint32_t rank = 0; rank < rank_count && error == 0; rank++) {
        error =
            pmp_consumer_open(&results[rank].consumer, parts.results + rank * parts.results_bytes,
                              parts.results_bytes, 0);
        results[rank].rank_count = rank_count;
    }
    *bells = parts.bells;
    /* Relaxed: the release of the first call publishes it. */
    atomic_store_explicit(&link->slot, slot, memory_order_relaxed);
    return error;
}

int pmp_link_open_worker(void *memory, size_t size_bytes, uint32_t rank, pmp_receiver *calls,
                         pmp_sender *results, pmp_doorbell **bells, pmp_ranks *ranks)
{
    uint64_t capacity;
    uint32_t rank_count;
    int error = check_link(memory, size_bytes, &capacity, &rank_count);
    if (error != 0 || rank >= rank_count) {
        return -EINVAL;
    }
    const link_parts parts = parts_of(memory, capacity, rank_count);
    *results = (pmp_sender){.busy = false};
    memset(calls, 0, sizeof *calls);
    calls->rank_count = rank_count;
    calls->takes_stored = rank_count > 1;
    error = pmp_producer_open(&results->producer, parts.results + rank * parts.results_bytes,
                              parts.results_bytes);
    if (error == 0) {
        error = pmp_consumer_open(&calls->consumer, parts.calls, parts.calls_bytes, rank);
    }
    *bells = parts.bells;
    *ranks = (pmp_ranks){.words = parts.words, .count = rank_count, .rank = rank};
    return error;
}

uint32_t pmp_link_slot(void *memory)
{
    shared_link *const link = memory;
    return atomic_load_explicit(&link->slot, memory_order_relaxed);
}

void pmp_link_share_bell(void *memory)
{
    shared_link *const link = memory;
    /* Relaxed: the message after which the master opens the link publishes it. */
    atomic_store_explicit(&link->shares_bell, 1, memory_order_relaxed);
}

bool pmp_link_shares_bell(void *memory)
{
    shared_link *const link = memory;
    return atomic_load_explicit(&link->shares_bell, memory_order_relaxed) != 0;
}

void pmp_link_await_room(void *memory)
{
    shared_link *const link = memory;
    atomic_store_explicit(&link->awaits_room, 1, memory_order_relaxed);
    /* The wish is visible before this thread looks at the ring. Pairs with the fence below: either the master sees the wish, or
     * this thread sees the room. */
    atomic_thread_fence(memory_order_seq_cst);
}

bool pmp_link_awaits_room(void *memory)
{
    shared_link *const link = memory;
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(&link->awaits_room, memory_order_relaxed) != 0 &&
           atomic_exchange_explicit(&link->awaits_room, 0, memory_order_relaxed) != 0;
}
