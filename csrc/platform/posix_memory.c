#define _GNU_SOURCE
#define _DARWIN_C_SOURCE

#include "../platform.h"

#ifndef PMP_WINDOWS

#include "../buffer_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

/* ---- memory of this process ---- */

size_t pmp_page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

size_t pmp_machine_bytes(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES);
    return pages > 0 ? (size_t)pages * pmp_page_bytes() : 0;
}

void *pmp_aligned_new(size_t size_bytes)
{
    void *memory;
    return posix_memalign(&memory, 64, size_bytes) == 0 ? memory : NULL;
}

void pmp_aligned_free(void *memory)
{
    free(memory);
}

void pmp_pages_free(void *pages, size_t size_bytes)
{
    munmap(pages, size_bytes);
}

void pmp_pages_offer(void *pages, size_t size_bytes)
{
#ifdef MADV_FREE
    madvise(pages, size_bytes, MADV_FREE);
#else
    (void)pages;
    (void)size_bytes;
#endif
}

#ifdef __GLIBC__

/* DEFAULT_MMAP_THRESHOLD_MAX of 64-bit systems, and twice that: the limits up to which glibc adapts by itself. */
#define HEAP_OBJECT (32 << 20)
#define HEAP_KEPT   (64 << 20)

void pmp_malloc_retain(void)
{
    mallopt(M_MMAP_THRESHOLD, HEAP_OBJECT);
    mallopt(M_TRIM_THRESHOLD, HEAP_KEPT);
}

#else

void pmp_malloc_retain(void)
{
}

#endif

/* ---- memory behind a descriptor ---- */

/* "/pmp-" and 22 characters of 6 random bits each (132 bits); macOS allows 31 characters. */
#define NAME_PREFIX "/pmp-"
#define NAME_RANDOM 22

static int resized(int descriptor, size_t size_bytes)
{
    if (ftruncate(descriptor, (off_t)size_bytes) != 0) {
        const int error = -errno;
        close(descriptor);
        return error;
    }
    return descriptor;
}

/* The name exists between shm_open and shm_unlink only; a process killed between the two
 * leaves an empty object of no pages. */
int pmp_open_posix(size_t size_bytes)
{
    static const char alphabet[] =
        "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
    unsigned char random_bytes[NAME_RANDOM];
    char name[sizeof NAME_PREFIX + NAME_RANDOM] = NAME_PREFIX;

    const int error = pmp_random(random_bytes, sizeof random_bytes);
    if (error != 0) {
        return error;
    }
    for (size_t i = 0; i < NAME_RANDOM; i++) {
        name[sizeof NAME_PREFIX - 1 + i] = alphabet[random_bytes[i] & 63];
    }
    const int descriptor = shm_open(name, O_RDWR | O_CREAT | O_EXCL, S_IRUSR | S_IWUSR);
    if (descriptor < 0) {
        return -errno;
    }
    shm_unlink(name);
    return resized(descriptor, size_bytes);
}

int pmp_open_file(size_t size_bytes)
{
    const char *const folder = getenv("TMPDIR");
    char path[PATH_MAX];

    const int length = snprintf(path, sizeof path, "%s/pympipool-XXXXXX",
                                folder != NULL && folder[0] != '\0' ? folder : "/tmp");
    if (length < 0 || (size_t)length >= sizeof path) {
        return -ENAMETOOLONG;
    }
    const int descriptor = mkstemp(path); /* mode 0600 */
    if (descriptor < 0) {
        return -errno;
    }
    unlink(path);
    fcntl(descriptor, F_SETFD, FD_CLOEXEC);
    return resized(descriptor, size_bytes);
}

int pmp_check_received(int descriptor, size_t *size_bytes)
{
    struct stat status;

    if (fstat(descriptor, &status) != 0) {
        return -errno;
    }
    if (status.st_size <= 0 || (uint64_t)status.st_size % pmp_page_bytes() != 0) {
        return -EINVAL;
    }
    if ((uint64_t)status.st_size > PTRDIFF_MAX) {
        return -ENOMEM;
    }
    if (pmp_could_shrink(descriptor)) {
        return -EINVAL;
    }
    *size_bytes = (size_t)status.st_size;
    return fcntl(descriptor, F_SETFD, FD_CLOEXEC) != 0 ? -errno : 0;
}

int pmp_duplicate(int descriptor)
{
    const int copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    return copy < 0 ? -errno : copy;
}

void pmp_close(int descriptor)
{
    close(descriptor);
}

static int map(void **address, int descriptor, size_t size_bytes, int protection, int flags)
{
    void *const mapped = mmap(NULL, size_bytes, protection, flags, descriptor, 0);
    if (mapped == MAP_FAILED) {
        return -errno;
    }
    *address = mapped;
    return 0;
}

/* What a descriptor of macOS's shared memory cannot do goes through a mapping: it is neither read nor written, and mapped MAP_SHARED
 * only (posix_shm.c of its kernel). */

static int copy_mapped(int descriptor, char *bytes, size_t count, size_t offset, int protection)
{
    const size_t before = offset % pmp_page_bytes();

    char *const mapped =
        mmap(NULL, before + count, protection, MAP_SHARED, descriptor, (off_t)(offset - before));
    if (mapped == MAP_FAILED) {
        return -errno;
    }
    if (protection == PROT_READ) {
        memcpy(bytes, mapped + before, count);
    } else {
        memcpy(mapped + before, bytes, count);
    }
    munmap(mapped, before + count);
    return 0;
}

static int map_copy(void **address, int descriptor, size_t size_bytes)
{
    void *shared = NULL;

    int error = map(&shared, descriptor, size_bytes, PROT_READ, MAP_SHARED);
    if (error != 0) {
        return error;
    }
    error = map(address, -1, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON);
    if (error == 0) {
        memcpy(*address, shared, size_bytes);
    }
    munmap(shared, size_bytes);
    return error;
}

/* macOS refuses to read or write 2 GiB at once; Linux takes a part. */
#define AT_ONCE_MAX ((size_t)1 << 30)

static size_t at_once(size_t count)
{
    return count < AT_ONCE_MAX ? count : AT_ONCE_MAX;
}

int pmp_write(int descriptor, const void *bytes, size_t count, size_t offset)
{
    const char *from = bytes;

    while (count > 0) {
        const ssize_t written = pwrite(descriptor, from, at_once(count), (off_t)offset);
        if (written < 0 && errno == ESPIPE) {
            return copy_mapped(descriptor, (char *)(uintptr_t)from, count, offset,
                               PROT_READ | PROT_WRITE);
        }
        if (written < 0 && errno != EINTR) {
            return -errno;
        }
        if (written > 0) {
            from += written;
            count -= (size_t)written;
            offset += (size_t)written;
        }
    }
    return 0;
}

int64_t pmp_read(int descriptor, void *bytes, size_t count, size_t offset)
{
    struct stat status;

    const ssize_t got = pread(descriptor, bytes, at_once(count), (off_t)offset);
    if (got >= 0 || errno != ESPIPE) {
        return got < 0 ? -errno : got;
    }
    if (fstat(descriptor, &status) != 0) {
        return -errno;
    }
    if (count == 0 || (uint64_t)status.st_size <= offset) {
        return 0;
    }
    const size_t left = (size_t)status.st_size - offset;
    const size_t copied = count < left ? count : left;
    const int error = copy_mapped(descriptor, bytes, copied, offset, PROT_READ);
    return error != 0 ? error : (int64_t)copied;
}

int pmp_map(void **address, int descriptor, size_t size_bytes, enum pmp_access access)
{
    if (access == PMP_READ_ONLY) {
        return map(address, descriptor, size_bytes, PROT_READ, MAP_SHARED);
    }
    if (access == PMP_READ_WRITE) {
        return map(address, descriptor, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
    }
    const int error =
        map(address, descriptor, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
    return error == -EINVAL ? map_copy(address, descriptor, size_bytes) : error;
}

int pmp_map_writable(void **address, int descriptor, size_t size_bytes)
{
    (void)descriptor;
    return mprotect(*address, size_bytes, PROT_READ | PROT_WRITE) != 0 ? -errno : 0;
}

int pmp_map_file(void **address, int descriptor, size_t size_bytes)
{
    return pmp_map(address, descriptor, size_bytes, PMP_COPY_ON_WRITE);
}

void pmp_unmap(void *address, size_t size_bytes)
{
    munmap(address, size_bytes);
}

#endif
