/* Segments: access, cleanup, and the errors when there is no room. */
#include "support.h"

#include "../../csrc/shm.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#ifdef __linux__
#include <linux/memfd.h>
#include <sys/syscall.h>
#endif

enum { SIZE = 3 * 65536 };

static const enum pmp_shm_kind kinds[] = {PMP_SHM_BEST, PMP_SHM_POSIX, PMP_SHM_FILE};

static pmp_shm new_segment(size_t size_bytes, enum pmp_shm_kind kind)
{
    pmp_shm segment;
    CHECK_EQUAL(pmp_shm_create(&segment, size_bytes, kind), 0);
    return segment;
}

static bool is_open(int descriptor)
{
    return fcntl(descriptor, F_GETFD) >= 0;
}

static void for_each_kind(void (*test)(enum pmp_shm_kind kind))
{
    for (size_t i = 0; i < 2; i++) {
        test(kinds[i]);
    }
}

static void check_new_segment(enum pmp_shm_kind kind)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    pmp_shm segment = new_segment(SIZE + 1, kind);
    struct stat status;

    CHECK_EQUAL(segment.size_bytes, SIZE + page);
    CHECK_EQUAL((uintptr_t)segment.address % page, 0);
    for (size_t i = 0; i < segment.size_bytes; i++) {
        CHECK_EQUAL(((unsigned char *)segment.address)[i], 0);
    }
    CHECK_EQUAL(fstat(segment.descriptor, &status), 0);
    CHECK_EQUAL(status.st_mode & 07777, 0600);
    CHECK_EQUAL(status.st_nlink, 0);
    CHECK_EQUAL(fcntl(segment.descriptor, F_GETFD), FD_CLOEXEC);
    pmp_shm_close(&segment);
}

static void new_segment_is_zeroed_private_and_nameless(void)
{
    for_each_kind(check_new_segment);
}

#ifdef __linux__

static void check_pages_are_reserved(enum pmp_shm_kind kind)
{
    pmp_shm segment = new_segment(SIZE, kind);
    struct stat status;
    CHECK_EQUAL(fstat(segment.descriptor, &status), 0);
    CHECK_EQUAL(status.st_blocks * 512, SIZE);
    pmp_shm_close(&segment);
}

static void pages_are_reserved(void)
{
    for_each_kind(check_pages_are_reserved);
}

#else

static void pages_are_reserved(void)
{
    skip("only Linux can reserve the pages of shared memory");
}

#endif

static int count_names(void)
{
    DIR *const folder = opendir("/dev/shm");
    int count = 0;
    if (folder == NULL) {
        return 0;
    }
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        count += strncmp(entry->d_name, "pmp-", 4) == 0;
    }
    closedir(folder);
    return count;
}

static void no_name_is_left(void)
{
    const int before = count_names();
    pmp_shm best = new_segment(SIZE, PMP_SHM_BEST), posix = new_segment(SIZE, PMP_SHM_POSIX);
    CHECK_EQUAL(count_names(), before);
    pmp_shm_close(&best);
    pmp_shm_close(&posix);
    CHECK_EQUAL(count_names(), before);
}

static void check_close(enum pmp_shm_kind kind)
{
    pmp_shm segment = new_segment(SIZE, kind), mapped = new_segment(SIZE, kind);
    const int descriptor = segment.descriptor;
    pmp_shm_close(&segment);
    CHECK(segment.address == NULL && segment.descriptor == -1);
    CHECK(!is_open(descriptor));
    pmp_shm_close(&segment);

    const int other = mapped.descriptor;
    pmp_shm_close_descriptor(&mapped);
    CHECK(!is_open(other) && mapped.descriptor == -1);
    fill_bytes(mapped.address, SIZE, 3);
    pmp_shm_close_descriptor(&mapped);
    pmp_shm_close(&mapped);
    CHECK(mapped.address == NULL);
}

static void closing_twice_does_nothing(void)
{
    for_each_kind(check_close);
}

/* Writes, in a child, into a segment attached by its descriptor. */
static int write_as_other(void *argument)
{
    pmp_shm segment;
    CHECK_EQUAL(pmp_shm_attach(&segment, dup(*(int *)argument)), 0);
    CHECK_EQUAL(segment.size_bytes, SIZE);
    CHECK_EQUAL(fcntl(segment.descriptor, F_GETFD), FD_CLOEXEC);
    fill_bytes(segment.address, SIZE, 5);
    pmp_shm_close(&segment);
    return 0;
}

static void check_sharing(enum pmp_shm_kind kind)
{
    pmp_shm segment = new_segment(SIZE, kind);
    CHECK_EQUAL(wait_for_child(start_child(write_as_other, &segment.descriptor)), 0);
    CHECK(has_bytes(segment.address, SIZE, 5));
    pmp_shm_close(&segment);
}

static void other_process_writes_into_it(void)
{
    for_each_kind(check_sharing);
}

static void create_rejects_invalid_arguments(void)
{
    pmp_shm segment;
    CHECK_EQUAL(pmp_shm_create(&segment, 0, PMP_SHM_BEST), -EINVAL);
    CHECK_EQUAL(pmp_shm_create(&segment, SIZE, (enum pmp_shm_kind)7), -EINVAL);
    CHECK_EQUAL(pmp_shm_create(&segment, SIZE_MAX, PMP_SHM_BEST), -ENOMEM);
    CHECK_EQUAL(pmp_shm_create(&segment, SIZE_MAX / 4, PMP_SHM_BEST), -ENOMEM);
    CHECK_EQUAL(pmp_shm_create(&segment, SIZE_MAX / 4, PMP_SHM_POSIX), -ENOMEM);
    CHECK(segment.address == NULL && segment.descriptor == -1);
    pmp_shm_close(&segment);
}

static void expect_refused(int descriptor)
{
    pmp_shm segment;
    CHECK_EQUAL(pmp_shm_attach(&segment, descriptor), -EINVAL);
    CHECK(!is_open(descriptor));
    CHECK(segment.address == NULL && segment.descriptor == -1);
}

static void attach_rejects_other_descriptors(void)
{
    pmp_shm segment;
    int ends[2];
    char path[] = "/tmp/pmp-test-XXXXXX";

    CHECK_EQUAL(pmp_shm_attach(&segment, -1), -EBADF);
    CHECK_EQUAL(pmp_shm_attach(&segment, 1000000), -EBADF);
    CHECK_EQUAL(pipe(ends), 0);
    expect_refused(ends[0]);
    close(ends[1]);
    int file = mkstemp(path);
    CHECK(file >= 0);
    unlink(path);
    expect_refused(dup(file)); /* empty */
    CHECK_EQUAL(ftruncate(file, 1000), 0);
    expect_refused(file); /* not a whole number of pages */
}

#ifdef __linux__

static void memfd_is_sealed(void)
{
    pmp_shm segment = new_segment(SIZE, PMP_SHM_BEST);
    const int seals = fcntl(segment.descriptor, F_GET_SEALS);

    CHECK_EQUAL(seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
                F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    CHECK_EQUAL(seals & F_SEAL_WRITE, 0);
    CHECK_EQUAL(ftruncate(segment.descriptor, SIZE / 2), -1);
    CHECK_EQUAL(errno, EPERM);
    CHECK_EQUAL(ftruncate(segment.descriptor, 2 * SIZE), -1);
    pmp_shm_close(&segment);
}

static void memfd_that_could_shrink_is_rejected(void)
{
    const int descriptor = (int)syscall(SYS_memfd_create, "test", MFD_ALLOW_SEALING);
    pmp_shm segment;
    CHECK(descriptor >= 0);
    CHECK_EQUAL(ftruncate(descriptor, SIZE), 0);
    expect_refused(dup(descriptor));
    CHECK_EQUAL(fcntl(descriptor, F_ADD_SEALS, F_SEAL_GROW), 0);
    expect_refused(dup(descriptor));
    CHECK_EQUAL(fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    CHECK_EQUAL(pmp_shm_attach(&segment, descriptor), 0);
    pmp_shm_close(&segment);
}

/* ---- a full /dev/shm ---- */

enum { SMALL = 262144, NOT_PERMITTED = 77 };

static bool write_text(const char *path, const char *text)
{
    const int file = open(path, O_WRONLY);
    const bool written = file >= 0 && write(file, text, strlen(text)) == (ssize_t)strlen(text);
    close(file);
    return written;
}

/* Makes us root of a new user namespace: without a user and a group, no file can be created. */
static bool become_root_of_a_namespace(unsigned user, unsigned group)
{
    char user_map[32], group_map[32];
    snprintf(user_map, sizeof user_map, "0 %u 1", user);
    snprintf(group_map, sizeof group_map, "0 %u 1", group);
    return unshare(CLONE_NEWUSER) == 0 && write_text("/proc/self/uid_map", user_map) &&
           write_text("/proc/self/setgroups", "deny") &&
           write_text("/proc/self/gid_map", group_map);
}

static bool mount_small_dev_shm(void)
{
    return (getuid() == 0 || become_root_of_a_namespace(getuid(), getgid())) &&
           unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=256k,mode=1777") == 0;
}

/* Fills the rest of /dev/shm. */
static void fill_dev_shm(void)
{
    static const char zeros[4096];
    const int file = open("/dev/shm/rest", O_WRONLY | O_CREAT, 0600);
    CHECK(file >= 0);
    while (write(file, zeros, sizeof zeros) > 0) {
    }
    CHECK_EQUAL(errno, ENOSPC);
    close(file);
}

static int in_small_dev_shm(void *argument)
{
    pmp_shm segment, second;
    (void)argument;
    if (!mount_small_dev_shm()) {
        return NOT_PERMITTED;
    }
    CHECK_EQUAL(pmp_shm_create(&segment, 2 * SMALL, PMP_SHM_POSIX), -ENOSPC);
    CHECK(segment.address == NULL && segment.descriptor == -1);
    CHECK_EQUAL(pmp_shm_create(&segment, SMALL / 2, PMP_SHM_POSIX), 0);
    fill_dev_shm();
    /* What was reserved stays: no SIGBUS. */
    memset(segment.address, 1, segment.size_bytes);
    CHECK_EQUAL(pmp_shm_create(&second, 4096, PMP_SHM_POSIX), -ENOSPC);
    pmp_shm_close(&segment);
    /* A failed creation leaves nothing: the same space can be had again. */
    CHECK_EQUAL(pmp_shm_create(&segment, SMALL / 2, PMP_SHM_POSIX), 0);
    /* A memfd does not depend on /dev/shm. */
    CHECK_EQUAL(pmp_shm_create(&second, 16 * SMALL, PMP_SHM_BEST), 0);
    memset(second.address, 1, second.size_bytes);
    return 0;
}

static void full_dev_shm_is_an_error_and_no_sigbus(void)
{
    const int status = wait_for_child(start_child(in_small_dev_shm, NULL));
    if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_PERMITTED) {
        skip("may not mount in a namespace of its own: run it as root (in a container with "
             "--cap-add SYS_ADMIN) or allow user namespaces (sysctl user.max_user_namespaces)");
        return;
    }
    CHECK_EQUAL(status, 0);
}

#endif

static int write_to(void *address)
{
    signal(SIGSEGV, SIG_DFL); /* not the report of a sanitizer */
    *(volatile char *)address = 'x';
    return 0;
}

static void stored_contents_are_read_only(void)
{
    static const char first[] = "first", second[] = "second";
    const pmp_span contents[] = {{first, 5}, {NULL, 0}, {second, 6}};
    pmp_shm segment, attached;

    CHECK_EQUAL(pmp_shm_store(&segment, contents, 3), 0);
    CHECK(memcmp(segment.address, "firstsecond\0", 12) == 0);
    CHECK_EQUAL(pmp_shm_attach_readonly(&attached, dup(segment.descriptor)), 0);
    CHECK_EQUAL(pmp_shm_overwrite(&segment, "F", 1, 0), 0);
    CHECK(memcmp(attached.address, "Firstsecond\0", 12) == 0);
    CHECK_EQUAL(pmp_shm_overwrite(&segment, "F", 1, segment.size_bytes), -EINVAL);
    const pid_t child = start_child(write_to, attached.address);
    const int status = wait_for_child(child);
    CHECK(WIFSIGNALED(status));
    pmp_shm_close(&segment);
    pmp_shm_close(&attached);
    CHECK_EQUAL(pmp_shm_store(&segment, contents, 0), -EINVAL);
}

int main(void)
{
    run("a new segment is zeroed, private and has no name", 60,
        new_segment_is_zeroed_private_and_nameless);
    run("the pages of a new segment are reserved", 60, pages_are_reserved);
    run("no name is left in /dev/shm", 60, no_name_is_left);
    run("closing twice does nothing", 60, closing_twice_does_nothing);
    run("another process writes into a segment", 60, other_process_writes_into_it);
    run("create rejects invalid arguments", 60, create_rejects_invalid_arguments);
    run("attach rejects descriptors of other kinds", 60, attach_rejects_other_descriptors);
    run("stored contents are read-only, except for overwriting", 60, stored_contents_are_read_only);
#ifdef __linux__
    run("a memfd is sealed", 60, memfd_is_sealed);
    run("a memfd that could shrink is rejected", 60, memfd_that_could_shrink_is_rejected);
    run("a full /dev/shm is an error and no SIGBUS", 60, full_dev_shm_is_an_error_and_no_sigbus);
#endif
    return 0;
}
