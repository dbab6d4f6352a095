/* Where the memory of segments comes from, on this system: for shm.c.
 *
 * All functions return a negative errno on errors. */
#ifndef PMP_SHM_SOURCE_H
#define PMP_SHM_SOURCE_H

#include <stdbool.h>
#include <stddef.h>

/* Return a descriptor of empty memory without a name, which the caller owns: a memfd, a POSIX shared memory object, or an unlinked
 * file in $TMPDIR or /tmp. It is closed by exec, and its mode is 0600. */
int pmp_open_memfd(void);
int pmp_open_posix(void);
int pmp_open_file(void);

/* Reserves all pages behind a descriptor, up to this size. */
int pmp_reserve_pages(int descriptor, size_t size_bytes);

/* Seals the size, where that is possible. Returns 0 where it is not. */
int pmp_seal(int descriptor);

/* Returns true if the memory could be sealed against shrinking, and is not. */
bool pmp_could_shrink(int descriptor);

/* Opens what is behind a descriptor once more, as another file than that of the descriptor, which stays open. */
int pmp_reopen(int descriptor, int flags);

/* Returns true if no process has this memory open or mapped, except by this descriptor, which pmp_reopen has returned, and by mappings
 * of it. False also where the system does not tell. */
bool pmp_is_only_opener(int descriptor);

#endif
