/* Digests of memory, by which data are recognized that have not changed.
 *
 * The memory is read at the speed that it has: as several streams side by side. One stream, as of
 * xxHash, is slower. Each word changes the state of its stream by a bijection, and the digest is all
 * the states. So a stream with one changed word always has another state; other changes are missed
 * once in 2^64 times. It is no cryptographic hash. A second thread does not make it faster where it
 * waits for a core. */
#ifndef PMP_DIGEST_H
#define PMP_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#define PMP_DIGEST_STREAMS 8

/* Numbers of a digest: a state of each stream, and one of the size and of what is left over. */
#define PMP_DIGEST_STATES (PMP_DIGEST_STREAMS + 1)

/* Computes the digest of memory. */
void pmp_digest(const void *memory, size_t size_bytes, uint64_t states[PMP_DIGEST_STATES]);

#endif
