#define _GNU_SOURCE
#define _DARWIN_C_SOURCE

#include "shm.h"

#include "shm_source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static void forget(pmp_shm *segment)
{
    segment->address = NULL;
    segment->size_bytes = 0;
    segment->descriptor = -1;
}

static int map(pmp_shm *segment, int descriptor, size_t size_bytes, int protection, int flags)
{
    void *const address = mmap(NULL, size_bytes, protection, flags, descriptor, 0);
    if (address == MAP_FAILED) {
        return -errno;
    }
    segment->address = address;
    segment->size_bytes = size_bytes;
    segment->descriptor = descriptor;
    return 0;
}

static int write_all(int descriptor, const char *bytes, size_t count, size_t offset)
{
    while (count > 0) {
        const ssize_t written = pwrite(descriptor, bytes, count, (off_t)offset);
        if (written < 0 && errno != EINTR) {
            return -errno;
        }
        if (written > 0) {
            bytes += written;
            count -= (size_t)written;
            offset += (size_t)written;
        }
    }
    return 0;
}

static int write_contents(int descriptor, const struct iovec *contents, int count)
{
    size_t offset = 0;

    for (int i = 0; i < count; i++) {
        const int error = write_all(descriptor, contents[i].iov_base, contents[i].iov_len, offset);
        if (error != 0) {
            return error;
        }
        offset += contents[i].iov_len;
    }
    return 0;
}

/* What a new segment is filled with, and how it is mapped. */
typedef struct {
    enum { ZEROES, CONTENTS, NOTHING } filling; /* NOTHING: it has no pages, and is not mapped */
    const struct iovec *contents;
    int count;
} plan;

static int fill(pmp_shm *segment, int descriptor, size_t size_bytes, const plan *planned)
{
    if (ftruncate(descriptor, (off_t)size_bytes) != 0) {
        return -errno;
    }
    int error = 0;
    if (planned->filling == ZEROES) {
        error = pmp_reserve_pages(descriptor, size_bytes);
    } else if (planned->filling == CONTENTS) {
        error = write_contents(descriptor, planned->contents, planned->count);
    }
    if (error == 0) {
        error = pmp_seal(descriptor);
    }
    if (error != 0) {
        return error;
    }
    if (planned->filling == NOTHING) {
        *segment = (pmp_shm){.size_bytes = size_bytes, .descriptor = descriptor};
        return 0;
    }
    const int protection = planned->filling == ZEROES ? PROT_READ | PROT_WRITE : PROT_READ;
    return map(segment, descriptor, size_bytes, protection, MAP_SHARED);
}

static int create(pmp_shm *segment, int (*open_source)(void), size_t size_bytes,
                  const plan *planned)
{
    const int descriptor = open_source();
    if (descriptor < 0) {
        return descriptor;
    }
    const int error = fill(segment, descriptor, size_bytes, planned);
    if (error != 0) {
        close(descriptor);
    }
    return error;
}

/* The kernel does not refuse to reserve more memory than the machine has. It takes page after page
 * until it has to kill processes to get more. */
static bool is_beyond_memory(size_t size_bytes, size_t page)
{
    const long pages = sysconf(_SC_PHYS_PAGES);
    return size_bytes > (size_t)PTRDIFF_MAX - page ||
           (pages > 0 && size_bytes / page >= (size_t)pages);
}

static int create_best(pmp_shm *segment, size_t size_bytes, enum pmp_shm_kind kind,
                       const plan *planned)
{
    static int (*const sources[])(void) = {pmp_open_memfd, pmp_open_posix, pmp_open_file};
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int first_error = 0;

    forget(segment);
    if (size_bytes == 0 || kind < PMP_SHM_BEST || kind > PMP_SHM_FILE) {
        return -EINVAL;
    }
    if (is_beyond_memory(size_bytes, page)) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        if (kind != PMP_SHM_BEST && kind != (enum pmp_shm_kind)i) {
            continue;
        }
        const int error =
            create(segment, sources[i], (size_bytes + page - 1) / page * page, planned);
        if (error == 0) {
            return 0;
        }
        if (first_error == 0 || first_error == -ENOSYS) {
            first_error = error;
        }
    }
    return first_error;
}

int pmp_shm_create(pmp_shm *segment, size_t size_bytes, enum pmp_shm_kind kind)
{
    return create_best(segment, size_bytes, kind, &(plan){.filling = ZEROES});
}

int pmp_shm_create_unmapped(pmp_shm *segment, size_t size_bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);

    forget(segment);
    if (size_bytes == 0) {
        return -EINVAL;
    }
    if (is_beyond_memory(size_bytes, page)) {
        return -ENOMEM;
    }
    const int error = create(segment, pmp_open_memfd, (size_bytes + page - 1) / page * page,
                             &(plan){.filling = NOTHING});
    if (error != 0) {
        return error;
    }
    const int opened = pmp_reopen(segment->descriptor, O_RDWR);
    close(segment->descriptor);
    if (opened < 0) {
        forget(segment);
        return opened;
    }
    segment->descriptor = opened;
    return 0;
}

int pmp_shm_map(pmp_shm *segment)
{
    return segment->address != NULL ? 0
                                    : map(segment, segment->descriptor, segment->size_bytes,
                                          PROT_READ | PROT_WRITE, MAP_SHARED);
}

bool pmp_shm_is_unused(const pmp_shm *segment)
{
    return pmp_is_only_opener(segment->descriptor);
}

int pmp_shm_store(pmp_shm *segment, const struct iovec *contents, int count)
{
    size_t size_bytes = 0;

    for (int i = 0; i < count; i++) {
        if (contents[i].iov_len > PTRDIFF_MAX - size_bytes) {
            forget(segment);
            return -ENOMEM;
        }
        size_bytes += contents[i].iov_len;
    }
    const plan planned = {.filling = CONTENTS, .contents = contents, .count = count};
    return create_best(segment, size_bytes, PMP_SHM_BEST, &planned);
}

int pmp_shm_overwrite(const pmp_shm *segment, const void *bytes, size_t count, size_t offset)
{
    if (offset > segment->size_bytes || count > segment->size_bytes - offset) {
        return -EINVAL;
    }
    return write_all(segment->descriptor, bytes, count, offset);
}

static int check_and_map(pmp_shm *segment, int descriptor, int protection, int flags)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    struct stat status;

    if (fstat(descriptor, &status) != 0) {
        return -errno;
    }
    if (status.st_size <= 0 || (uint64_t)status.st_size % page != 0) {
        return -EINVAL;
    }
    if ((uint64_t)status.st_size > PTRDIFF_MAX) {
        return -ENOMEM;
    }
    if (pmp_could_shrink(descriptor)) {
        return -EINVAL;
    }
    if (fcntl(descriptor, F_SETFD, FD_CLOEXEC) != 0) {
        return -errno;
    }
    return map(segment, descriptor, (size_t)status.st_size, protection, flags);
}

static int attach(pmp_shm *segment, int descriptor, int protection, int flags)
{
    forget(segment);
    if (descriptor < 0) {
        return -EBADF;
    }
    const int error = check_and_map(segment, descriptor, protection, flags);
    if (error != 0) {
        close(descriptor);
    }
    return error;
}

int pmp_shm_attach(pmp_shm *segment, int descriptor)
{
    return attach(segment, descriptor, PROT_READ | PROT_WRITE, MAP_SHARED);
}

int pmp_shm_attach_readonly(pmp_shm *segment, int descriptor)
{
    return attach(segment, descriptor, PROT_READ, MAP_SHARED);
}

/* Without a reservation: most of what is mapped so is never written. */
int pmp_shm_attach_private(pmp_shm *segment, int descriptor)
{
    const int opened = pmp_reopen(descriptor, O_RDONLY);

    forget(segment);
    return opened < 0
               ? opened
               : attach(segment, opened, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
}

int pmp_shm_duplicate(pmp_shm *copy, const pmp_shm *segment)
{
    const int descriptor = fcntl(segment->descriptor, F_DUPFD_CLOEXEC, 0);

    forget(copy);
    if (descriptor < 0) {
        return -errno;
    }
    *copy = (pmp_shm){.size_bytes = segment->size_bytes, .descriptor = descriptor};
    return 0;
}

void pmp_shm_close_descriptor(pmp_shm *segment)
{
    if (segment->descriptor >= 0) {
        close(segment->descriptor);
        segment->descriptor = -1;
    }
}

void pmp_shm_close(pmp_shm *segment)
{
    if (segment->size_bytes == 0) {
        return;
    }
    if (segment->address != NULL) {
        munmap(segment->address, segment->size_bytes);
    }
    pmp_shm_close_descriptor(segment);
    forget(segment);
}
