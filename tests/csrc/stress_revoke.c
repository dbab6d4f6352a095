/* A producer and two consumers race for the same records: one takes them back, the others claim them.
 *
 * usage: stress_revoke threads|processes RECORDS
 *
 * At the end every record was either received once by each consumer or revoked once, never both, never neither. */
#include "support.h"

#include <stdatomic.h>

#include "../../csrc/doorbell.h"
#include "../../csrc/ring.h"

enum { CAPACITY = 1024, WINDOW = 32, CONSUMERS = 2 };

/* Lies in shared memory. */
typedef struct {
    pmp_doorbell producer_bell, consumer_bells[CONSUMERS];
    uint64_t record_count;
    unsigned char *received[CONSUMERS]; /* by number: how often */
    _Atomic uint32_t next_consumer;
    unsigned char *revoked;
    _Alignas(PMP_CACHE_LINE) unsigned char ring[];
} course;

/* Bytes of record number n; the first 8 are n itself. */
static uint32_t size_of(uint64_t number)
{
    return 8 + (uint32_t)(mix(number) % 33);
}

static bool has_room_for_any(void *context)
{
    return pmp_ring_has_room(context, 40);
}

static bool has_record(void *context)
{
    return pmp_ring_has_record(context);
}

static uint64_t push(course *shared, pmp_producer *producer, pmp_spinner *spinner, uint64_t number)
{
    void *payload;
    int error;
    while ((error = pmp_ring_reserve(producer, size_of(number), &payload)) != 0) {
        CHECK_EQUAL(error, -EAGAIN);
        CHECK_EQUAL(pmp_wait(&shared->producer_bell, spinner, has_room_for_any, producer, -1), 0);
    }
    memcpy(payload, &number, 8);
    fill_bytes((unsigned char *)payload + 8, size_of(number) - 8, mix(number));
    const uint64_t position = pmp_ring_commit(producer);
    for (uint32_t i = 0; i < CONSUMERS; i++) {
        pmp_doorbell_ring(&shared->consumer_bells[i]);
    }
    return position;
}

/* Tries to take back one of the last records, mostly the very last. Old ones, which are long
 * gone, and those that were revoked before are tried, too. */
static void revoke_some(course *shared, pmp_producer *producer, const uint64_t *positions,
                        uint64_t count, uint64_t random)
{
    const uint64_t back = 1 + (random % 4 != 0 ? 0 : (random >> 8) % WINDOW);
    if (back > count) {
        return;
    }
    const uint64_t number = count - back;
    const bool was_revoked = shared->revoked[number] != 0;
    const int error = pmp_ring_revoke(producer, positions[number % WINDOW]);
    if (error == 0) {
        shared->revoked[number]++;
        return;
    }
    CHECK_EQUAL(error, -EBUSY);
    CHECK(was_revoked || pmp_ring_claimed(producer, positions[number % WINDOW]));
}

static void produce(course *shared)
{
    pmp_producer producer;
    pmp_spinner spinner;
    uint64_t positions[WINDOW], random = 0;

    pmp_spinner_init(&spinner, 20000);
    CHECK_EQUAL(pmp_producer_open(&producer, shared->ring, pmp_ring_footprint(CAPACITY, CONSUMERS)),
                0);
    for (uint64_t number = 0; number < shared->record_count; number++) {
        positions[number % WINDOW] = push(shared, &producer, &spinner, number);
        /* From no time to some 100 ns, so that the consumer is at every point of its work. */
        for (volatile uint64_t left = next_random(&random) % 64; left > 0; left--) {
        }
        if (next_random(&random) % 2 == 0) {
            revoke_some(shared, &producer, positions, number + 1, next_random(&random));
        }
    }
    push(shared, &producer, &spinner, shared->record_count); /* says that this was all */
}

static uint64_t receive(course *shared, pmp_consumer *consumer, pmp_spinner *spinner, uint32_t me)
{
    const void *payload;
    uint32_t size_bytes;
    uint64_t number;
    int error;
    while ((error = pmp_ring_next(consumer, &payload, &size_bytes)) != 0) {
        CHECK_EQUAL(error, -EAGAIN);
        pmp_doorbell_ring(&shared->producer_bell); /* revoked records may have made room */
        CHECK_EQUAL(pmp_wait(&shared->consumer_bells[me], spinner, has_record, consumer, -1), 0);
    }
    memcpy(&number, payload, 8);
    CHECK_EQUAL(size_bytes, size_of(number));
    CHECK(has_bytes((const unsigned char *)payload + 8, size_bytes - 8, mix(number)));
    pmp_ring_release(consumer);
    pmp_doorbell_ring(&shared->producer_bell);
    return number;
}

static void consume(course *shared)
{
    pmp_consumer consumer;
    pmp_spinner spinner;
    uint64_t number, next = 0;
    const uint32_t me = atomic_fetch_add(&shared->next_consumer, 1);

    pmp_spinner_init(&spinner, 20000);
    CHECK_EQUAL(
        pmp_consumer_open(&consumer, shared->ring, pmp_ring_footprint(CAPACITY, CONSUMERS), me), 0);
    while ((number = receive(shared, &consumer, &spinner, me)) != shared->record_count) {
        CHECK(number >= next && number < shared->record_count); /* in order */
        shared->received[me][number]++;
        next = number + 1;
    }
}

static void check_each_exactly_once(const course *shared)
{
    uint64_t revoked_count = 0;
    for (uint64_t number = 0; number < shared->record_count; number++) {
        for (uint32_t i = 0; i < CONSUMERS; i++) {
            CHECK_EQUAL(shared->received[i][number] + shared->revoked[number], 1);
        }
        revoked_count += shared->revoked[number];
    }
    printf("%llu revoked ", (unsigned long long)revoked_count);
    /* Both must have won often, or there was no race. */
    CHECK(revoked_count > 0 && revoked_count < shared->record_count);
}

static void *consume_in_thread(void *argument)
{
    use_core(1);
    consume(argument);
    return NULL;
}

static int consume_in_process(void *argument)
{
    use_core(1);
    consume(argument);
    return 0;
}

static uint64_t record_count;
static bool in_threads;

static void race(void)
{
    course *const shared = shared_memory(sizeof(course) + pmp_ring_footprint(CAPACITY, CONSUMERS));
    shared->record_count = record_count;
    shared->revoked = shared_memory(record_count);
    for (uint32_t i = 0; i < CONSUMERS; i++) {
        shared->received[i] = shared_memory(record_count);
    }
    CHECK_EQUAL(pmp_ring_init(shared->ring, CAPACITY, CONSUMERS), 0);
    if (in_threads) {
        const pthread_t first = start_thread(consume_in_thread, shared);
        const pthread_t second = start_thread(consume_in_thread, shared);
        produce(shared);
        join_thread(first);
        join_thread(second);
    } else {
        const pid_t first = start_child(consume_in_process, shared);
        const pid_t second = start_child(consume_in_process, shared);
        produce(shared);
        CHECK_EQUAL(wait_for_child(first), 0);
        CHECK_EQUAL(wait_for_child(second), 0);
    }
    check_each_exactly_once(shared);
}

int main(int argument_count, char **arguments)
{
    char sentence[100];
    if (argument_count != 3) {
        fprintf(stderr, "usage: stress_revoke threads|processes RECORDS\n");
        return 2;
    }
    in_threads = strcmp(arguments[1], "threads") == 0;
    record_count = strtoull(arguments[2], NULL, 10);
    use_core(0);
    snprintf(sentence, sizeof sentence, "%llu records from one to two %s, received or revoked",
             (unsigned long long)record_count, arguments[1]);
    run(sentence, 600, race);
    return 0;
}
