/* Blocks: large ones come back warm, small ones do not, and only so many are kept. */
#include "support.h"

#include "../../csrc/buffer_pool.h"

#include <stdatomic.h>

#define MIB ((size_t)1 << 20)

static pmp_buffer_pool *blocks;

static unsigned char *new_block(size_t size_bytes)
{
    unsigned char *const block = pmp_buffer_new(blocks, size_bytes);
    CHECK(block != NULL);
    CHECK_EQUAL((uintptr_t)block % 64, 0);
    if (size_bytes != 0) {
        block[0] = 1;
        block[size_bytes - 1] = 2;
    }
    return block;
}

/* Whether there is memory at this address; the page of a block's first byte is looked at. */
static bool is_mapped(const void *block)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    return msync((void *)((uintptr_t)block / page * page), 1, MS_ASYNC) == 0;
}

static void every_size_can_be_had(void)
{
    static const size_t sizes[] = {0,       1,   64,           1000,    PMP_BUFFER_LARGE - 1,
                                   MIB / 2, MIB, 2 * MIB - 64, 2 * MIB, 2 * MIB + 1,
                                   33 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *const block = new_block(sizes[i]), *const second = new_block(sizes[i]);
        CHECK(block != second);
        memset(block, 3, sizes[i]);
        memset(second, 4, sizes[i]);
        CHECK(sizes[i] == 0 || (block[0] == 3 && block[sizes[i] - 1] == 3));
        pmp_buffer_free(block);
        pmp_buffer_free(second);
    }
    pmp_buffer_free(NULL);
    pmp_buffer_pool_trim(blocks);
}

static void impossible_sizes_are_refused(void)
{
    CHECK(pmp_buffer_new(blocks, SIZE_MAX) == NULL);
    CHECK(pmp_buffer_new(blocks, SIZE_MAX - 64) == NULL);
    CHECK(pmp_buffer_new(blocks, SIZE_MAX / 2) == NULL);
    CHECK(pmp_buffer_new(NULL, SIZE_MAX / 4) == NULL);
}

static void large_block_comes_back(void)
{
    unsigned char *const block = new_block(8 * MIB);
    pmp_buffer_free(block);
    CHECK(is_mapped(block));
    CHECK(new_block(8 * MIB - 100) == block);
    unsigned char *const much_smaller = new_block(MIB / 2);
    CHECK(much_smaller != block);
    pmp_buffer_free(block);
    CHECK(new_block(20 * MIB) != block);
    unsigned char *const wasteful = new_block(MIB);
    CHECK(wasteful != block);
    pmp_buffer_pool_trim(blocks);
    CHECK(!is_mapped(block));
}

static void warmest_block_comes_first(void)
{
    unsigned char *const first = new_block(4 * MIB), *const second = new_block(4 * MIB);
    pmp_buffer_free(first);
    pmp_buffer_free(second);
    CHECK(new_block(4 * MIB) == second);
    CHECK(new_block(4 * MIB) == first);
    pmp_buffer_free(first);
    pmp_buffer_free(second);
    pmp_buffer_pool_trim(blocks);
}

static void only_so_many_are_kept(void)
{
    enum { MORE = PMP_POOL_BUFFERS_MAX + 3 };
    unsigned char *some[MORE];
    for (int i = 0; i < MORE; i++) {
        some[i] = new_block(3 * MIB);
    }
    for (int i = 0; i < MORE; i++) {
        pmp_buffer_free(some[i]);
    }
    for (int i = 0; i < MORE; i++) {
        CHECK_EQUAL(is_mapped(some[i]), i >= MORE - PMP_POOL_BUFFERS_MAX);
    }
    pmp_buffer_pool_trim(blocks);
    for (int i = 0; i < MORE; i++) {
        CHECK(!is_mapped(some[i]));
    }
}

static void only_so_many_bytes_are_kept(void)
{
    unsigned char *const large = new_block(PMP_POOL_BYTES_MAX / 2);
    unsigned char *const second = new_block(PMP_POOL_BYTES_MAX / 2 + 4 * MIB);
    unsigned char *const too_large = new_block(PMP_POOL_BYTES_MAX + 4 * MIB);
    pmp_buffer_free(too_large);
    CHECK(!is_mapped(too_large));
    pmp_buffer_free(large);
    CHECK(is_mapped(large));
    pmp_buffer_free(second);
    CHECK(is_mapped(second) && !is_mapped(large));
    pmp_buffer_pool_trim(blocks);
}

static void nothing_is_kept_where_nobody_keeps(void)
{
    unsigned char *const block = pmp_buffer_new(NULL, 8 * MIB);
    CHECK(block != NULL);
    block[8 * MIB - 1] = 1;
    pmp_buffer_free(block);
    CHECK(!is_mapped(block));
}

/* ---- two threads that pass blocks to each other ---- */

typedef struct {
    size_t size_bytes;
    uint64_t key;
} stamp; /* at the start of a block */

static _Atomic(unsigned char *) table;

static void check_and_free(unsigned char *block)
{
    stamp read;
    if (block == NULL) {
        return;
    }
    memcpy(&read, block, sizeof read);
    CHECK(has_bytes(block + sizeof read, 1000, read.key));
    CHECK_EQUAL(block[read.size_bytes - 1], read.key & 255);
    pmp_buffer_free(block);
}

static void *pass_blocks(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    for (int i = 0; i < 3000; i++) {
        const stamp written = {.size_bytes = 2000 + next_random(&random) % (4 * MIB),
                               .key = next_random(&random)};
        unsigned char *const block = new_block(written.size_bytes);
        memcpy(block, &written, sizeof written);
        fill_bytes(block + sizeof written, 1000, written.key);
        block[written.size_bytes - 1] = (unsigned char)written.key;
        check_and_free(atomic_exchange(&table, block));
    }
    return NULL;
}

static void other_thread_may_give_a_block_back(void)
{
    const pthread_t thread = start_thread(pass_blocks, (void *)(uintptr_t)1000000);
    pass_blocks(NULL);
    join_thread(thread);
    check_and_free(table);
    pmp_buffer_pool_trim(blocks);
}

int main(void)
{
    blocks = pmp_buffer_pool_create();
    CHECK(blocks != NULL);
    run("every size can be had", 60, every_size_can_be_had);
    run("impossible sizes are refused", 60, impossible_sizes_are_refused);
    run("a large block comes back", 60, large_block_comes_back);
    run("the warmest block comes first", 60, warmest_block_comes_first);
    run("only so many blocks are kept", 60, only_so_many_are_kept);
    run("only so many bytes are kept", 60, only_so_many_bytes_are_kept);
    run("nothing is kept where nobody keeps", 60, nothing_is_kept_where_nobody_keeps);
    run("another thread may give a block back", 60, other_thread_may_give_a_block_back);
    return 0;
}
