#define _GNU_SOURCE
#define _DARWIN_C_SOURCE

#include "shm_source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
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
int pmp_open_posix(void)
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

int pmp_open_file(void)
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

int pmp_open_memfd(void)
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
int pmp_reserve_pages(int descriptor, size_t size_bytes)
{
    while (fallocate(descriptor, 0, 0, (off_t)size_bytes) != 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

/* Only a memfd can be sealed; a POSIX object answers EPERM and stays as it is. */
int pmp_seal(int descriptor)
{
    if (fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
        return 0;
    }
    return errno == EPERM || errno == EINVAL ? 0 : -errno;
}

/* The kernel reports F_SEAL_SEAL alone for objects that could never be sealed, including POSIX
 * shared memory. These are accepted. */
bool pmp_could_shrink(int descriptor)
{
    const int seals = fcntl(descriptor, F_GET_SEALS);
    return seals >= 0 && seals != F_SEAL_SEAL && (seals & F_SEAL_SHRINK) == 0;
}

int pmp_reopen(int descriptor, int flags)
{
    char path[32];

    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    const int opened = open(path, flags | O_CLOEXEC);
    return opened < 0 ? -errno : opened;
}

/* The kernel grants a lease for writing only to the file's only opener. A mapping counts, also one that a process has inherited from
 * the one that has made it, as it keeps its file open. The lease lasts for this function only. If another process opens the file
 * meanwhile, this one gets a signal, by default a deadly one: SIGURG is ignored. */
bool pmp_is_only_opener(int descriptor)
{
    if (fcntl(descriptor, F_SETSIG, SIGURG) != 0 || fcntl(descriptor, F_SETLEASE, F_WRLCK) != 0) {
        return false;
    }
    fcntl(descriptor, F_SETLEASE, F_UNLCK);
    return true;
}

#else

int pmp_open_memfd(void)
{
    return -ENOSYS;
}

/* No call is needed: the size given to ftruncate counts against the system's limit. */
int pmp_reserve_pages(int descriptor, size_t size_bytes)
{
    (void)descriptor;
    (void)size_bytes;
    return 0;
}

int pmp_seal(int descriptor)
{
    (void)descriptor;
    return 0;
}

bool pmp_could_shrink(int descriptor)
{
    (void)descriptor;
    return false;
}

int pmp_reopen(int descriptor, int flags)
{
    (void)descriptor;
    (void)flags;
    return -ENOSYS;
}

bool pmp_is_only_opener(int descriptor)
{
    (void)descriptor;
    return false;
}

#endif
