/* A segment: memory that two processes of one host share, known by a descriptor only.
 *
 * A segment has no name anybody could find, guess or leave behind. On Linux it is a
 * memfd: never in /dev/shm, so neither limited by its size nor left there when a process
 * is killed. Elsewhere, and with PMP_SHM_POSIX, it is a POSIX shared memory object with a
 * random 128-bit name, mode 0600, unlinked before pmp_shm_create returns. The descriptor
 * travels to the other process over a Unix socket (SCM_RIGHTS).
 *
 * All pages are reserved at creation: no later access can raise SIGBUS for want of memory.
 */
#ifndef PMP_SHM_H
#define PMP_SHM_H

#include <stddef.h>

typedef struct {
    void *address;     /* where the segment is mapped, page aligned; NULL when closed */
    size_t size_bytes; /* length of the mapping, a multiple of the page size */
    int descriptor;    /* close-on-exec; -1 when closed */
} pmp_shm;

enum pmp_shm_kind {
    PMP_SHM_BEST = 0, /* memfd where the system has it, else POSIX */
    PMP_SHM_POSIX = 1 /* POSIX shared memory, also where memfd exists */
};

/* Creates a zeroed segment of at least size_bytes bytes, mapped and with its pages reserved.
 *
 * The caller owns it and ends it with pmp_shm_close. On an error nothing is left.
 * Errors: -EINVAL (size 0 or unknown kind), -ENOSPC (the file system behind it is full),
 * -ENOMEM (also: more than the machine's memory), -EMFILE, -EACCES and whatever else the
 * system reports. */
int pmp_shm_create(pmp_shm *segment, size_t size_bytes, enum pmp_shm_kind kind);

/* Maps the segment behind a descriptor received from its creator.
 *
 * Takes the descriptor over, also when it fails (it is closed then).
 * Errors: -EBADF, -EINVAL (not a segment: size 0 or not a whole number of pages; or open to
 * seals, yet without the one against becoming smaller, which would raise SIGBUS), -ENOMEM. */
int pmp_shm_attach(pmp_shm *segment, int descriptor);

/* Unmaps the segment and closes its descriptor; harmless when closed already. */
void pmp_shm_close(pmp_shm *segment);

#endif
