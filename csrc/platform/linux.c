#define _GNU_SOURCE

#include "../platform.h"

#ifdef PMP_LINUX

#include "../doorbell.h"
#include "../watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/memfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

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
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14; older kernels answer EINVAL */
#endif

/* By system call: glibc has getentropy since 2.25 only. Kernels before 3.17 do not have the call, but the device. */
int pmp_random(void *bytes, size_t count)
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

/* ---- cores ---- */

uint32_t pmp_current_core(void)
{
    const int core = sched_getcpu();
    return core < 0 ? 0 : (uint32_t)core + 1;
}

bool pmp_move_to_core(uint32_t core)
{
    cpu_set_t usable, wanted;

    if (core == 0 || core > CPU_SETSIZE || sched_getaffinity(0, sizeof usable, &usable) != 0 ||
        !CPU_ISSET(core - 1, &usable)) {
        return false;
    }
    CPU_ZERO(&wanted);
    CPU_SET(core - 1, &wanted);
    if (sched_setaffinity(0, sizeof wanted, &wanted) != 0) {
        return false;
    }
    sched_setaffinity(0, sizeof usable, &usable);
    return true;
}

uint32_t pmp_next_core(uint32_t core)
{
    cpu_set_t usable;

    if (sched_getaffinity(0, sizeof usable, &usable) != 0) {
        return 0;
    }
    while (core < CPU_SETSIZE && !CPU_ISSET(core, &usable)) {
        core++;
    }
    return core < CPU_SETSIZE ? core + 1 : 0;
}

/* ---- memory ---- */

#define HUGE_PAGE ((size_t)2 << 20)

static unsigned char *map_new(size_t size_bytes)
{
    void *const pages =
        mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pages != MAP_FAILED ? pages : NULL;
}

/* Linux itself maps at a multiple of a huge page only what is a multiple of it, too. At any other address there is no huge page at
 * the beginning of a mapping, and perhaps none at all. */
static unsigned char *map_aligned(size_t size_bytes)
{
    unsigned char *const pages = map_new(size_bytes + HUGE_PAGE);
    if (pages == NULL) {
        return NULL;
    }
    const size_t before = -(uintptr_t)pages % HUGE_PAGE;
    if (before != 0) {
        munmap(pages, before);
    }
    munmap(pages + before + size_bytes, HUGE_PAGE - before);
    return pages + before;
}

void *pmp_pages_new(size_t size_bytes)
{
    const bool is_small = size_bytes < HUGE_PAGE || size_bytes > SIZE_MAX - HUGE_PAGE;
    unsigned char *const pages = is_small ? map_new(size_bytes) : map_aligned(size_bytes);
    if (pages != NULL) {
        madvise(pages, size_bytes, MADV_HUGEPAGE); /* without it they are only slower */
    }
    return pages;
}

void pmp_pages_populate(void *pages, size_t size_bytes)
{
    madvise(pages, size_bytes, MADV_POPULATE_READ);
}

/* By /proc/self/pagemap, which has 64 bits for each page: 63: it is there; 61: it is that of a file. */
int pmp_pages_used(const void *pages, size_t size_bytes, int sampled, bool written)
{
    const uint64_t page = pmp_page_bytes(), page_count = size_bytes / page;
    uint64_t entry;
    int used = 0;

    const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0) {
        return 0;
    }
    for (int i = 0; i < sampled; i++) {
        const uint64_t number =
            (uintptr_t)pages / page + page_count * (uint64_t)i / (uint64_t)sampled;
        if (pread(pagemap, &entry, sizeof entry, (off_t)(number * sizeof entry)) == sizeof entry &&
            entry >> 63 != 0 && (!written || (entry >> 61 & 1) == 0)) {
            used++;
        }
    }
    close(pagemap);
    return used;
}

/* By system call: glibc has memfd_create since 2.27 only. */
static int create_memfd(unsigned flags)
{
    return (int)syscall(SYS_memfd_create, "pympipool", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
}

int pmp_open_anonymous(size_t size_bytes)
{
    int descriptor = create_memfd(MFD_NOEXEC_SEAL);
    if (descriptor < 0 && errno == EINVAL) {
        descriptor = create_memfd(0);
    }
    if (descriptor < 0) {
        return -errno;
    }
    if (fchmod(descriptor, S_IRUSR | S_IWUSR) != 0 ||
        ftruncate(descriptor, (off_t)size_bytes) != 0) {
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

int pmp_reopen(int descriptor, bool is_writable)
{
    char path[32];

    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    const int opened = open(path, (is_writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
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

/* ---- doorbells ---- */

#ifndef PMP_PORTABLE_WAIT

#define NS_PER_S INT64_C(1000000000)

/* Not FUTEX_PRIVATE_FLAG: the word is shared between processes. */
void pmp_doorbell_wake(pmp_doorbell *bell)
{
    syscall(SYS_futex, &bell->asleep, FUTEX_WAKE, 1, NULL, NULL, 0);
}

int pmp_doorbell_sleep(pmp_doorbell *bell, int64_t timeout_ns)
{
    const int64_t ns = timeout_ns < 0 ? 0 : timeout_ns;
    const struct timespec timeout = {.tv_sec = (time_t)(ns / NS_PER_S),
                                     .tv_nsec = (long)(ns % NS_PER_S)};

    /* The kernel compares the word with 1 before it puts this thread to sleep: a ring between
     * arming and here is not lost. */
    if (syscall(SYS_futex, &bell->asleep, FUTEX_WAIT, 1, timeout_ns < 0 ? NULL : &timeout, NULL,
                0) == 0) {
        return 0;
    }
    return errno == ETIMEDOUT || errno == EINTR ? -errno : 0;
}

#endif

/* ---- the master's end ---- */

int pmp_watch_open(int connection)
{
    return connection;
}

/* Data is not requested: other code reads it. */
void pmp_watch_wait(int watch)
{
    struct pollfd watched = {.fd = watch, .events = POLLRDHUP};

    while (poll(&watched, 1, -1) <= 0) {
        /* EINTR or EAGAIN: nothing has happened on the connection. */
    }
}

void pmp_watch_close(int watch)
{
    (void)watch; /* it is not the watchdog's */
}

int pmp_end_with_parent(int parent_pid)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return getppid() == parent_pid ? 0 : -ESRCH;
}

#endif
