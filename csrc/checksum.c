#include "checksum.h"

#include <string.h>

/* Words that are mixed side by side: a multiplication takes three cycles, and another one may begin in each. */
enum { LANES = 8 };

#define FACTOR UINT64_C(0x9E3779B97F4A7C15)

/* Mixes a word into a lane. For each lane this is a bijection of the word, and the other way round. */
static inline uint64_t mixed(uint64_t lane, uint64_t word)
{
    const uint64_t product = (lane ^ word) * FACTOR;
    return product << 29 | product >> 35;
}

uint64_t pmp_checksum(uint64_t before, const void *data, size_t size_bytes)
{
    const unsigned char *bytes = data;
    uint64_t lanes[LANES], words[LANES];
    for (int i = 0; i < LANES; i++)
        lanes[i] = mixed(before, (uint64_t)i);
    size_t left = size_bytes;
    for (; left >= sizeof words; bytes += sizeof words, left -= sizeof words) {
        memcpy(words, bytes, sizeof words);
        for (int i = 0; i < LANES; i++)
            lanes[i] = mixed(lanes[i], words[i]);
    }
    memset(words, 0, sizeof words);
    if (left != 0)
        memcpy(words, bytes, left);
    uint64_t sum = size_bytes;
    for (int i = 0; i < LANES; i++)
        sum = mixed(sum, mixed(lanes[i], words[i]));
    return sum ^ sum >> 32;
}
