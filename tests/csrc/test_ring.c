/* One thread on both ends of a ring: records come out as they went in, at every offset, full and empty;
 * revoked records do not; corruption is detected. stress_ring.c and stress_revoke.c do
 * the same with two threads and two processes. */
#include "support.h"

#include "../../csrc/ring.h"

/* As in ring_layout.h. */
enum { READY = 1, CLAIMED, REVOKED, WRAP, NO_STATE };

enum { CAPACITY = 256, LIMIT = CAPACITY / 2 - 8 };
enum { HEAD_AT = PMP_CACHE_LINE, TAIL_AT = 2 * PMP_CACHE_LINE, RECORDS_AT = 3 * PMP_CACHE_LINE };

typedef struct {
    unsigned char *memory;
    size_t size_bytes;
    pmp_producer producer;
    pmp_consumer consumer;
} fixture;

static uint64_t *word_at(fixture *ring, size_t offset)
{
    return (uint64_t *)(void *)(ring->memory + offset);
}

static void open_both(fixture *ring)
{
    CHECK_EQUAL(pmp_producer_open(&ring->producer, ring->memory, ring->size_bytes), 0);
    CHECK_EQUAL(pmp_consumer_open(&ring->consumer, ring->memory, ring->size_bytes, 0), 0);
}

/* An empty ring whose next record begins at this position. */
static fixture new_ring_at(uint64_t position)
{
    fixture ring = {.size_bytes = pmp_ring_footprint(CAPACITY, 1)};
    ring.memory = guarded_memory(ring.size_bytes);
    CHECK_EQUAL(pmp_ring_init(ring.memory, CAPACITY, 1), 0);
    *word_at(&ring, HEAD_AT) = position;
    *word_at(&ring, TAIL_AT) = position;
    open_both(&ring);
    return ring;
}

static fixture new_ring(void)
{
    return new_ring_at(0);
}

static uint64_t push(fixture *ring, uint32_t size_bytes, uint64_t key)
{
    void *payload;
    CHECK_EQUAL(pmp_ring_reserve(&ring->producer, size_bytes, &payload), 0);
    CHECK_EQUAL((uintptr_t)payload % 8, 0);
    fill_bytes(payload, size_bytes, key);
    return pmp_ring_commit(&ring->producer);
}

static void expect_record(fixture *ring, uint32_t size_bytes, uint64_t key)
{
    const void *payload;
    uint32_t found_bytes;
    CHECK_EQUAL(pmp_ring_next(&ring->consumer, &payload, &found_bytes), 0);
    CHECK_EQUAL((uintptr_t)payload % 8, 0);
    CHECK_EQUAL(found_bytes, size_bytes);
    CHECK(has_bytes(payload, size_bytes, key));
}

static void pop(fixture *ring, uint32_t size_bytes, uint64_t key)
{
    expect_record(ring, size_bytes, key);
    pmp_ring_release(&ring->consumer);
}

static int next_error(fixture *ring)
{
    const void *payload;
    uint32_t size_bytes;
    return pmp_ring_next(&ring->consumer, &payload, &size_bytes);
}

static int reserve_error(fixture *ring, uint32_t size_bytes)
{
    void *payload;
    return pmp_ring_reserve(&ring->producer, size_bytes, &payload);
}

static void new_ring_is_empty(void)
{
    fixture ring = new_ring();
    CHECK(!pmp_ring_has_record(&ring.consumer));
    CHECK(pmp_ring_has_room(&ring.producer, LIMIT));
    CHECK_EQUAL(next_error(&ring), -EAGAIN);
    CHECK_EQUAL(pmp_ring_record_limit(CAPACITY), LIMIT);
    CHECK_EQUAL(pmp_ring_footprint(CAPACITY, 1) % 64, 0);
    free(ring.memory);
}

static void init_rejects_capacities(void)
{
    static const uint64_t wrong[] = {
        0, 1, 128, 255, 257, 384, UINT64_C(1) << 32, UINT64_MAX, (UINT64_C(1) << 31) + 8};
    fixture ring = new_ring();
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CHECK_EQUAL(pmp_ring_init(ring.memory, wrong[i], 1), -EINVAL);
    }
    free(ring.memory);
}

static void expect_no_ring(fixture *ring, size_t available)
{
    CHECK_EQUAL(pmp_producer_open(&ring->producer, ring->memory, available), -EINVAL);
    CHECK_EQUAL(pmp_consumer_open(&ring->consumer, ring->memory, available, 0), -EINVAL);
}

static void open_rejects_memory_without_ring(void)
{
    fixture ring = new_ring();
    static const struct {
        size_t offset;
        uint64_t value;
    } wrong[] = {{0, 1},
                 {8, 99},
                 {16, 255},
                 {16, 2 * CAPACITY},
                 {16, UINT64_MAX},
                 {HEAD_AT, 4},
                 {HEAD_AT, CAPACITY + 8},
                 {TAIL_AT, 8},
                 {TAIL_AT, 3}};

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const uint64_t right = *word_at(&ring, wrong[i].offset);
        *word_at(&ring, wrong[i].offset) = wrong[i].value;
        expect_no_ring(&ring, ring.size_bytes);
        *word_at(&ring, wrong[i].offset) = right;
    }
    expect_no_ring(&ring, ring.size_bytes - 1);
    expect_no_ring(&ring, 100);
    expect_no_ring(&ring, 0);
    open_both(&ring);
    ring.memory += 8;
    expect_no_ring(&ring, ring.size_bytes - 8);
    free(ring.memory - 8);
}

/* Every size at every offset: so every record that may wrap does, and the largest always fits. */
static void every_size_at_every_offset(void)
{
    static const uint64_t bases[] = {0, (UINT64_C(1) << 32) - CAPACITY, UINT64_C(1) << 62};

    for (size_t base = 0; base < sizeof bases / sizeof bases[0]; base++) {
        for (uint64_t offset = 0; offset < CAPACITY; offset += 8) {
            for (uint32_t size_bytes = 0; size_bytes <= LIMIT; size_bytes++) {
                fixture ring = new_ring_at(bases[base] + offset);
                CHECK(pmp_ring_has_room(&ring.producer, size_bytes));
                push(&ring, size_bytes, offset + size_bytes);
                pop(&ring, size_bytes, offset + size_bytes);
                CHECK_EQUAL(next_error(&ring), -EAGAIN);
                push(&ring, 9, 1);
                pop(&ring, 9, 1);
                free(ring.memory);
            }
        }
    }
}

static void too_large_record_is_rejected(void)
{
    fixture ring = new_ring();
    CHECK_EQUAL(reserve_error(&ring, LIMIT + 1), -EMSGSIZE);
    CHECK_EQUAL(reserve_error(&ring, UINT32_MAX), -EMSGSIZE);
    CHECK(!pmp_ring_has_room(&ring.producer, UINT32_MAX));
    push(&ring, LIMIT, 5);
    pop(&ring, LIMIT, 5);
    free(ring.memory);
}

static void full_ring_loses_nothing(void)
{
    fixture ring = new_ring();
    for (uint64_t i = 0; i < CAPACITY / 16; i++) {
        push(&ring, 8, i);
    }
    CHECK_EQUAL(reserve_error(&ring, 0), -EAGAIN);
    CHECK(!pmp_ring_has_room(&ring.producer, 0));
    pop(&ring, 8, 0);
    CHECK(pmp_ring_has_room(&ring.producer, 8));
    CHECK(!pmp_ring_has_room(&ring.producer, 9));
    push(&ring, 8, 100);
    CHECK_EQUAL(reserve_error(&ring, 0), -EAGAIN);
    for (uint64_t i = 1; i < CAPACITY / 16; i++) {
        pop(&ring, 8, i);
    }
    pop(&ring, 8, 100);
    CHECK_EQUAL(next_error(&ring), -EAGAIN);
    free(ring.memory);
}

static void record_stays_until_released(void)
{
    fixture ring = new_ring();
    push(&ring, 20, 1);
    push(&ring, 30, 2);
    expect_record(&ring, 20, 1);
    expect_record(&ring, 20, 1);
    CHECK_EQUAL(*word_at(&ring, TAIL_AT), 0);
    pmp_ring_release(&ring.consumer);
    pmp_ring_release(&ring.consumer); /* releases nothing: nothing is taken */
    expect_record(&ring, 30, 2);
    free(ring.memory);
}

static void replaced_reservation_is_never_received(void)
{
    fixture ring = new_ring();
    CHECK_EQUAL(reserve_error(&ring, 100), 0);
    CHECK(!pmp_ring_has_record(&ring.consumer));
    push(&ring, 10, 3);
    CHECK_EQUAL(reserve_error(&ring, LIMIT + 1), -EMSGSIZE);
    pmp_ring_commit(&ring.producer); /* publishes nothing: the reservation failed */
    pop(&ring, 10, 3);
    CHECK_EQUAL(next_error(&ring), -EAGAIN);
    free(ring.memory);
}

static void reopened_ring_continues(void)
{
    fixture ring = new_ring_at(CAPACITY - 16);
    push(&ring, 100, 1);
    push(&ring, 3, 2);
    pop(&ring, 100, 1);
    open_both(&ring);
    pop(&ring, 3, 2);
    push(&ring, 8, 3);
    pop(&ring, 8, 3);
    free(ring.memory);
}

static void revoked_record_is_skipped(void)
{
    for (unsigned revoked = 0; revoked < 8; revoked++) {
        fixture ring = new_ring_at(CAPACITY - 40);
        uint64_t positions[3];
        for (unsigned i = 0; i < 3; i++) {
            positions[i] = push(&ring, 20, i);
        }
        for (unsigned i = 0; i < 3; i++) {
            if (revoked & 1U << i) {
                CHECK_EQUAL(pmp_ring_revoke(&ring.producer, positions[i]), 0);
                CHECK_EQUAL(pmp_ring_revoke(&ring.producer, positions[i]), -EBUSY);
                CHECK(!pmp_ring_claimed(&ring.producer, positions[i]));
            }
        }
        CHECK(pmp_ring_has_record(&ring.consumer));
        for (unsigned i = 0; i < 3; i++) {
            if (!(revoked & 1U << i)) {
                pop(&ring, 20, i);
            }
        }
        CHECK_EQUAL(next_error(&ring), -EAGAIN);
        CHECK(!pmp_ring_has_record(&ring.consumer));
        CHECK(pmp_ring_has_room(&ring.producer, LIMIT));
        free(ring.memory);
    }
}

static void claimed_record_cannot_be_revoked(void)
{
    fixture ring = new_ring();
    const uint64_t position = push(&ring, 8, 1);
    const uint64_t next = push(&ring, 8, 2);
    CHECK(!pmp_ring_claimed(&ring.producer, position));
    expect_record(&ring, 8, 1);
    CHECK(pmp_ring_claimed(&ring.producer, position));
    CHECK_EQUAL(pmp_ring_revoke(&ring.producer, position), -EBUSY);
    pmp_ring_release(&ring.consumer);
    CHECK(pmp_ring_claimed(&ring.producer, position));
    CHECK_EQUAL(pmp_ring_revoke(&ring.producer, position), -EBUSY);
    CHECK_EQUAL(pmp_ring_revoke(&ring.producer, next), 0);
    CHECK_EQUAL(pmp_ring_revoke(&ring.producer, next + 16), -EBUSY); /* nothing there yet */
    CHECK_EQUAL(next_error(&ring), -EAGAIN);
    free(ring.memory);
}

/* Laps later the same place holds another record, which an old position must not touch. */
static void old_position_does_not_revoke_a_new_record(void)
{
    fixture ring = new_ring();
    const uint64_t old = push(&ring, 8, 0);
    pop(&ring, 8, 0);
    for (uint64_t i = 1; i <= CAPACITY / 16; i++) {
        push(&ring, 8, i);
    }
    CHECK(pmp_ring_claimed(&ring.producer, old));
    CHECK_EQUAL(pmp_ring_revoke(&ring.producer, old), -EBUSY);
    for (uint64_t i = 1; i <= CAPACITY / 16; i++) {
        pop(&ring, 8, i);
    }
    free(ring.memory);
}

/* The ring against a plain list, with random steps. */
static void random_steps_agree_with_a_list(void)
{
    enum { STEPS = 300000, WINDOW = 64 };
    static struct {
        uint64_t position, key;
        uint32_t size_bytes;
        bool revoked;
    } list[WINDOW];
    uint64_t first = 0, end = 0, random = 1, revoked_count = 0, full_count = 0;
    fixture ring = new_ring();

    for (int step = 0; step < STEPS; step++) {
        const uint64_t choice = next_random(&random) % 8;
        if (choice < 4 && end - first < WINDOW) {
            const uint64_t key = next_random(&random);
            const uint32_t size_bytes = (uint32_t)(key % (key % 3 == 0 ? LIMIT + 1 : 24));
            if (!pmp_ring_has_room(&ring.producer, size_bytes)) {
                CHECK_EQUAL(reserve_error(&ring, size_bytes), -EAGAIN);
                full_count++;
                continue;
            }
            list[end % WINDOW].position = push(&ring, size_bytes, key);
            list[end % WINDOW].key = key;
            list[end % WINDOW].size_bytes = size_bytes;
            list[end++ % WINDOW].revoked = false;
        } else if (choice < 7) {
            while (first < end && list[first % WINDOW].revoked) {
                first++;
            }
            if (first == end) {
                CHECK_EQUAL(next_error(&ring), -EAGAIN);
                CHECK(!pmp_ring_has_record(&ring.consumer));
            } else {
                CHECK(pmp_ring_has_record(&ring.consumer));
                pop(&ring, list[first % WINDOW].size_bytes, list[first % WINDOW].key);
                first++;
            }
        } else if (first < end) {
            const uint64_t chosen = first + next_random(&random) % (end - first);
            const int expected = list[chosen % WINDOW].revoked ? -EBUSY : 0;
            CHECK_EQUAL(pmp_ring_revoke(&ring.producer, list[chosen % WINDOW].position), expected);
            list[chosen % WINDOW].revoked = true;
            revoked_count++;
        }
    }
    CHECK(revoked_count > STEPS / 100 && full_count > STEPS / 100);
    free(ring.memory);
}

/* One corrupt word in a ring with one record of 16 bytes at position 240, the last 16 bytes
 * before the end being a wrap marker. */
static void expect_corruption(size_t offset, uint64_t value)
{
    fixture ring = new_ring_at(CAPACITY - 16);
    push(&ring, 16, 1);
    *word_at(&ring, offset) = value;
    CHECK_EQUAL(next_error(&ring), -EBADMSG);
    CHECK_EQUAL(next_error(&ring), -EBADMSG);
    free(ring.memory);
}

static uint64_t header(uint32_t size_bytes, uint32_t state)
{
    return (uint64_t)state << 32 | size_bytes;
}

static void corruption_is_detected(void)
{
    enum { MARKER_AT = RECORDS_AT + CAPACITY - 16, RECORD_AT = RECORDS_AT };

    expect_corruption(MARKER_AT, header(8, 0));
    expect_corruption(MARKER_AT, header(8, CLAIMED));
    expect_corruption(MARKER_AT, header(8, NO_STATE));
    expect_corruption(MARKER_AT, header(9, READY));
    expect_corruption(MARKER_AT, header(LIMIT, REVOKED));
    expect_corruption(MARKER_AT, header(UINT32_MAX, READY));
    expect_corruption(MARKER_AT, header(UINT32_MAX - 7, WRAP));
    expect_corruption(MARKER_AT, header(0, WRAP));
    expect_corruption(RECORD_AT, header(16, WRAP));
    expect_corruption(RECORD_AT, header(17, READY));
    expect_corruption(RECORD_AT, header(16, 0));
}

/* Every word looks like a record, so that only head itself can give it away. */
static void corrupt_head_is_detected(void)
{
    static const uint64_t wrong[] = {4, 12, CAPACITY + 8, UINT64_MAX - 7, UINT64_MAX / 2 + 1};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        fixture ring = new_ring();
        push(&ring, 0, 1);
        pop(&ring, 0, 1);
        for (size_t offset = 0; offset < CAPACITY; offset += 8) {
            *word_at(&ring, RECORDS_AT + offset) = header(0, READY);
        }
        *word_at(&ring, HEAD_AT) = 8 + wrong[i];
        CHECK(pmp_ring_has_record(&ring.consumer));
        CHECK_EQUAL(next_error(&ring), -EBADMSG);
        free(ring.memory);
    }
}

static void corrupt_tail_means_no_room(void)
{
    fixture ring = new_ring();
    for (int i = 0; i < CAPACITY / 16; i++) {
        push(&ring, 8, 1);
    }
    *word_at(&ring, TAIL_AT) = CAPACITY + 8;
    CHECK_EQUAL(reserve_error(&ring, 0), -EAGAIN);
    CHECK(!pmp_ring_has_room(&ring.producer, 0));
    CHECK_EQUAL(pmp_ring_revoke(&ring.producer, 0), -EBUSY);
    free(ring.memory);
}

int main(void)
{
    run("a new ring is empty", 60, new_ring_is_empty);
    run("init rejects invalid capacities", 60, init_rejects_capacities);
    run("open rejects memory without a ring", 60, open_rejects_memory_without_ring);
    run("records of every size come out as they went in at every offset", 60,
        every_size_at_every_offset);
    run("a record above the limit is rejected", 60, too_large_record_is_rejected);
    run("a full ring loses nothing", 60, full_ring_loses_nothing);
    run("a record stays until it is released", 60, record_stays_until_released);
    run("a replaced reservation is never received", 60, replaced_reservation_is_never_received);
    run("a reopened ring continues", 60, reopened_ring_continues);
    run("a revoked record is skipped", 60, revoked_record_is_skipped);
    run("a claimed record cannot be revoked", 60, claimed_record_cannot_be_revoked);
    run("an old position does not revoke a new record", 60,
        old_position_does_not_revoke_a_new_record);
    run("random steps agree with a list", 60, random_steps_agree_with_a_list);
    run("corrupt records are detected", 60, corruption_is_detected);
    run("a corrupt head is detected", 60, corrupt_head_is_detected);
    run("a corrupt tail means no room", 60, corrupt_tail_means_no_room);
    return 0;
}
