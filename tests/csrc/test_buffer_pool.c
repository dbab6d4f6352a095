/* The buffer pool: large buffers are reused while warm, small ones are not, and the pool has limits. */
#include "support.h"

#include "../../csrc/buffer_pool.h"
#include "../../csrc/platform.h"

#include <stdatomic.h>

#define MIB ((size_t)1 << 20)

static pmp_buffer_pool *pool;

static unsigned char *new_buffer(size_t size_bytes)
{
    unsigned char *const buffer = pmp_buffer_new(pool, size_bytes);
    CHECK(buffer != NULL);
    CHECK_EQUAL((uintptr_t)buffer % 64, 0);
    if (size_bytes != 0) {
        buffer[0] = 1;
        buffer[size_bytes - 1] = 2;
    }
    return buffer;
}

static void every_size_can_be_allocated(void)
{
    static const size_t sizes[] = {0,       1,   64,           1000,    PMP_BUFFER_LARGE - 1,
                                   MIB / 2, MIB, 2 * MIB - 64, 2 * MIB, 2 * MIB + 1,
                                   33 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *const buffer = new_buffer(sizes[i]), *const second = new_buffer(sizes[i]);
        CHECK(buffer != second);
        memset(buffer, 3, sizes[i]);
        memset(second, 4, sizes[i]);
        CHECK(sizes[i] == 0 || (buffer[0] == 3 && buffer[sizes[i] - 1] == 3));
        pmp_buffer_free(buffer);
        pmp_buffer_free(second);
    }
    pmp_buffer_free(NULL);
    pmp_buffer_pool_trim(pool);
}

static void impossible_sizes_are_refused(void)
{
    CHECK(pmp_buffer_new(pool, SIZE_MAX) == NULL);
    CHECK(pmp_buffer_new(pool, SIZE_MAX - 64) == NULL);
    CHECK(pmp_buffer_new(pool, SIZE_MAX / 2) == NULL);
    CHECK(pmp_buffer_new(NULL, SIZE_MAX / 4) == NULL);
}

static void large_buffer_is_reused(void)
{
    unsigned char *const buffer = new_buffer(8 * MIB);
    pmp_buffer_free(buffer);
    CHECK(is_mapped(buffer));
    CHECK(new_buffer(8 * MIB - 100) == buffer);
    unsigned char *const much_smaller = new_buffer(MIB / 2);
    CHECK(much_smaller != buffer);
    pmp_buffer_free(buffer);
    CHECK(new_buffer(20 * MIB) != buffer);
    unsigned char *const wasteful = new_buffer(MIB);
    CHECK(wasteful != buffer);
    pmp_buffer_pool_trim(pool);
    CHECK(!is_mapped(buffer));
}

static void whole_buffer_is_mapped_and_unmapped(void)
{
    static const size_t sizes[] = {2 * MIB - 64, 2 * MIB, 3 * MIB, 5 * MIB, 33 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *const buffer = new_buffer(sizes[i]);
#ifdef PMP_LINUX
        CHECK_EQUAL((uintptr_t)(buffer - 64) % (2 * MIB), 0); /* there a huge page can be */
#endif
        memset(buffer, 3, sizes[i]);
        pmp_buffer_free(buffer);
        CHECK(is_mapped(buffer) && is_mapped(buffer + sizes[i] - 1));
        CHECK(new_buffer(sizes[i]) == buffer);
        pmp_buffer_free(buffer);
        pmp_buffer_pool_trim(pool);
        CHECK(!is_mapped(buffer) && !is_mapped(buffer + sizes[i] - 1));
    }
}

#ifdef PMP_LINUX

static long mapped_pages(void)
{
    long pages = 0;
    FILE *const status = fopen("/proc/self/statm", "r");
    CHECK(status != NULL);
    CHECK_EQUAL(fscanf(status, "%ld", &pages), 1);
    fclose(status);
    return pages;
}

static void trimmed_pool_leaves_nothing_mapped(void)
{
    const long before = mapped_pages();
    for (int i = 0; i < 20; i++) {
        pmp_buffer_free(new_buffer(5 * MIB));
        pmp_buffer_pool_trim(pool);
    }
    CHECK((mapped_pages() - before) * sysconf(_SC_PAGESIZE) < (long)(20 * MIB));
}

#endif

static void warmest_buffer_is_reused_first(void)
{
    unsigned char *const first = new_buffer(4 * MIB), *const second = new_buffer(4 * MIB);
    pmp_buffer_free(first);
    pmp_buffer_free(second);
    CHECK(new_buffer(4 * MIB) == second);
    CHECK(new_buffer(4 * MIB) == first);
    pmp_buffer_free(first);
    pmp_buffer_free(second);
    pmp_buffer_pool_trim(pool);
}

static void number_of_kept_buffers_is_limited(void)
{
    enum { MORE = PMP_POOL_BUFFERS_MAX + 3 };
    unsigned char *some[MORE];
    for (int i = 0; i < MORE; i++) {
        some[i] = new_buffer(3 * MIB);
    }
    for (int i = 0; i < MORE; i++) {
        pmp_buffer_free(some[i]);
    }
    for (int i = 0; i < MORE; i++) {
        CHECK_EQUAL(is_mapped(some[i]), i >= MORE - PMP_POOL_BUFFERS_MAX);
    }
    pmp_buffer_pool_trim(pool);
    for (int i = 0; i < MORE; i++) {
        CHECK(!is_mapped(some[i]));
    }
}

static void bytes_of_kept_buffers_are_limited(void)
{
    unsigned char *const large = new_buffer(PMP_POOL_BYTES_MAX / 2);
    unsigned char *const second = new_buffer(PMP_POOL_BYTES_MAX / 2 + 4 * MIB);
    unsigned char *const too_large = new_buffer(PMP_POOL_BYTES_MAX + 4 * MIB);
    pmp_buffer_free(too_large);
    CHECK(!is_mapped(too_large));
    pmp_buffer_free(large);
    CHECK(is_mapped(large));
    pmp_buffer_free(second);
    CHECK(is_mapped(second) && !is_mapped(large));
    pmp_buffer_pool_trim(pool);
}

static void buffer_without_pool_is_not_kept(void)
{
    unsigned char *const buffer = pmp_buffer_new(NULL, 8 * MIB);
    CHECK(buffer != NULL);
    buffer[8 * MIB - 1] = 1;
    pmp_buffer_free(buffer);
    CHECK(!is_mapped(buffer));
}

/* ---- two threads that pass buffers to each other ---- */

typedef struct {
    size_t size_bytes;
    uint64_t key;
} stamp; /* at the start of a buffer */

static _Atomic(unsigned char *) table;

static void check_and_free(unsigned char *buffer)
{
    stamp read;
    if (buffer == NULL) {
        return;
    }
    memcpy(&read, buffer, sizeof read);
    CHECK(has_bytes(buffer + sizeof read, 1000, read.key));
    CHECK_EQUAL(buffer[read.size_bytes - 1], read.key & 255);
    pmp_buffer_free(buffer);
}

static void *pass_buffers(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    for (int i = 0; i < 3000; i++) {
        const stamp written = {.size_bytes = 2000 + next_random(&random) % (4 * MIB),
                               .key = next_random(&random)};
        unsigned char *const buffer = new_buffer(written.size_bytes);
        memcpy(buffer, &written, sizeof written);
        fill_bytes(buffer + sizeof written, 1000, written.key);
        buffer[written.size_bytes - 1] = (unsigned char)written.key;
        check_and_free(atomic_exchange(&table, buffer));
    }
    return NULL;
}

static void other_thread_may_free_buffer(void)
{
    const pthread_t thread = start_thread(pass_buffers, (void *)(uintptr_t)1000000);
    pass_buffers(NULL);
    join_thread(thread);
    check_and_free(table);
    pmp_buffer_pool_trim(pool);
}

int main(void)
{
    pool = pmp_buffer_pool_create();
    CHECK(pool != NULL);
    run("every size can be allocated", 60, every_size_can_be_allocated);
    run("impossible sizes are refused", 60, impossible_sizes_are_refused);
    run("a large buffer is reused", 60, large_buffer_is_reused);
    run("a whole buffer is mapped and unmapped", 60, whole_buffer_is_mapped_and_unmapped);
#ifdef PMP_LINUX
    run("a trimmed pool leaves nothing mapped", 60, trimmed_pool_leaves_nothing_mapped);
#endif
    run("the warmest buffer is reused first", 60, warmest_buffer_is_reused_first);
    run("the number of kept buffers is limited", 60, number_of_kept_buffers_is_limited);
    run("the bytes of kept buffers are limited", 60, bytes_of_kept_buffers_are_limited);
    run("a buffer without a pool is not kept", 60, buffer_without_pool_is_not_kept);
    run("another thread may free a buffer", 60, other_thread_may_free_buffer);
    return 0;
}
