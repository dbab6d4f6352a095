#include "copy.h"

#include <stdint.h>
#include <string.h>

#ifdef __SSE2__

#include <emmintrin.h>

#define LINE 64

static void stream_line(unsigned char *to, const unsigned char *from)
{
    const __m128i *const source = (const __m128i *)(const void *)from;
    __m128i *const target = (__m128i *)(void *)to;
    const __m128i a = _mm_loadu_si128(source);
    const __m128i b = _mm_loadu_si128(source + 1);
    const __m128i c = _mm_loadu_si128(source + 2);
    const __m128i d = _mm_loadu_si128(source + 3);
    _mm_stream_si128(target, a);
    _mm_stream_si128(target + 1, b);
    _mm_stream_si128(target + 2, c);
    _mm_stream_si128(target + 3, d);
}

void pmp_copy_across(void *to, const void *from, size_t size_bytes)
{
    if (size_bytes < PMP_COPY_ACROSS_MIN) {
        memcpy(to, from, size_bytes);
        return;
    }
    unsigned char *target = to;
    const unsigned char *source = from;
    const size_t before = -(uintptr_t)target % LINE; /* up to the first whole line */
    const size_t whole = (size_bytes - before) / LINE * LINE;

    memcpy(target, source, before);
    target += before;
    source += before;
    for (size_t done = 0; done < whole; done += LINE) {
        stream_line(target + done, source + done);
    }
    memcpy(target + whole, source + whole, size_bytes - before - whole);
    /* Such writes are ordered with nothing, not even with the release store that publishes them. */
    _mm_sfence();
}

#else

void pmp_copy_across(void *to, const void *from, size_t size_bytes)
{
    memcpy(to, from, size_bytes);
}

#endif
