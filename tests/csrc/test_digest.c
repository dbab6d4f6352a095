/* Digests: each byte and the size count, and the alignment does not. */
#include "support.h"

#include "../../csrc/digest.h"

#define SIZE 9001 /* some lines of each stream, and a rest */

static unsigned char memory[SIZE + 1];

static void fill(void)
{
    uint64_t random = 1;
    for (size_t i = 0; i < SIZE; i++) {
        memory[i] = (unsigned char)next_random(&random);
    }
}

static void digest_of(size_t offset, size_t size_bytes, uint64_t *states)
{
    pmp_digest(memory + offset, size_bytes, states);
}

static bool has_changed(const uint64_t *states)
{
    uint64_t now[PMP_DIGEST_STATES];
    digest_of(0, SIZE, now);
    return memcmp(states, now, sizeof now) != 0;
}

static void each_byte_counts(void)
{
    fill();
    uint64_t states[PMP_DIGEST_STATES];
    digest_of(0, SIZE, states);
    for (size_t i = 0; i < SIZE; i++) {
        memory[i] ^= 0x80;
        CHECK(has_changed(states));
        memory[i] ^= 0x80;
    }
    CHECK(!has_changed(states));
}

static void two_changes_do_not_cancel(void)
{
    fill();
    uint64_t states[PMP_DIGEST_STATES];
    digest_of(0, SIZE, states);
    for (size_t i = 7; i + 8 < SIZE; i += 8) {
        for (size_t j = i + 8; j < i + 80 && j < SIZE; j += 8) {
            memory[i] ^= 0x80;
            memory[j] ^= 0x80;
            CHECK(has_changed(states));
            memory[i] ^= 0x80;
            memory[j] ^= 0x80;
        }
    }
}

static void size_counts(void)
{
    uint64_t before[PMP_DIGEST_STATES], states[PMP_DIGEST_STATES];
    memset(memory, 0, sizeof memory);
    digest_of(0, 0, before);
    for (size_t size_bytes = 1; size_bytes <= SIZE; size_bytes++) {
        digest_of(0, size_bytes, states);
        CHECK(memcmp(before, states, sizeof states) != 0);
        memcpy(before, states, sizeof states);
    }
}

static void alignment_does_not_count(void)
{
    fill();
    uint64_t expected[PMP_DIGEST_STATES], states[PMP_DIGEST_STATES];
    digest_of(0, SIZE, expected);
    memmove(memory + 1, memory, SIZE);
    digest_of(1, SIZE, states);
    CHECK(memcmp(expected, states, sizeof states) == 0);
}

int main(void)
{
    run("each byte counts", 60, each_byte_counts);
    run("two changes do not cancel each other", 60, two_changes_do_not_cancel);
    run("the alignment does not count", 60, alignment_does_not_count);
    run("the size counts", 60, size_counts);
    return 0;
}
