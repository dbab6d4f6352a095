/* Large parts of a call, stored once for several ranks: what ranks map is theirs, also when the memory is used again. */
#include "support.h"

#include "../../csrc/link.h"
#include "../../csrc/stored_parts.h"

#ifdef __linux__ /* elsewhere nothing tells if memory is unused */

enum { LEAST = 100000, SIZE = 5 << 20, RANKS = 3 };

static pmp_store store;

static pmp_part bytes_part(size_t size_bytes, uint64_t key)
{
    const pmp_part part = {malloc(size_bytes), size_bytes};
    CHECK(part.data != NULL);
    fill_bytes(part.data, size_bytes, key);
    return part;
}

static pmp_stored_parts *store_all(const pmp_part *parts, uint32_t count)
{
    pmp_stored_parts *const stored = pmp_store_begin(parts, count, LEAST);
    int error = -EAGAIN;
    CHECK(stored != NULL);
    while (error == -EAGAIN) {
        error = pmp_store_next(&store, stored);
    }
    CHECK_EQUAL(error, 0);
    return stored;
}

static pmp_shm attach(const pmp_stored_parts *stored, uint32_t i)
{
    pmp_shm mapped;
    CHECK_EQUAL(pmp_shm_attach_private(&mapped, stored->segments[i].shm.descriptor), 0);
    return mapped;
}

static void only_large_parts_are_stored(void)
{
    const pmp_part parts[] = {bytes_part(SIZE, 1), bytes_part(SIZE, 2), bytes_part(LEAST - 1, 3),
                              bytes_part(LEAST, 4)};
    CHECK(pmp_store_begin(parts, 1, LEAST) == NULL); /* the pickle is none of them */
    pmp_stored_parts *const stored = store_all(parts, 4);

    CHECK_EQUAL(stored->stored_count, 2);
    CHECK_EQUAL(stored->parts[0].size_bytes, SIZE);
    CHECK_EQUAL(stored->parts[1].size_bytes, SIZE | PMP_STORED);
    CHECK_EQUAL(stored->parts[2].size_bytes, LEAST - 1);
    CHECK_EQUAL(stored->parts[3].size_bytes, LEAST | PMP_STORED);
    for (uint32_t i = 0; i < 2; i++) {
        const pmp_part *const part = &parts[stored->numbers[i]];
        pmp_shm mapped = attach(stored, i);
        CHECK(memcmp(mapped.address, part->data, part->size_bytes) == 0);
        pmp_shm_close(&mapped);
    }
    pmp_store_free(stored);
    for (size_t i = 0; i < 4; i++) {
        free(parts[i].data);
    }
}

static void most_parts_of_a_call_are_limited(void)
{
    pmp_part parts[PMP_STORED_PARTS_MAX + 3];
    for (size_t i = 0; i < PMP_STORED_PARTS_MAX + 3; i++) {
        parts[i] = bytes_part(LEAST, i);
    }
    pmp_stored_parts *const stored = store_all(parts, PMP_STORED_PARTS_MAX + 3);
    CHECK_EQUAL(stored->stored_count, PMP_STORED_PARTS_MAX);
    CHECK_EQUAL(stored->parts[PMP_STORED_PARTS_MAX].size_bytes, LEAST | PMP_STORED);
    CHECK_EQUAL(stored->parts[PMP_STORED_PARTS_MAX + 1].size_bytes, LEAST);
    pmp_store_free(stored);
    for (size_t i = 0; i < PMP_STORED_PARTS_MAX + 3; i++) {
        free(parts[i].data);
    }
}

static void what_one_writes_no_other_sees(void)
{
    const pmp_part parts[] = {{NULL, 0}, bytes_part(SIZE, 1)};
    pmp_stored_parts *const stored = store_all(parts, 2);
    pmp_shm first = attach(stored, 0), second = attach(stored, 0);

    memset(first.address, 'x', SIZE);
    CHECK(memcmp(second.address, parts[1].data, SIZE) == 0);
    pmp_shm_close(&first);
    pmp_shm_close(&second);
    pmp_store_free(stored);
    free(parts[1].data);
}

/* Returns whether the next part of this size is written into the same memory. */
static bool is_used_again(const pmp_part *part)
{
    const pmp_part parts[] = {{NULL, 0}, *part};
    const bool had_one = store.count == 1;
    pmp_stored_parts *const stored = store_all(parts, 2);
    const bool has_taken_it = had_one && store.count == 0;
    pmp_shm mapped = attach(stored, 0);
    CHECK(memcmp(mapped.address, part->data, part->size_bytes) == 0);
    pmp_shm_close(&mapped);
    pmp_store_free(stored);
    return has_taken_it;
}

static void memory_is_used_again_when_nobody_has_it(void)
{
    const pmp_part parts[] = {{NULL, 0}, bytes_part(SIZE, 1)};
    const pmp_part next = bytes_part(SIZE - 1, 2), larger = bytes_part(SIZE + 1, 3),
                   small = bytes_part(SIZE / 4, 4);

    pmp_store_keep(&store, store_all(parts, 2));
    CHECK_EQUAL(store.count, 1);
    CHECK(!is_used_again(&larger));
    CHECK(!is_used_again(&small));
    CHECK(is_used_again(&next));
    CHECK_EQUAL(store.bytes, 0);
    free(parts[1].data);
    free(next.data);
    free(larger.data);
    free(small.data);
}

static int wait_for_end(void *unused)
{
    (void)unused;
    pause();
    return 0;
}

static void memory_that_somebody_has_stays_as_it_is(void)
{
    const pmp_part parts[] = {{NULL, 0}, bytes_part(SIZE, 1)};
    const pmp_part next = bytes_part(SIZE, 2);
    pmp_stored_parts *const stored = store_all(parts, 2);
    pmp_shm mapped = attach(stored, 0);

    pmp_store_keep(&store, stored);
    CHECK(!is_used_again(&next));
    const pid_t child = start_child(wait_for_end, NULL); /* it has the mapping too */
    CHECK(memcmp(mapped.address, parts[1].data, SIZE) == 0);
    pmp_shm_close(&mapped);
    CHECK(!is_used_again(&next));
    CHECK_EQUAL(kill(child, SIGKILL), 0);
    wait_for_child(child);
    CHECK(is_used_again(&next));
    free(parts[1].data);
    free(next.data);
}

static void little_is_kept(void)
{
    const pmp_part parts[] = {{NULL, 0}, bytes_part(SIZE, 1)};
    for (uint32_t i = 0; i < PMP_STORE_KEPT_MAX + 2; i++) {
        pmp_stored_parts *const first = store_all(parts, 2);
        pmp_stored_parts *const second = store_all(parts, 2);
        pmp_store_keep(&store, first);
        pmp_store_keep(&store, second);
    }
    CHECK(store.count <= PMP_STORE_KEPT_MAX);
    pmp_store_clear(&store);
    CHECK_EQUAL(store.count, 0);
    CHECK_EQUAL(store.bytes, 0);
    pmp_store_keep(&store, NULL);
    pmp_store_free(NULL);
    free(parts[1].data);
}

static pmp_receiver receivers[RANKS];

static void ranks_receive_what_is_not_stored(void)
{
    const pmp_part parts[] = {bytes_part(100, 1), bytes_part(SIZE, 2), bytes_part(LEAST - 1, 3),
                              bytes_part(LEAST, 4)};
    const size_t size_bytes = pmp_link_footprint(PMP_LINK_CAPACITY_MIN, RANKS);
    void *const memory = guarded_memory(size_bytes);
    pmp_stored_parts *const stored = store_all(parts, 4);
    const pmp_head head = {PMP_CALL, 4, 7, 0};
    static pmp_receiver results[RANKS];
    pmp_sender calls, unused;
    pmp_doorbell *bells;
    pmp_ranks ranks;
    int error, received = 0;

    CHECK_EQUAL(pmp_link_init(memory, size_bytes, PMP_LINK_CAPACITY_MIN, RANKS), 0);
    CHECK_EQUAL(pmp_link_open_master(memory, size_bytes, RANKS, 0, &calls, results, &bells), 0);
    for (uint32_t rank = 0; rank < RANKS; rank++) {
        CHECK_EQUAL(pmp_link_open_worker(memory, size_bytes, rank, &receivers[rank], &unused,
                                         &bells, &ranks),
                    0);
    }
    do { /* in fragments: the third part is larger than a record */
        error = pmp_send(&calls, &head, stored->parts, NULL);
        for (uint32_t rank = 0; rank < RANKS; rank++) {
            received += pmp_receive(&receivers[rank]) == 0;
        }
    } while (error == -EAGAIN);
    CHECK_EQUAL(error, 0);
    CHECK_EQUAL(received, RANKS);
    for (uint32_t rank = 0; rank < RANKS; rank++) {
        CHECK_EQUAL(receivers[rank].parts[1].size_bytes, SIZE | PMP_STORED);
        CHECK_EQUAL(receivers[rank].parts[3].size_bytes, LEAST | PMP_STORED);
        CHECK(memcmp(receivers[rank].parts[0].data, parts[0].data, 100) == 0);
        CHECK(memcmp(receivers[rank].parts[2].data, parts[2].data, LEAST - 1) == 0);
        pmp_receive_done(&receivers[rank]);
    }
    /* a rank that answers so sends invalid data */
    CHECK_EQUAL(pmp_send(&unused, &head, stored->parts, NULL), -EAGAIN);
    CHECK_EQUAL(pmp_receive(&results[RANKS - 1]), -EBADMSG);
    pmp_store_free(stored);
    free(memory);
    for (size_t i = 0; i < 4; i++) {
        free(parts[i].data);
    }
}

#endif

int main(void)
{
#ifdef __linux__
    run("only large parts are stored", 60, only_large_parts_are_stored);
    run("most parts of a call are limited", 60, most_parts_of_a_call_are_limited);
    run("what one process writes no other sees", 60, what_one_writes_no_other_sees);
    run("memory is used again when nobody has it", 60, memory_is_used_again_when_nobody_has_it);
    run("memory that somebody has stays as it is", 60, memory_that_somebody_has_stays_as_it_is);
    run("little memory is kept", 60, little_is_kept);
    run("ranks receive what is not stored", 60, ranks_receive_what_is_not_stored);
#endif
    return 0;
}
