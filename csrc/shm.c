#define _GNU_SOURCE
#define _DARWIN_C_SOURCE

#include "shm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/memfd.h>
#include <sys/syscall.h>
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3; older kernels answer EINVAL */
#endif
#ifndef F_ADD_SEALS /* the kernel has had seals since 3.17, glibc since 2.27 */
#define F_ADD_SEALS   1033
#define F_GET_SEALS   1034
#define F_SEAL_SEAL   0x0001
#define F_SEAL_SHRINK 0x0002
#define F_SEAL_GROW   0x0004
#endif
#else
#include <sys/random.h>
#endif

/* "/pmp-" and 22 characters of 6 random bits each (132 bits); macOS allows 31 characters. */
#define NAME_PREFIX "/pmp-"
#define NAME_RANDOM 22

static void forget(pmp_shm *segment)
{
    segment->address = NULL;
    segment->size_bytes = 0;
    segment->descriptor = -1;
}

static int map(pmp_shm *segment, int descriptor, size_t size_bytes, int protection)
{
    void *const address = mmap(NULL, size_bytes, protection, MAP_SHARED, descriptor, 0);
    if (address == MAP_FAILED) {
        return -errno;
    }
    segment->address = address;
    segment->size_bytes = size_bytes;
    segment->descriptor = descriptor;
    return 0;
}

#ifdef __linux__

/* By system call: glibc has getentropy since 2.25 only. Kernels before 3.17 do not have the call, but the device. */
static int get_random(unsigned char *bytes, size_t count)
{
    if (syscall(SYS_getrandom, bytes, count, 0) == (long)count) {
        return 0;
    }
    const int descriptor = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
        return -errno;
    }
    const ssize_t got = read(descriptor, bytes, count);
    const int error = got < 0 ? -errno : -EIO;
    close(descriptor);
    return got == (ssize_t)count ? 0 : error;
}

#else

static int get_random(unsigned char *bytes, size_t count)
{
    return getentropy(bytes, count) == 0 ? 0 : -errno;
}

#endif

/* The name exists between shm_open and shm_unlink only; a process killed between the two
 * leaves an empty object of no pages. */
static int open_posix(void)
{
    static const char alphabet[] =
        "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
    unsigned char random_bytes[NAME_RANDOM];
    char name[sizeof NAME_PREFIX + NAME_RANDOM] = NAME_PREFIX;

    const int error = get_random(random_bytes, sizeof random_bytes);
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
    return descriptor;
}

static int open_file(void)
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
    return descriptor;
}

#ifdef __linux__

/* By system call: glibc has memfd_create since 2.27 only. */
static int create_memfd(unsigned flags)
{
    return (int)syscall(SYS_memfd_create, "pympipool", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
}

static int open_memfd(void)
{
    int descriptor = create_memfd(MFD_NOEXEC_SEAL);
    if (descriptor < 0 && errno == EINVAL) {
        descriptor = create_memfd(0);
    }
    if (descriptor < 0) {
        return -errno;
    }
    if (fchmod(descriptor, S_IRUSR | S_IWUSR) != 0) {
        const int error = -errno;
        close(descriptor);
        return error;
    }
    return descriptor;
}

/* Not posix_fallocate: that would write page after page where fallocate is not supported, and
 * a write to a sparse file does not fail the way a full file system must. */
static int reserve_pages(int descriptor, size_t size_bytes)
{
    while (fallocate(descriptor, 0, 0, (off_t)size_bytes) != 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

/* Only a memfd can be sealed; a POSIX object answers EPERM and stays as it is. */
static int seal(int descriptor)
{
    if (fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
        return 0;
    }
    return errno == EPERM || errno == EINVAL ? 0 : -errno;
}

/* The kernel reports F_SEAL_SEAL alone for objects that could never be sealed, including POSIX
 * shared memory. These are accepted. */
static bool could_shrink(int descriptor)
{
    const int seals = fcntl(descriptor, F_GET_SEALS);
    return seals >= 0 && seals != F_SEAL_SEAL && (seals & F_SEAL_SHRINK) == 0;
}

#else

static int open_memfd(void)
{
    return -ENOSYS;
}

/* No call is needed: the size given to ftruncate counts against the system's limit. */
static int reserve_pages(int descriptor, size_t size_bytes)
{
    (void)descriptor;
    (void)size_bytes;
    return 0;
}

static int seal(int descriptor)
{
    (void)descriptor;
    return 0;
}

static bool could_shrink(int descriptor)
{
    (void)descriptor;
    return false;
}

#endif

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

/* contents NULL: zeroes. */
static int fill(pmp_shm *segment, int descriptor, size_t size_bytes, const struct iovec *contents,
                int count)
{
    if (ftruncate(descriptor, (off_t)size_bytes) != 0) {
        return -errno;
    }
    int error = contents == NULL ? reserve_pages(descriptor, size_bytes)
                                 : write_contents(descriptor, contents, count);
    if (error == 0) {
        error = seal(descriptor);
    }
    if (error != 0) {
        return error;
    }
    return map(segment, descriptor, size_bytes,
               contents == NULL ? PROT_READ | PROT_WRITE : PROT_READ);
}

static int create(pmp_shm *segment, int (*open_source)(void), size_t size_bytes,
                  const struct iovec *contents, int count)
{
    const int descriptor = open_source();
    if (descriptor < 0) {
        return descriptor;
    }
    const int error = fill(segment, descriptor, size_bytes, contents, count);
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
                       const struct iovec *contents, int count)
{
    static int (*const sources[])(void) = {open_memfd, open_posix, open_file};
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
            create(segment, sources[i], (size_bytes + page - 1) / page * page, contents, count);
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
    return create_best(segment, size_bytes, kind, NULL, 0);
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
    return create_best(segment, size_bytes, PMP_SHM_BEST, contents, count);
}

int pmp_shm_overwrite(const pmp_shm *segment, const void *bytes, size_t count, size_t offset)
{
    if (offset > segment->size_bytes || count > segment->size_bytes - offset) {
        return -EINVAL;
    }
    return write_all(segment->descriptor, bytes, count, offset);
}

static int check_and_map(pmp_shm *segment, int descriptor, int protection)
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
    if (could_shrink(descriptor)) {
        return -EINVAL;
    }
    if (fcntl(descriptor, F_SETFD, FD_CLOEXEC) != 0) {
        return -errno;
    }
    return map(segment, descriptor, (size_t)status.st_size, protection);
}

static int attach(pmp_shm *segment, int descriptor, int protection)
{
    forget(segment);
    if (descriptor < 0) {
        return -EBADF;
    }
    const int error = check_and_map(segment, descriptor, protection);
    if (error != 0) {
        close(descriptor);
    }
    return error;
}

int pmp_shm_attach(pmp_shm *segment, int descriptor)
{
    return attach(segment, descriptor, PROT_READ | PROT_WRITE);
}

int pmp_shm_attach_readonly(pmp_shm *segment, int descriptor)
{
    return attach(segment, descriptor, PROT_READ);
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
    if (segment->address == NULL) {
        return;
    }
    munmap(segment->address, segment->size_bytes);
    pmp_shm_close_descriptor(segment);
    forget(segment);
}
