/* The size of a cache line: what different processes write must not share one.
 *
 * All processes that share memory run on one machine with code for one processor, so they agree on it.
 */
#ifndef PMP_CACHE_LINE_H
#define PMP_CACHE_LINE_H

#ifndef PMP_CACHE_LINE
#if defined(__s390x__)
#define PMP_CACHE_LINE 256
#elif defined(__powerpc64__) || (defined(__APPLE__) && defined(__aarch64__))
#define PMP_CACHE_LINE 128
#else
#define PMP_CACHE_LINE 64
#endif
#endif

#endif
