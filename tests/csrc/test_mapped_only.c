/* Memory behind a descriptor as macOS has it: it is neither read nor written, and mapped MAP_SHARED only. Here on Linux, where this
 * program has functions of its own in place of those of the C library. ThreadSanitizer needs the real ones. */
#include "support.h"

#include "../../csrc/platform.h"
#include "../../csrc/shm.h"

#if defined(__linux__) && !defined(__SANITIZE_THREAD__)

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char contents[] = "contents";

ssize_t pwrite(int descriptor, const void *bytes, size_t count, off_t offset)
{
    (void)descriptor;
    (void)bytes;
    (void)count;
    (void)offset;
    errno = ESPIPE;
    return -1;
}

ssize_t pread(int descriptor, void *bytes, size_t count, off_t offset)
{
    return pwrite(descriptor, bytes, count, offset);
}

void *mmap(void *address, size_t size_bytes, int protection, int flags, int descriptor,
           off_t offset)
{
    if (descriptor >= 0 && (flags & MAP_PRIVATE) != 0) {
        errno = EINVAL;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, address, size_bytes, protection, flags, descriptor, offset);
}

/* The contents begin in the second page. */
static pmp_shm stored(size_t *offset)
{
    static char padding[1 << 16];
    const pmp_span spans[] = {{padding, pmp_page_bytes() + 5}, {contents, sizeof contents}};
    pmp_shm segment;

    *offset = spans[0].size_bytes;
    CHECK_EQUAL(pmp_shm_store(&segment, spans, 2), 0);
    CHECK(memcmp((char *)segment.address + *offset, contents, sizeof contents) == 0);
    return segment;
}

static void contents_are_written_and_read(void)
{
    char bytes[sizeof contents];
    size_t offset;
    pmp_shm segment = stored(&offset);

    CHECK_EQUAL(pmp_shm_overwrite(&segment, "C", 1, offset), 0);
    CHECK_EQUAL(pmp_read(segment.descriptor, bytes, sizeof bytes, offset), sizeof bytes);
    CHECK(memcmp(bytes, "Contents", sizeof bytes) == 0);
    CHECK_EQUAL(pmp_read(segment.descriptor, bytes, sizeof bytes, segment.size_bytes - 3), 3);
    CHECK_EQUAL(pmp_read(segment.descriptor, bytes, sizeof bytes, segment.size_bytes), 0);
    pmp_shm_close(&segment);
}

static void private_mapping_is_a_copy(void)
{
    void *copy;
    size_t offset;
    pmp_shm segment = stored(&offset);

    CHECK_EQUAL(pmp_map(&copy, segment.descriptor, segment.size_bytes, PMP_COPY_ON_WRITE), 0);
    CHECK(memcmp((char *)copy + offset, contents, sizeof contents) == 0);
    memset(copy, 'x', segment.size_bytes);
    CHECK(memcmp((char *)segment.address + offset, contents, sizeof contents) == 0);
    pmp_unmap(copy, segment.size_bytes);
    pmp_shm_close(&segment);
}

int main(void)
{
    run("contents are written and read", 60, contents_are_written_and_read);
    run("a private mapping is a copy", 60, private_mapping_is_a_copy);
    return 0;
}

#else

int main(void)
{
    return 0; /* on a Mac test_shm and the tests of pympipool have such memory itself */
}

#endif
