/* A producer and one or several consumers, threads or processes, exchange as many records as they can.
 *
 * usage: stress_ring threads|processes RECORDS
 *
 * The size and the bytes of record number n follow from n, so the consumer knows what must
 * come. The rings are so small that they are full or empty all the time. */
#include "support.h"

#include <stdatomic.h>

#include "../../csrc/doorbell.h"
#include "../../csrc/ring.h"

typedef struct {
    uint64_t capacity, record_count;
    int64_t spin_ns;
    uint32_t consumer_count;
} load;

enum { CONSUMERS_MAX = 4 };

/* Lies in shared memory. */
typedef struct {
    pmp_doorbell producer_bell, consumer_bells[CONSUMERS_MAX];
    load load;
    _Atomic uint32_t next_consumer;
    _Alignas(PMP_CACHE_LINE) unsigned char ring[];
} course;

/* Mostly small, 1 of 32 up to the largest that fits. */
static uint32_t size_of(uint64_t number, uint64_t capacity)
{
    const uint64_t random = mix(number);
    const uint64_t most = random % 32 == 0 ? pmp_ring_record_limit(capacity) : 64;
    return (uint32_t)((random >> 8) % (most + 1));
}

static size_t footprint(const load *of)
{
    return pmp_ring_footprint(of->capacity, of->consumer_count);
}

typedef struct {
    pmp_producer producer;
    uint32_t wanted;
} waiting_producer;

static bool has_room(void *context)
{
    const waiting_producer *const waiting = context;
    return pmp_ring_has_room(&waiting->producer, waiting->wanted);
}

static bool has_record(void *context)
{
    return pmp_ring_has_record(context);
}

static void produce(course *shared)
{
    waiting_producer waiting;
    pmp_spinner spinner;
    const uint64_t capacity = shared->load.capacity;

    pmp_spinner_init(&spinner, shared->load.spin_ns);
    CHECK_EQUAL(pmp_producer_open(&waiting.producer, shared->ring, footprint(&shared->load)), 0);
    for (uint64_t number = 0; number < shared->load.record_count; number++) {
        void *payload;
        int error;
        waiting.wanted = size_of(number, capacity);
        while ((error = pmp_ring_reserve(&waiting.producer, waiting.wanted, &payload)) != 0) {
            CHECK_EQUAL(error, -EAGAIN);
            CHECK_EQUAL(pmp_wait(&shared->producer_bell, &spinner, has_room, &waiting, -1), 0);
        }
        fill_bytes(payload, waiting.wanted, mix(~number));
        pmp_ring_commit(&waiting.producer);
        for (uint32_t i = 0; i < shared->load.consumer_count; i++) {
            pmp_doorbell_ring(&shared->consumer_bells[i]);
        }
    }
}

static void consume(course *shared)
{
    pmp_consumer consumer;
    pmp_spinner spinner;
    const uint64_t capacity = shared->load.capacity;
    const uint32_t me = atomic_fetch_add(&shared->next_consumer, 1);

    pmp_spinner_init(&spinner, shared->load.spin_ns);
    CHECK_EQUAL(pmp_consumer_open(&consumer, shared->ring, footprint(&shared->load), me), 0);
    for (uint64_t number = 0; number < shared->load.record_count; number++) {
        const void *payload;
        uint32_t size_bytes;
        int error;
        while ((error = pmp_ring_next(&consumer, &payload, &size_bytes)) != 0) {
            CHECK_EQUAL(error, -EAGAIN);
            CHECK_EQUAL(pmp_wait(&shared->consumer_bells[me], &spinner, has_record, &consumer, -1),
                        0);
        }
        CHECK_EQUAL(size_bytes, size_of(number, capacity));
        CHECK(has_bytes(payload, size_bytes, mix(~number)));
        pmp_ring_release(&consumer);
        pmp_doorbell_ring(&shared->producer_bell);
    }
    CHECK(!pmp_ring_has_record(&consumer));
}

static void *consume_in_thread(void *argument)
{
    consume(argument);
    return NULL;
}

static int consume_in_process(void *argument)
{
    consume(argument);
    return 0;
}

static load chosen;
static bool in_threads;

static void stress(void)
{
    course *const shared = shared_memory(sizeof(course) + footprint(&chosen));
    pthread_t threads[CONSUMERS_MAX];
    pid_t children[CONSUMERS_MAX];
    shared->load = chosen;
    CHECK_EQUAL(pmp_ring_init(shared->ring, chosen.capacity, chosen.consumer_count), 0);
    for (uint32_t i = 0; i < chosen.consumer_count; i++) {
        if (in_threads) {
            threads[i] = start_thread(consume_in_thread, shared);
        } else {
            children[i] = start_child(consume_in_process, shared);
        }
    }
    produce(shared);
    for (uint32_t i = 0; i < chosen.consumer_count; i++) {
        if (in_threads) {
            join_thread(threads[i]);
        } else {
            CHECK_EQUAL(wait_for_child(children[i]), 0);
        }
    }
}

int main(int argument_count, char **arguments)
{
    if (argument_count != 3) {
        fprintf(stderr, "usage: stress_ring threads|processes RECORDS\n");
        return 2;
    }
    in_threads = strcmp(arguments[1], "threads") == 0;
    const uint64_t record_count = strtoull(arguments[2], NULL, 10);
    const struct {
        const char *name;
        load load;
    } loads[] = {
        {"to one through a large ring", {65536, record_count / 2, 50000, 1}},
        {"to one through a ring of a page",
         {4096, record_count / 2 - record_count / 100, 50000, 1}},
        {"to one through the smallest ring, always asleep", {256, record_count / 100, 0, 1}},
        {"to two through a ring of a page", {4096, record_count / 8, 50000, 2}},
        {"to four through a large ring", {65536, record_count / 8, 50000, 4}},
        {"to three through the smallest ring, always asleep", {256, record_count / 200, 0, 3}},
    };
    for (size_t i = 0; i < sizeof loads / sizeof loads[0]; i++) {
        char sentence[100];
        chosen = loads[i].load;
        snprintf(sentence, sizeof sentence, "%llu records between %s, %s",
                 (unsigned long long)chosen.record_count, arguments[1], loads[i].name);
        run(sentence, 600, stress);
    }
    return 0;
}
