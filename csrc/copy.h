/* Copying into memory that another core reads next.
 *
 * An ordinary copy leaves what it wrote in the cache of this core, from where the other core has to
 * fetch line by line what it wants to read, and where the lines that it has read must be taken
 * from its cache before they can be written again. Depending on which two cores of a machine that
 * are, it is up to ten times slower than writing past the caches, to where both find it.
 */
#ifndef PMP_COPY_H
#define PMP_COPY_H

#include <stddef.h>

/* Fewer bytes are copied as memcpy does. */
#define PMP_COPY_ACROSS_MIN 2048

/* As memcpy. What was written is ordered before a later release store, as ordinary writes are. */
void pmp_copy_across(void *to, const void *from, size_t size_bytes);

#endif
