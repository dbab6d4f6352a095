#include "shm.h"

#include "platform.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

static void forget(pmp_shm *segment)
{
    segment->address = NULL;
    segment->size_bytes = 0;
    segment->descriptor = -1;
}

static int map(pmp_shm *segment, int descriptor, size_t size_bytes, enum pmp_access access)
{
    const int error = pmp_map(&segment->address, descriptor, size_bytes, access);
    if (error == 0) {
        segment->size_bytes = size_bytes;
        segment->descriptor = descriptor;
    }
    return error;
}

static int write_contents(int descriptor, const pmp_span *contents, int count)
{
    size_t offset = 0;

    for (int i = 0; i < count; i++) {
        const int error = pmp_write(descriptor, contents[i].data, contents[i].size_bytes, offset);
        if (error != 0) {
            return error;
        }
        offset += contents[i].size_bytes;
    }
    return 0;
}

/* What a new segment is filled with, and how it is mapped. */
typedef struct {
    enum { ZEROES, CONTENTS, NOTHING } filling; /* NOTHING: it has no pages, and is not mapped */
    const pmp_span *contents;
    int count;
} plan;

static int fill(pmp_shm *segment, int descriptor, size_t size_bytes, const plan *planned)
{
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
    return map(segment, descriptor, size_bytes,
               planned->filling == ZEROES ? PMP_READ_WRITE : PMP_READ_ONLY);
}

static int create(pmp_shm *segment, int (*open_source)(size_t), size_t size_bytes,
                  const plan *planned)
{
    const int descriptor = open_source(size_bytes);
    if (descriptor < 0) {
        return descriptor;
    }
    const int error = fill(segment, descriptor, size_bytes, planned);
    if (error != 0) {
        pmp_close(descriptor);
    }
    return error;
}

/* The kernel does not refuse to reserve more memory than the machine has. It takes page after page
 * until it has to kill processes to get more. */
static bool is_beyond_memory(size_t size_bytes, size_t page)
{
    const size_t machine = pmp_machine_bytes();
    return size_bytes > (size_t)PTRDIFF_MAX - page ||
           (machine > 0 && size_bytes / page >= machine / page);
}

static int create_best(pmp_shm *segment, size_t size_bytes, enum pmp_shm_kind kind,
                       const plan *planned)
{
    static int (*const sources[])(size_t) = {pmp_open_anonymous, pmp_open_posix, pmp_open_file};
    const size_t page = pmp_page_bytes();
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
    const size_t page = pmp_page_bytes();

    forget(segment);
    if (size_bytes == 0) {
        return -EINVAL;
    }
    if (is_beyond_memory(size_bytes, page)) {
        return -ENOMEM;
    }
    const int error = create(segment, pmp_open_anonymous, (size_bytes + page - 1) / page * page,
                             &(plan){.filling = NOTHING});
    if (error != 0) {
        return error;
    }
    const int opened = pmp_reopen(segment->descriptor, true);
    pmp_close(segment->descriptor);
    if (opened < 0) {
        forget(segment);
        return opened;
    }
    segment->descriptor = opened;
    return 0;
}

int pmp_shm_map(pmp_shm *segment)
{
    return segment->address != NULL
               ? 0
               : map(segment, segment->descriptor, segment->size_bytes, PMP_READ_WRITE);
}

bool pmp_shm_is_unused(const pmp_shm *segment)
{
    return pmp_is_only_opener(segment->descriptor);
}

int pmp_shm_store(pmp_shm *segment, const pmp_span *contents, int count)
{
    size_t size_bytes = 0;

    for (int i = 0; i < count; i++) {
        if (contents[i].size_bytes > PTRDIFF_MAX - size_bytes) {
            forget(segment);
            return -ENOMEM;
        }
        size_bytes += contents[i].size_bytes;
    }
    const plan planned = {.filling = CONTENTS, .contents = contents, .count = count};
    return create_best(segment, size_bytes, PMP_SHM_BEST, &planned);
}

int pmp_shm_overwrite(const pmp_shm *segment, const void *bytes, size_t count, size_t offset)
{
    if (offset > segment->size_bytes || count > segment->size_bytes - offset) {
        return -EINVAL;
    }
    return pmp_write(segment->descriptor, bytes, count, offset);
}

static int attach(pmp_shm *segment, int descriptor, enum pmp_access access)
{
    size_t size_bytes;

    forget(segment);
    if (descriptor < 0) {
        return -EBADF;
    }
    int error = pmp_check_received(descriptor, &size_bytes);
    if (error == 0) {
        error = map(segment, descriptor, size_bytes, access);
    }
    if (error != 0) {
        pmp_close(descriptor);
    }
    return error;
}

int pmp_shm_attach(pmp_shm *segment, int descriptor)
{
    return attach(segment, descriptor, PMP_READ_WRITE);
}

int pmp_shm_attach_readonly(pmp_shm *segment, int descriptor)
{
    return attach(segment, descriptor, PMP_READ_ONLY);
}

int pmp_shm_attach_private(pmp_shm *segment, int descriptor)
{
    const int opened = pmp_reopen(descriptor, false);

    forget(segment);
    return opened < 0 ? opened : attach(segment, opened, PMP_COPY_ON_WRITE);
}

int pmp_shm_allow_writing(pmp_shm *segment)
{
    return pmp_map_writable(&segment->address, segment->descriptor, segment->size_bytes);
}

int pmp_shm_duplicate(pmp_shm *copy, const pmp_shm *segment)
{
    const int descriptor = pmp_duplicate(segment->descriptor);

    forget(copy);
    if (descriptor < 0) {
        return descriptor;
    }
    *copy = (pmp_shm){.size_bytes = segment->size_bytes, .descriptor = descriptor};
    return 0;
}

void pmp_shm_close_descriptor(pmp_shm *segment)
{
    if (segment->descriptor >= 0) {
        pmp_close(segment->descriptor);
        segment->descriptor = -1;
    }
}

void pmp_shm_close(pmp_shm *segment)
{
    if (segment->size_bytes == 0) {
        return;
    }
    if (segment->address != NULL) {
        pmp_unmap(segment->address, segment->size_bytes);
    }
    pmp_shm_close_descriptor(segment);
    forget(segment);
}
