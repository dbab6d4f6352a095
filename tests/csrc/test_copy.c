/* Non-temporal copies: every byte arrives, no adjacent byte changes, and another core sees them in order. */
#include "support.h"

#include "../../csrc/copy.h"
#include "../../csrc/copy_way.h"

#include <stdatomic.h>

#define MARGIN          128
#define SIZE_MAX_TESTED (3 * PMP_NONTEMPORAL_MIN)

static unsigned char from[MARGIN + SIZE_MAX_TESTED];
static _Alignas(64) unsigned char to[MARGIN + SIZE_MAX_TESTED + MARGIN];

static void check_copy(size_t to_offset, size_t from_offset, size_t size_bytes)
{
    memset(to, 0xee, sizeof to);
    pmp_copy_nontemporal(to + to_offset, from + from_offset, size_bytes);
    CHECK(memcmp(to + to_offset, from + from_offset, size_bytes) == 0);
    for (size_t i = 0; i < to_offset; i++) {
        CHECK_EQUAL(to[i], 0xee);
    }
    for (size_t i = to_offset + size_bytes; i < sizeof to; i++) {
        CHECK_EQUAL(to[i], 0xee);
    }
}

static void fill_source(void)
{
    uint64_t random = 1;
    for (size_t i = 0; i < sizeof from; i++) {
        from[i] = (unsigned char)next_random(&random);
    }
}

static void every_alignment_is_copied(void)
{
    fill_source();
    for (size_t to_offset = 0; to_offset <= 64; to_offset++) {
        for (size_t from_offset = 0; from_offset < 64; from_offset += 7) {
            check_copy(to_offset, from_offset, PMP_NONTEMPORAL_MIN + 13);
        }
    }
}

static void every_size_is_copied(void)
{
    fill_source();
    for (size_t size_bytes = 0; size_bytes <= 130; size_bytes++) {
        check_copy(3, 1, size_bytes);
    }
    for (size_t size_bytes = PMP_NONTEMPORAL_MIN - 1; size_bytes <= PMP_NONTEMPORAL_MIN + 130;
         size_bytes++) {
        check_copy(8, 0, size_bytes);
        check_copy(5, 0, size_bytes);
    }
    check_copy(0, 0, SIZE_MAX_TESTED);
}

/* ---- order ---- */

#define ROUNDS 20000

static _Alignas(64) unsigned char mailbox[PMP_NONTEMPORAL_MIN];
static _Alignas(64) _Atomic int published;
static _Alignas(64) _Atomic int taken;

static void *read_letters(void *unused)
{
    (void)unused;
    for (int round = 1; round <= ROUNDS; round++) {
        while (atomic_load_explicit(&published, memory_order_acquire) != round) {
            sched_yield();
        }
        for (size_t i = 0; i < sizeof mailbox; i += 16) {
            CHECK_EQUAL(mailbox[i], round % 256);
        }
        atomic_store_explicit(&taken, round, memory_order_release);
    }
    return NULL;
}

static void reader_of_release_sees_copy(void)
{
    static unsigned char letter[sizeof mailbox];
    const pthread_t reader = start_thread(read_letters, NULL);
    for (int round = 1; round <= ROUNDS; round++) {
        memset(letter, round % 256, sizeof letter);
        pmp_copy_nontemporal(mailbox, letter, sizeof letter);
        atomic_store_explicit(&published, round, memory_order_release);
        while (atomic_load_explicit(&taken, memory_order_acquire) != round) {
            sched_yield();
        }
    }
    join_thread(reader);
}

/* ---- the faster way ---- */

/* Sends messages of which each takes so long past the caches, and through them. Returns how many went the second way. */
static int send_messages(pmp_copy_way *way, int count, int64_t past_ns, int64_t cached_ns)
{
    int cached_count = 0;
    for (int i = 0; i < count; i++) {
        const bool is_cached = pmp_copy_way_next(way);
        const int64_t noise_ns = i % 3 == 0 ? 0 : i % 3 * 700;
        pmp_copy_way_took(way, is_cached, 1000, (is_cached ? cached_ns : past_ns) + noise_ns);
        cached_count += is_cached;
    }
    return cached_count;
}

static void faster_way_is_found_again(void)
{
    pmp_copy_way way = {.is_cached = false};
    CHECK(!pmp_copy_way_next(&way));
    send_messages(&way, 20, 2000, 1000);
    CHECK(way.is_cached);
    send_messages(&way, 1000, 1000, 7000);
    CHECK(!way.is_cached);
    send_messages(&way, 1000, 1000, 950); /* hardly faster */
    CHECK(!way.is_cached);
}

static void slower_way_is_tried_rarely(void)
{
    pmp_copy_way way = {.is_cached = false};
    send_messages(&way, 1000, 1000, 7000);
    const int tried = send_messages(&way, 10000, 1000, 7000);
    CHECK(tried >= 30 && tried <= 45);
}

int main(void)
{
    run("every alignment is copied", 60, every_alignment_is_copied);
    run("every size is copied", 60, every_size_is_copied);
    run("a reader that sees the release sees the copy", 60, reader_of_release_sees_copy);
    run("the faster way is found again", 60, faster_way_is_found_again);
    run("the slower way is tried rarely", 60, slower_way_is_tried_rarely);
    return 0;
}
