/* One thread on both ends of a channel: messages of all shapes, in one record and in fragments, and
 * malformed ones. stress_channel.c does it with two processes, fuzz_receiver.c with damaged
 * rings. */
#include "support.h"

#include "../../csrc/link.h"

enum { CAPACITY = 4096, LIMIT = CAPACITY / 2 - 8, HEAD = 24, IN_FRAGMENTS_SHIFT = 31 };

typedef struct {
    void *memory;
    pmp_sender sender;
    pmp_receiver receiver;
} fixture;

/* Static, as a receiver is large; every test leaves it closed. */
static fixture channel;

static void open_channel_of(uint64_t capacity)
{
    const size_t size_bytes = pmp_ring_footprint(capacity, 1);
    memset(&channel, 0, sizeof channel);
    channel.memory = guarded_memory(size_bytes);
    CHECK_EQUAL(pmp_ring_init(channel.memory, capacity, 1), 0);
    CHECK_EQUAL(pmp_producer_open(&channel.sender.producer, channel.memory, size_bytes), 0);
    CHECK_EQUAL(pmp_consumer_open(&channel.receiver.consumer, channel.memory, size_bytes, 0), 0);
}

static void open_channel(void)
{
    open_channel_of(CAPACITY);
}

static void close_channel(void)
{
    pmp_receiver_close(&channel.receiver);
    pmp_receiver_close(&channel.receiver); /* harmless */
    free(channel.memory);
}

/* Parts of these sizes, whose bytes follow from key; freed by free_parts. */
static void make_parts(pmp_part *parts, uint32_t count, const uint64_t *sizes, uint64_t key)
{
    for (uint32_t i = 0; i < count; i++) {
        parts[i].size_bytes = sizes[i];
        parts[i].data = NULL;
        if (sizes[i] != 0) {
            parts[i].data = malloc(sizes[i]);
            CHECK(parts[i].data != NULL);
            fill_bytes(parts[i].data, sizes[i], key + i);
        }
    }
}

static void free_parts(pmp_part *parts, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        free(parts[i].data);
    }
}

static void expect_message(const pmp_head *head, const pmp_part *parts)
{
    const pmp_receiver *const receiver = &channel.receiver;
    CHECK(receiver->complete && !receiver->busy);
    CHECK_EQUAL(receiver->head.kind, head->kind);
    CHECK_EQUAL(receiver->head.part_count, head->part_count);
    CHECK_EQUAL(receiver->head.id, head->id);
    CHECK_EQUAL(receiver->head.tag, head->tag);
    for (uint32_t i = 0; i < head->part_count; i++) {
        const pmp_part *const part = &receiver->parts[i];
        CHECK_EQUAL(part->size_bytes, parts[i].size_bytes);
        if (part->size_bytes != 0) {
            CHECK_EQUAL((uintptr_t)part->data % 8, 0);
            CHECK(memcmp(part->data, parts[i].data, part->size_bytes) == 0);
        }
    }
}

/* Sends and receives by turns until the message is there. Returns how often the ring was full. */
static unsigned pass(const pmp_head *head, const pmp_part *parts)
{
    unsigned full_count = 0;
    int error;
    while ((error = pmp_send(&channel.sender, head, parts, NULL)) != 0) {
        CHECK_EQUAL(error, -EAGAIN);
        CHECK(channel.sender.busy);
        CHECK(!pmp_sender_has_room(&channel.sender));
        CHECK_EQUAL(pmp_receive(&channel.receiver), -EAGAIN);
        CHECK(channel.receiver.busy);
        CHECK(pmp_sender_has_room(&channel.sender));
        full_count++;
    }
    CHECK(!channel.sender.busy);
    CHECK_EQUAL(pmp_receive(&channel.receiver), 0);
    CHECK_EQUAL(pmp_receive(&channel.receiver), 0); /* the same until it is done */
    expect_message(head, parts);
    return full_count;
}

static void pass_sizes(uint32_t count, const uint64_t *sizes, bool expect_fragments)
{
    static uint64_t id;
    static pmp_part parts[PMP_PARTS_MAX];
    const pmp_head head = {PMP_CALL + (uint32_t)(id % 3), count, id, mix(id)};

    id++;
    make_parts(parts, count, sizes, id);
    CHECK_EQUAL(pmp_fits_record(&channel.sender, count, parts), !expect_fragments);
    pass(&head, parts);
    CHECK_EQUAL(channel.receiver.owned, expect_fragments);
    pmp_receive_done(&channel.receiver);
    pmp_receive_done(&channel.receiver); /* harmless */
    CHECK_EQUAL(pmp_receive(&channel.receiver), -EAGAIN);
    free_parts(parts, count);
}

static void small_messages_are_one_record(void)
{
    static const uint64_t shapes[][4] = {{0, 0, 0, 0}, {1, 0, 0, 0},   {7, 8, 9, 0},
                                         {0, 0, 0, 5}, {0, 100, 0, 3}, {500, 400, 300, 200}};
    open_channel();
    for (int lap = 0; lap < 50; lap++) {
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            for (uint32_t count = 1; count <= 4; count++) {
                pass_sizes(count, shapes[i], false);
            }
        }
    }
    close_channel();
}

static void limit_is_exact(void)
{
    const uint64_t largest = LIMIT - HEAD - 8, one_more = largest + 1, shared[] = {8, largest - 16};
    const uint64_t shared_one_more[] = {9, largest - 16};
    open_channel();
    for (int lap = 0; lap < 5; lap++) {
        pass_sizes(1, &largest, false);
        pass_sizes(1, &one_more, true);
        pass_sizes(2, shared, false);
        pass_sizes(2, shared_one_more, true);
    }
    close_channel();
}

static void pass_result(uint64_t size_bytes, bool expect_fragments)
{
    pmp_part part;
    const pmp_head head = {PMP_RESULT, 1, 1, 2};

    make_parts(&part, 1, &size_bytes, size_bytes);
    pass(&head, &part);
    CHECK_EQUAL(channel.receiver.owned, expect_fragments);
    pmp_receive_done(&channel.receiver);
    free_parts(&part, 1);
}

static void results_are_fragmented_sooner(void)
{
    open_channel();
    for (int lap = 0; lap < 5; lap++) {
        pass_result(CAPACITY / 8 - HEAD - 8, false);
        pass_result(CAPACITY / 8 - HEAD - 7, true);
        pass_result(LIMIT, true);
    }
    close_channel();
}

static void fragments_of_a_large_ring_are_small(void)
{
    open_channel_of(1 << 20);
    pass_result(65536 - HEAD - 8, false);
    pass_result(65536 - HEAD - 7, true);
    pass_sizes(1, (const uint64_t[]){(1 << 19) - HEAD - 16}, false); /* a call */
    pass_sizes(2, (const uint64_t[]){5 << 20, 65537}, true);
    close_channel();
}

static void large_messages_are_fragmented(void)
{
    static const uint64_t shapes[][5] = {
        {10 * CAPACITY, 0, 0, 0, 0},
        {0, 10 * CAPACITY + 3, 0, 0, 0},
        {0, 0, 0, 0, 3 * CAPACITY + 1},
        {1, 0, 5 * CAPACITY, 0, 1},
        {CAPACITY / 4, CAPACITY / 4, CAPACITY / 4 + 1, CAPACITY / 4 - 1, CAPACITY / 4},
        {1000003, 7, 0, 1000000, 12345}};
    open_channel();
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        pass_sizes(5, shapes[i], true);
        pass_sizes(1, (const uint64_t[]){13}, false);
    }
    close_channel();
}

static void pass_some(int count, uint64_t size_bytes)
{
    for (int i = 0; i < count; i++) {
        pass_sizes(1, &size_bytes, true);
    }
}

static void messages_larger_than_the_ring_are_measured(void)
{
    const uint64_t *const best = channel.sender.way.best;
    open_channel();
    pass_some(8, CAPACITY);
    CHECK(best[false] == 0 && best[true] == 0);
    pass_some(1, 2 * CAPACITY);
    CHECK(best[false] != 0 && best[true] == 0);
    pass_some(7, 2 * CAPACITY);
    CHECK(best[true] != 0); /* the other way */
    close_channel();
}

static void random_messages_come_out_as_they_went_in(void)
{
    uint64_t random = 7, sizes[8];
    open_channel();
    for (int i = 0; i < 3000; i++) {
        const uint32_t count = 1 + (uint32_t)(next_random(&random) % 8);
        uint64_t total = HEAD + 8 * count;
        for (uint32_t part = 0; part < count; part++) {
            const uint64_t most = next_random(&random) % 16 == 0 ? 5 * CAPACITY : 200;
            sizes[part] = next_random(&random) % 4 == 0 ? 0 : next_random(&random) % most;
            total += (sizes[part] + 7) / 8 * 8;
        }
        pass_sizes(count, sizes, total > LIMIT);
    }
    close_channel();
}

static void largest_number_of_parts_passes(void)
{
    static uint64_t sizes[PMP_PARTS_MAX];
    open_channel_of(PMP_LINK_CAPACITY_MIN);
    pass_sizes(PMP_PARTS_MAX, sizes, false);
    for (size_t i = 0; i < PMP_PARTS_MAX; i++) {
        sizes[i] = i;
    }
    pass_sizes(PMP_PARTS_MAX, sizes, true);
    close_channel();
}

static int send_error(uint32_t kind, uint32_t part_count)
{
    static pmp_part parts[PMP_PARTS_MAX + 1];
    const pmp_head head = {kind, part_count, 0, 0};
    uint64_t position = 0;
    const int error = pmp_send(&channel.sender, &head, parts, &position);
    CHECK_EQUAL(position, UINT64_MAX);
    return error;
}

static void invalid_messages_are_not_sent(void)
{
    open_channel();
    CHECK_EQUAL(send_error(PMP_CALL, 0), -EINVAL);
    CHECK_EQUAL(send_error(PMP_CALL, PMP_PARTS_MAX + 1), -EINVAL);
    CHECK_EQUAL(send_error(0, 1), -EINVAL);
    CHECK_EQUAL(send_error(PMP_RECALLED + 1, 1), -EINVAL);
    CHECK_EQUAL(send_error(PMP_CALL | 1U << IN_FRAGMENTS_SHIFT, 1), -EINVAL);
    CHECK_EQUAL(send_error(PMP_CALL, PMP_PARTS_MAX), -EMSGSIZE); /* the ring is too small */
    CHECK(!channel.sender.busy);
    CHECK_EQUAL(pmp_receive(&channel.receiver), -EAGAIN);
    close_channel();
}

static void kept_parts_belong_to_caller(void)
{
    const uint64_t sizes[] = {3 * CAPACITY, 0, 2 * CAPACITY};
    pmp_part parts[3];
    const pmp_head head = {PMP_RESULT, 3, 1, 2};

    open_channel();
    make_parts(parts, 3, sizes, 4);
    pass(&head, parts);
    void *const kept = channel.receiver.parts[2].data;
    channel.receiver.parts[2].data = NULL;
    pmp_receive_done(&channel.receiver);
    CHECK(memcmp(kept, parts[2].data, sizes[2]) == 0);
    pmp_buffer_free(kept);
    free_parts(parts, 3);
    close_channel();
}

static pmp_part some_bytes(uint64_t size_bytes)
{
    static unsigned char bytes[8 * CAPACITY];
    CHECK(size_bytes <= sizeof bytes);
    return (pmp_part){bytes, size_bytes};
}

static void full_ring_takes_a_smaller_message(void)
{
    const pmp_head head = {PMP_CALL, 1, 1, 0};
    const pmp_part large = some_bytes(LIMIT - HEAD - 8), small = some_bytes(8);
    uint64_t position;

    open_channel();
    CHECK_EQUAL(pmp_send(&channel.sender, &head, &large, &position), 0);
    CHECK_EQUAL(position, 0);
    CHECK_EQUAL(pmp_send(&channel.sender, &head, &small, NULL), 0);
    CHECK_EQUAL(pmp_send(&channel.sender, &head, &large, &position), -EAGAIN);
    CHECK(!channel.sender.busy);
    /* There is room, but not for what was asked for: waiting must not return at once. */
    CHECK(!pmp_sender_has_room(&channel.sender));
    CHECK_EQUAL(pmp_send(&channel.sender, &head, &small, NULL), 0);
    CHECK(pmp_sender_has_room(&channel.sender));
    close_channel();
}

static void revoked_message_is_not_received(void)
{
    const pmp_part part = some_bytes(100);
    uint64_t positions[3];

    open_channel();
    for (uint64_t id = 0; id < 3; id++) {
        const pmp_head head = {PMP_CALL, 1, id, 0};
        CHECK_EQUAL(pmp_send(&channel.sender, &head, &part, &positions[id]), 0);
    }
    CHECK_EQUAL(pmp_ring_revoke(&channel.sender.producer, positions[1]), 0);
    CHECK_EQUAL(pmp_receive(&channel.receiver), 0);
    CHECK_EQUAL(channel.receiver.head.id, 0);
    CHECK_EQUAL(pmp_ring_revoke(&channel.sender.producer, positions[0]), -EBUSY);
    pmp_receive_done(&channel.receiver);
    CHECK_EQUAL(pmp_receive(&channel.receiver), 0);
    CHECK_EQUAL(channel.receiver.head.id, 2);
    pmp_receive_done(&channel.receiver);
    CHECK_EQUAL(pmp_receive(&channel.receiver), -EAGAIN);
    close_channel();
}

static void closing_frees_partial_message(void)
{
    const pmp_head head = {PMP_CALL, 2, 1, 0};
    const pmp_part parts[] = {some_bytes(2 * CAPACITY), some_bytes(3 * CAPACITY)};

    open_channel();
    CHECK_EQUAL(pmp_send(&channel.sender, &head, parts, NULL), -EAGAIN);
    CHECK_EQUAL(pmp_receive(&channel.receiver), -EAGAIN);
    CHECK(channel.receiver.busy && channel.receiver.parts[0].data != NULL);
    close_channel(); /* the leak checker detects whether it did */
}

/* ---- malformed messages ---- */

typedef struct {
    uint32_t kind, part_count;
    uint64_t id, tag, sizes[4];
} raw_head;

static void push_raw(const void *bytes, uint32_t size_bytes)
{
    void *payload;
    CHECK_EQUAL(pmp_ring_reserve(&channel.sender.producer, size_bytes, &payload), 0);
    memcpy(payload, bytes, size_bytes);
    pmp_ring_commit(&channel.sender.producer);
}

static void expect_rejection(raw_head head, uint32_t record_bytes)
{
    open_channel();
    push_raw(&head, record_bytes);
    CHECK_EQUAL(pmp_receive(&channel.receiver), -EBADMSG);
    CHECK(!channel.receiver.complete);
    CHECK_EQUAL(pmp_receive(&channel.receiver), -EBADMSG);
    close_channel();
}

static void malformed_heads_are_rejected(void)
{
    const uint32_t fragments = 1U << IN_FRAGMENTS_SHIFT;

    expect_rejection((raw_head){.kind = PMP_CALL}, 0);
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = 1}, HEAD - 1);
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = 0}, HEAD);
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = 1}, HEAD);
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = 2}, HEAD + 8);
    expect_rejection((raw_head){.kind = 0, .part_count = 1}, HEAD + 8);
    expect_rejection((raw_head){.kind = PMP_RECALLED + 1, .part_count = 1}, HEAD + 8);
    expect_rejection((raw_head){.kind = PMP_CALL | 1U << 30, .part_count = 1}, HEAD + 8);
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = PMP_PARTS_MAX + 1}, HEAD + 32);
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = UINT32_MAX}, HEAD + 32);
    /* parts longer or shorter than their record */
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = 1, .sizes = {9}}, HEAD + 16);
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = 1, .sizes = {0}}, HEAD + 16);
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = 1, .sizes = {UINT64_MAX}},
                     HEAD + 16);
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = 2, .sizes = {8, UINT64_MAX - 7}},
                     HEAD + 24);
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = 2, .sizes = {UINT64_MAX - 7, 8}},
                     HEAD + 24);
    /* sizes that are 0 when rounded up */
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = 1, .sizes = {UINT64_MAX}},
                     HEAD + 8);
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = 2, .sizes = {8, UINT64_MAX - 6}},
                     HEAD + 24);
    /* the last part may not end in a record of odd length */
    expect_rejection((raw_head){.kind = PMP_CALL, .part_count = 1, .sizes = {5}}, HEAD + 13);
    /* fragments come in records of their own */
    expect_rejection((raw_head){.kind = PMP_CALL | fragments, .part_count = 1, .sizes = {8}},
                     HEAD + 16);
    expect_rejection((raw_head){.kind = PMP_END + 9 + fragments, .part_count = 1}, HEAD + 8);
}

/* In a record that has room for their sizes. */
static void one_part_too_many_is_rejected(void)
{
    static struct {
        pmp_head head;
        uint64_t sizes[PMP_PARTS_MAX + 1];
    } message = {.head = {.kind = PMP_CALL, .part_count = PMP_PARTS_MAX + 1}};

    open_channel_of(PMP_LINK_CAPACITY_MIN);
    push_raw(&message, sizeof message);
    CHECK_EQUAL(pmp_receive(&channel.receiver), -EBADMSG);
    message.head.kind |= 1U << IN_FRAGMENTS_SHIFT;
    close_channel();
    open_channel_of(PMP_LINK_CAPACITY_MIN);
    push_raw(&message, sizeof message);
    CHECK_EQUAL(pmp_receive(&channel.receiver), -EBADMSG);
    close_channel();
}

static int receive_raw_fragments(uint64_t part_bytes, uint32_t fragment_bytes)
{
    static const unsigned char fragment[CAPACITY / 4];
    const raw_head head = {
        .kind = PMP_CALL | 1U << IN_FRAGMENTS_SHIFT, .part_count = 2, .sizes = {part_bytes, 1}};

    open_channel();
    push_raw(&head, HEAD + 16);
    CHECK_EQUAL(pmp_receive(&channel.receiver), -EAGAIN);
    push_raw(fragment, fragment_bytes);
    const int error = pmp_receive(&channel.receiver);
    close_channel();
    return error;
}

static void malformed_fragments_are_rejected(void)
{
    CHECK_EQUAL(receive_raw_fragments(100, 100), -EAGAIN);
    CHECK_EQUAL(receive_raw_fragments(100, 99), -EAGAIN);
    CHECK_EQUAL(receive_raw_fragments(100, 101), -EBADMSG);
    CHECK_EQUAL(receive_raw_fragments(100, 0), -EBADMSG);
    CHECK_EQUAL(receive_raw_fragments(0, 2), -EBADMSG); /* for the second part, of one byte */
}

static void impossible_sizes_are_rejected(void)
{
    CHECK_EQUAL(receive_raw_fragments(UINT64_MAX >> 1, 8), -EBADMSG);
    CHECK_EQUAL(receive_raw_fragments(UINT64_C(1) << 62, 8), -EBADMSG);
}

/* The largest possible part is larger than any memory. Its fragments, and its second part, are dropped. */
static void message_without_memory_is_lost(void)
{
    static const unsigned char fragment[CAPACITY / 4];
    const raw_head head = {.kind = PMP_CALL | 1U << IN_FRAGMENTS_SHIFT,
                           .part_count = 2,
                           .sizes = {8, UINT64_C(1) << 48}};

    open_channel();
    push_raw(&head, HEAD + 16);
    push_raw(fragment, 8);
    CHECK_EQUAL(pmp_receive(&channel.receiver), -EAGAIN);
    CHECK(channel.receiver.parts[0].data != NULL);
    for (int i = 0; i < 100; i++) {
        push_raw(fragment, CAPACITY / 8);
        CHECK_EQUAL(pmp_receive(&channel.receiver), -EAGAIN);
        CHECK(channel.receiver.lost && channel.receiver.parts[0].data == NULL);
    }
    close_channel();
}

/* ---- link ---- */

static pmp_receiver master_receiver, worker_receiver;

static void send_and_expect(pmp_sender *sender, pmp_receiver *receiver, uint64_t id)
{
    const pmp_head head = {PMP_CALL, 1, id, 0};
    const pmp_part part = some_bytes(33);
    CHECK_EQUAL(pmp_send(sender, &head, &part, NULL), 0);
    CHECK_EQUAL(pmp_receive(receiver), 0);
    CHECK_EQUAL(receiver->head.id, id);
    pmp_receive_done(receiver);
    CHECK_EQUAL(pmp_receive(receiver), -EAGAIN);
}

static void link_joins_master_and_worker(void)
{
    const uint64_t capacity = PMP_LINK_CAPACITY_MIN;
    const size_t size_bytes = pmp_link_footprint(capacity, 1);
    void *const memory = guarded_memory(size_bytes);
    pmp_sender master_sender, worker_sender;
    pmp_doorbell *seen_by_master, *seen_by_worker;
    pmp_ranks ranks;

    CHECK_EQUAL(pmp_link_init(memory, size_bytes, capacity, 1), 0);
    CHECK_EQUAL(pmp_link_open_master(memory, size_bytes, 1, 4711, &master_sender, &master_receiver,
                                     &seen_by_master),
                0);
    CHECK_EQUAL(pmp_link_open_worker(memory, size_bytes, 0, &worker_receiver, &worker_sender,
                                     &seen_by_worker, &ranks),
                0);
    CHECK_EQUAL(pmp_link_slot(memory), 4711);
    CHECK(seen_by_master == seen_by_worker);
    CHECK_EQUAL((uintptr_t)seen_by_master % PMP_CACHE_LINE, 0);
    send_and_expect(&master_sender, &worker_receiver, 1);
    send_and_expect(&worker_sender, &master_receiver, 2);
    pmp_doorbell_arm(seen_by_worker);
    pmp_doorbell_ring(seen_by_master);
    CHECK_EQUAL(pmp_doorbell_sleep(seen_by_worker, -1), 0);
    send_and_expect(&master_sender, &worker_receiver, 3);
    free(memory);
}

static void expect_no_link(void *memory, size_t size_bytes)
{
    pmp_sender sender;
    pmp_doorbell *bell;
    pmp_ranks ranks;
    CHECK_EQUAL(pmp_link_open_master(memory, size_bytes, 1, 0, &sender, &master_receiver, &bell),
                -EINVAL);
    CHECK_EQUAL(
        pmp_link_open_worker(memory, size_bytes, 0, &worker_receiver, &sender, &bell, &ranks),
        -EINVAL);
}

static void memory_without_link_is_rejected(void)
{
    const uint64_t capacity = PMP_LINK_CAPACITY_MIN;
    const size_t size_bytes = pmp_link_footprint(capacity, 1);
    uint64_t *const memory = guarded_memory(size_bytes);
    /* magic, version, capacity; magic and capacity of the first ring */
    enum { RING = 3 * PMP_CACHE_LINE / 8 };
    static const size_t words[] = {0, 1, 2, RING, RING + 2};

    CHECK_EQUAL(pmp_link_init(memory, size_bytes, capacity / 2, 1), -EINVAL);
    CHECK_EQUAL(pmp_link_init(memory, size_bytes, capacity + 8, 1), -EINVAL);
    CHECK_EQUAL(pmp_link_init(memory, size_bytes, UINT64_MAX, 1), -EINVAL);
    CHECK_EQUAL(pmp_link_init(memory, size_bytes - 1, capacity, 1), -EINVAL);
    expect_no_link(memory, size_bytes);
    CHECK_EQUAL(pmp_link_init(memory, size_bytes, capacity, 1), 0);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        const uint64_t right = memory[words[i]];
        static const uint64_t wrong[] = {0, 2 * PMP_LINK_CAPACITY_MIN, UINT64_MAX};
        for (size_t value = 0; value < sizeof wrong / sizeof wrong[0]; value++) {
            memory[words[i]] = wrong[value];
            expect_no_link(memory, size_bytes);
        }
        memory[words[i]] = right;
    }
    expect_no_link(memory, size_bytes - 1);
    expect_no_link(memory, 0);
    free(memory);
}

int main(void)
{
    run("small messages are one record", 60, small_messages_are_one_record);
    run("the limit between one record and fragments is exact", 60, limit_is_exact);
    run("results are fragmented sooner", 60, results_are_fragmented_sooner);
    run("fragments of a large ring are small", 60, fragments_of_a_large_ring_are_small);
    run("messages larger than the ring are fragmented", 60, large_messages_are_fragmented);
    run("messages larger than the ring are measured", 60,
        messages_larger_than_the_ring_are_measured);
    run("random messages come out as they went in", 60, random_messages_come_out_as_they_went_in);
    run("the largest number of parts passes", 60, largest_number_of_parts_passes);
    run("invalid messages are not sent", 60, invalid_messages_are_not_sent);
    run("kept parts belong to the caller", 60, kept_parts_belong_to_caller);
    run("a ring too full for one message takes a smaller one", 60,
        full_ring_takes_a_smaller_message);
    run("a revoked message is not received", 60, revoked_message_is_not_received);
    run("closing frees a partial message", 60, closing_frees_partial_message);
    run("malformed heads are rejected", 60, malformed_heads_are_rejected);
    run("one part too many is rejected", 60, one_part_too_many_is_rejected);
    run("malformed fragments are rejected", 60, malformed_fragments_are_rejected);
    run("impossible sizes are rejected", 60, impossible_sizes_are_rejected);
    run("message without memory is lost", 60, message_without_memory_is_lost);
    run("a link joins master and worker", 60, link_joins_master_and_worker);
    run("memory without a link is rejected", 60, memory_without_link_is_rejected);
    return 0;
}
