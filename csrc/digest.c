#include "digest.h"

#include <string.h>

#define LINE_BYTES 64

/* Distance at which each stream is fetched ahead. */
#define AHEAD_BYTES 512

static inline uint64_t mix(uint64_t state, const char *word_at)
{
    uint64_t word;

    memcpy(&word, word_at, sizeof(word));
    word ^= state;
    return ((word << 29) | (word >> 35)) * UINT64_C(0x9E3779B97F4A7C15);
}

static void digest_streams(const char *begin, size_t stream_bytes, uint64_t *states)
{
    const size_t step = stream_bytes;
    uint64_t s0 = 1, s1 = 2, s2 = 3, s3 = 4, s4 = 5, s5 = 6, s6 = 7, s7 = 8;

    for (size_t i = 0; i < stream_bytes; i += LINE_BYTES) {
        const char *const line = begin + i;
        for (int s = 0; s < PMP_DIGEST_STREAMS; s++) {
            __builtin_prefetch(line + (size_t)s * step + AHEAD_BYTES);
        }
        for (const char *at = line; at < line + LINE_BYTES; at += sizeof(uint64_t)) {
            s0 = mix(s0, at);
            s1 = mix(s1, at + step);
            s2 = mix(s2, at + 2 * step);
            s3 = mix(s3, at + 3 * step);
            s4 = mix(s4, at + 4 * step);
            s5 = mix(s5, at + 5 * step);
            s6 = mix(s6, at + 6 * step);
            s7 = mix(s7, at + 7 * step);
        }
    }
    const uint64_t ends[PMP_DIGEST_STREAMS] = {s0, s1, s2, s3, s4, s5, s6, s7};
    memcpy(states, ends, sizeof(ends));
}

static uint64_t digest_rest(const char *memory, size_t begin, size_t end)
{
    uint64_t state = end;

    for (size_t i = begin; i < end; i += sizeof(uint64_t)) {
        char word[sizeof(uint64_t)] = {0};
        memcpy(word, memory + i, end - i < sizeof(word) ? end - i : sizeof(word));
        state = mix(state, word);
    }
    return state;
}

void pmp_digest(const void *memory, size_t size_bytes, uint64_t states[PMP_DIGEST_STATES])
{
    const size_t stream_bytes = size_bytes / PMP_DIGEST_STREAMS / LINE_BYTES * LINE_BYTES;

    digest_streams(memory, stream_bytes, states);
    states[PMP_DIGEST_STREAMS] = digest_rest(memory, PMP_DIGEST_STREAMS * stream_bytes, size_bytes);
}
