/* Feeds corrupt rings to pmp_receive, which must only access bytes of the ring and its own memory.
 *
 * usage: fuzz_receiver [SECONDS] [SEED]
 *
 * An input is head and tail (4 bytes each) and the bytes of the ring. It begins as what a sender
 * wrote; then a few random things are done to it. For the last third of the time a second thread
 * writes into the ring while it is being read, as a corrupt worker could.
 *
 * For libFuzzer: clang -DPMP_LIBFUZZER -fsanitize=fuzzer,address,undefined fuzz_receiver.c ... */
#include "support.h"

#include "../../csrc/doorbell.h"
#include "../../csrc/link.h"

#include <stdatomic.h>

enum { CAPACITY = 1024, PREFIX = 8, INPUT = PREFIX + CAPACITY };
enum { HEAD_AT = PMP_CACHE_LINE, TAIL_AT = 2 * PMP_CACHE_LINE, RECORDS_AT = 3 * PMP_CACHE_LINE };

/* Counts how far the inputs get, to check that the fuzzing is deep enough. */
static struct {
    uint64_t inputs, refused, nonsense, no_memory, records, fragments;
} count;

/* A ring that ends where its memory ends, so that the sanitizer sees a step too far. */
static unsigned char *new_ring(void)
{
    unsigned char *const memory = guarded_memory(pmp_ring_footprint(CAPACITY, 1));
    CHECK_EQUAL(pmp_ring_init(memory, CAPACITY, 1), 0);
    return memory;
}

static void lay_out(unsigned char *memory, const uint8_t *input, size_t size_bytes)
{
    uint32_t head = 0, tail = 0;
    if (size_bytes >= PREFIX) {
        memcpy(&head, input, 4);
        memcpy(&tail, input + 4, 4);
        input += PREFIX;
        size_bytes -= PREFIX;
    }
    const uint64_t wide_head = head, wide_tail = tail;
    memcpy(memory + HEAD_AT, &wide_head, 8);
    memcpy(memory + TAIL_AT, &wide_tail, 8);
    memcpy(memory + RECORDS_AT, input, size_bytes < CAPACITY ? size_bytes : CAPACITY);
}

/* Reads every byte of a message: none may lie where it must not. */
static void touch(const pmp_receiver *receiver)
{
    static volatile unsigned char sink;
    for (uint32_t i = 0; i < receiver->head.part_count && !receiver->lost; i++) {
        const unsigned char *const data = receiver->parts[i].data;
        for (uint64_t at = 0; at < pmp_sent_bytes(&receiver->parts[i]); at++) {
            sink = data[at];
        }
    }
    (void)sink;
}

/* Keeps some of the parts that may be kept. */
static void finish(pmp_receiver *receiver, uint64_t random)
{
    if (receiver->owned && random % 2 == 0) {
        pmp_buffer_free(receiver->parts[0].data);
        receiver->parts[0].data = NULL;
    }
    pmp_receive_done(receiver);
}

/* A sound ring holds at most CAPACITY / 8 records; a ring that changes meanwhile, any number. */
static void receive_all(pmp_receiver *receiver, int limit)
{
    int error = 0;
    for (int i = 0; i < limit && error == 0; i++) {
        error = pmp_receive(receiver);
        if (error == 0) {
            count.fragments += receiver->owned;
            count.records += !receiver->owned;
            touch(receiver);
            finish(receiver, (uint64_t)i);
        }
    }
    CHECK(error == 0 || error == -EAGAIN || error == -EBADMSG);
    count.nonsense += error == -EBADMSG;
    count.no_memory += receiver->lost;
    pmp_receiver_close(receiver);
}

static bool open_receiver(pmp_receiver *receiver, unsigned char *memory)
{
    memset(receiver, 0, sizeof *receiver);
    receiver->takes_stored = count.inputs % 2 == 0;
    return pmp_consumer_open(&receiver->consumer, memory, pmp_ring_footprint(CAPACITY, 1), 0) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size_bytes);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size_bytes)
{
    static pmp_receiver receiver;
    unsigned char *const memory = new_ring();
    lay_out(memory, input, size_bytes);
    count.inputs++;
    if (open_receiver(&receiver, memory)) {
        receive_all(&receiver, 2 * CAPACITY / 8);
    } else {
        count.refused++;
    }
    free(memory);
    return 0;
}

#ifndef PMP_LIBFUZZER

/* Linked with --wrap=pmp_buffer_new: memory is scarce, and what is had of it is guarded by the
 * sanitizer. */
void *__real_pmp_buffer_new(pmp_buffer_pool *blocks, size_t size_bytes);
void *__wrap_pmp_buffer_new(pmp_buffer_pool *blocks, size_t size_bytes);
void *__wrap_pmp_buffer_new(pmp_buffer_pool *blocks, size_t size_bytes)
{
    return size_bytes < PMP_BUFFER_LARGE ? __real_pmp_buffer_new(blocks, size_bytes) : NULL;
}

/* ---- making inputs ---- */

static void push_message(pmp_sender *sender, uint64_t *random)
{
    static unsigned char bytes[CAPACITY];
    pmp_part parts[4];
    const pmp_head head = {1 + (uint32_t)(next_random(random) % 5),
                           1 + (uint32_t)(next_random(random) % 4), 1, 2};
    uint64_t position;
    for (uint32_t i = 0; i < head.part_count; i++) {
        parts[i].data = bytes;
        parts[i].size_bytes = next_random(random) % (next_random(random) % 8 == 0 ? 900 : 60);
        if (next_random(random) % 16 == 0) {
            parts[i].size_bytes |= PMP_STORED;
        }
    }
    const int error = pmp_send(sender, &head, parts, &position);
    CHECK(error == 0 || error == -EAGAIN);
    if (error == 0 && position != UINT64_MAX && next_random(random) % 8 == 0) {
        CHECK_EQUAL(pmp_ring_revoke(&sender->producer, position), 0);
    }
}

/* What a sender leaves in a ring that was used before. */
static void make_sound_input(uint8_t *input, uint64_t *random)
{
    unsigned char *const memory = new_ring();
    pmp_sender sender = {.busy = false};
    const uint64_t start = next_random(random) % CAPACITY / 8 * 8;

    memcpy(memory + HEAD_AT, &start, 8);
    memcpy(memory + TAIL_AT, &start, 8);
    CHECK_EQUAL(pmp_producer_open(&sender.producer, memory, pmp_ring_footprint(CAPACITY, 1)), 0);
    for (uint64_t messages = 1 + next_random(random) % 8; messages > 0; messages--) {
        if (!sender.busy) {
            push_message(&sender, random);
        }
    }
    memcpy(input, memory + HEAD_AT, 4);
    memcpy(input + 4, memory + TAIL_AT, 4);
    memcpy(input + PREFIX, memory + RECORDS_AT, CAPACITY);
    free(memory);
}

static const uint64_t telling[] = {0,
                                   1,
                                   2,
                                   3,
                                   4,
                                   7,
                                   8,
                                   16,
                                   24,
                                   CAPACITY / 2 - 8,
                                   CAPACITY / 2,
                                   CAPACITY,
                                   1024,
                                   1025,
                                   UINT64_C(0x7fffffff),
                                   UINT64_C(0x80000001),
                                   UINT64_C(0xfffffff8),
                                   UINT64_C(0xffffffff),
                                   UINT64_C(1) << 24,
                                   UINT64_C(1) << 32,
                                   UINT64_MAX / 2,
                                   UINT64_MAX - 7,
                                   UINT64_MAX};

static void damage(unsigned char *bytes, size_t size_bytes, uint64_t *random)
{
    const size_t at = next_random(random) % size_bytes;
    const uint64_t value = telling[next_random(random) % (sizeof telling / sizeof telling[0])];
    const size_t word = at / 8 * 8;
    uint64_t old;

    memcpy(&old, bytes + word, 8);
    switch (next_random(random) % 6) {
    case 0:
        bytes[at] ^= (unsigned char)(1U << next_random(random) % 8);
        break;
    case 1:
        bytes[at] = (unsigned char)next_random(random);
        break;
    case 2:
        memcpy(bytes + at / 4 * 4, &value, 4);
        break;
    case 3:
        memcpy(bytes + word, &value, 8);
        break;
    case 4:
        old += next_random(random) % 33 - 16;
        memcpy(bytes + word, &old, 8);
        break;
    default:
        memmove(bytes + word, bytes + next_random(random) % size_bytes / 8 * 8, 8);
    }
}

static void fuzz_still_rings(int64_t end_ns, uint64_t *random)
{
    static uint8_t input[INPUT];
    while (pmp_now_ns() < end_ns) {
        make_sound_input(input, random);
        for (uint64_t times = next_random(random) % 6; times > 0; times--) {
            damage(input, sizeof input, random);
        }
        LLVMFuzzerTestOneInput(input, sizeof input);
    }
}

/* ---- a ring that changes while it is read ---- */

typedef struct {
    unsigned char *memory;
    uint64_t random;
    _Atomic bool over;
} scribbler;

/* Changes one word back and forth many times: what is looked at twice differs at some time. Not in
 * the first line: what kind of ring it is, is read once, before. */
static void flicker(unsigned char *words, size_t count_of_words, uint64_t *random)
{
    _Atomic uint64_t *const word =
        (_Atomic uint64_t *)(void *)(words + 8 * (next_random(random) % count_of_words));
    const uint64_t sound = atomic_load_explicit(word, memory_order_relaxed);
    const uint64_t value = sound ^ UINT64_C(1) << next_random(random) % 40;
    for (int times = 0; times < 200; times++) {
        atomic_store_explicit(word, value, memory_order_relaxed);
        atomic_store_explicit(word, sound, memory_order_relaxed);
    }
}

static void *scribble(void *argument)
{
    scribbler *const own = argument;
    const size_t size_bytes = RECORDS_AT - HEAD_AT + CAPACITY;
    while (!atomic_load_explicit(&own->over, memory_order_relaxed)) {
        flicker(own->memory + HEAD_AT, size_bytes / 8, &own->random);
        if (next_random(&own->random) % 8 == 0) {
            damage(own->memory + HEAD_AT, size_bytes, &own->random);
        }
    }
    return NULL;
}

static void fuzz_changing_ring(int64_t end_ns, uint64_t *random)
{
    static pmp_receiver receiver;
    static uint8_t input[INPUT];
    scribbler own = {.memory = new_ring(), .random = *random};
    const pthread_t thread = start_thread(scribble, &own);

    while (pmp_now_ns() < end_ns) {
        make_sound_input(input, random);
        lay_out(own.memory, input, sizeof input);
        count.inputs++;
        if (open_receiver(&receiver, own.memory)) {
            receive_all(&receiver, 2 * CAPACITY / 8);
        } else {
            count.refused++;
        }
    }
    atomic_store(&own.over, true);
    join_thread(thread);
    free(own.memory);
}

static int64_t fuzz_ns = 5 * INT64_C(1000000000);
static uint64_t seed = 1;

static void fuzz(void)
{
    const int64_t start_ns = pmp_now_ns();
    uint64_t random = seed;
    fuzz_still_rings(start_ns + fuzz_ns * 2 / 3, &random);
    fuzz_changing_ring(start_ns + fuzz_ns, &random);
    printf("%llu inputs, %llu no ring, %llu nonsense, %llu without memory, "
           "%llu messages of one record and %llu in fragments ",
           (unsigned long long)count.inputs, (unsigned long long)count.refused,
           (unsigned long long)count.nonsense, (unsigned long long)count.no_memory,
           (unsigned long long)count.records, (unsigned long long)count.fragments);
    /* Every way through the receiver was taken. */
    CHECK(count.refused > 0 && count.nonsense > 0 && count.no_memory > 0);
    CHECK(count.records > 0 && count.fragments > 0);
}

int main(int argument_count, char **arguments)
{
    if (argument_count > 1) {
        fuzz_ns = (int64_t)(atof(arguments[1]) * 1e9);
    }
    if (argument_count > 2) {
        seed = strtoull(arguments[2], NULL, 10) << 32;
    }
    run("corrupt rings do no harm", 30 + 2 * (unsigned)(fuzz_ns / INT64_C(1000000000)), fuzz);
    return 0;
}

#endif
