/* A checksum of bytes on disk: it tells damage, at the speed of memory. It is no protection against intent.
 */
#ifndef PMP_CHECKSUM_H
#define PMP_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* Returns the checksum of some bytes that follow others, whose checksum is given (0: none). Bytes that differ in one word of
 * 8 bytes have different checksums, others with a probability of 1 - 2^-64. It depends on the order of bytes in a word. */
uint64_t pmp_checksum(uint64_t before, const void *data, size_t size_bytes);

#endif
