/* What the C core needs of the system. No other file of csrc/ or _core/ asks which one it is.
 *
 *     platform/linux.c    \  with platform/posix.c, platform/posix_memory.c
 *     platform/bsd.c      /  (macOS, FreeBSD)
 *     platform/windows.c, platform/windows_memory.c
 *
 * Each of these files is compiled on all systems, and is empty on those that it is not for. doorbell.h, buffer_pool.h and watchdog.h
 * declare the rest of what they define. Functions that return an int return a negative errno on errors.
 */
#ifndef PMP_PLATFORM_H
#define PMP_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define PMP_WINDOWS
#elif defined(__linux__) && !defined(PMP_AS_ON_BSD)
#define PMP_LINUX
#else
#define PMP_BSD
#endif

/* ---- locks ---- */

#ifdef PMP_WINDOWS

/* An SRWLOCK. The system's header defines too many names to be included here. */
typedef struct {
    void *state;
} pmp_mutex;

int pmp_mutex_init(pmp_mutex *mutex);
void pmp_mutex_destroy(pmp_mutex *mutex);
void pmp_mutex_lock(pmp_mutex *mutex);
bool pmp_mutex_trylock(pmp_mutex *mutex); /* true: it is locked now */
void pmp_mutex_unlock(pmp_mutex *mutex);

static inline void pmp_load_unwinder(void)
{
}

#else

#include <dlfcn.h>
#include <pthread.h>

/* Loads what the end of a thread needs, where the C library would load it then, and end the process if that fails. Here, so that
 * programs that do not call it need no library for it. */
static inline void pmp_load_unwinder(void)
{
    dlopen("libgcc_s.so.1", RTLD_LAZY);
}

typedef pthread_mutex_t pmp_mutex;

static inline int pmp_mutex_init(pmp_mutex *mutex)
{
    return -pthread_mutex_init(mutex, NULL);
}

static inline void pmp_mutex_destroy(pmp_mutex *mutex)
{
    pthread_mutex_destroy(mutex);
}

static inline void pmp_mutex_lock(pmp_mutex *mutex)
{
    pthread_mutex_lock(mutex);
}

static inline bool pmp_mutex_trylock(pmp_mutex *mutex)
{
    return pthread_mutex_trylock(mutex) == 0;
}

static inline void pmp_mutex_unlock(pmp_mutex *mutex)
{
    pthread_mutex_unlock(mutex);
}

#endif

/* ---- time, threads, processes ---- */

/* Returns the time of the monotonic clock, ns. */
int64_t pmp_now_ns(void);

/* Offers the core to other threads. */
void pmp_yield(void);

#ifdef PMP_LINUX

/* Returns the core that this thread runs on, plus one; 0 if the system does not tell. */
uint32_t pmp_current_core(void);

/* Has the system move this thread to a core, and leaves it as free to move on as it was. Returns false if it may not use that
 * core, or the system moves no threads. */
bool pmp_move_to_core(uint32_t core);

/* Returns the next core that this thread may use, counted as above; 0 if there is none. pmp_next_core(0) is the first one. */
uint32_t pmp_next_core(uint32_t core);

#else

static inline uint32_t pmp_current_core(void)
{
    return 0;
}

static inline bool pmp_move_to_core(uint32_t core)
{
    (void)core;
    return false;
}

static inline uint32_t pmp_next_core(uint32_t core)
{
    (void)core;
    return 0;
}

#endif

/* Sleeps for so many microseconds. */
void pmp_pause_us(uint32_t pause_us);

int64_t pmp_process_id(void);

/* Fills bytes with random numbers that nobody can guess. */
int pmp_random(void *bytes, size_t count);

/* ---- memory of this process ---- */

size_t pmp_page_bytes(void);

/* Returns the memory of the machine, or 0 if that is not known. */
size_t pmp_machine_bytes(void);

/* Return memory at a multiple of 64 bytes, or NULL. */
void *pmp_aligned_new(size_t size_bytes);
void pmp_aligned_free(void *memory);

/* Returns zeroed pages, large ones where the system has them, or NULL. The size is a multiple of the page size, if it is 2 MiB or
 * more. */
void *pmp_pages_new(size_t size_bytes);
void pmp_pages_free(void *pages, size_t size_bytes);

/* Allows the system to take pages back if it needs them: their contents may be zero afterwards. */
void pmp_pages_offer(void *pages, size_t size_bytes);

/* Maps the pages of mapped memory before they are used. */
void pmp_pages_populate(void *pages, size_t size_bytes);

/* Returns how many of so many sampled pages of a mapping this process uses; with written, how many it has written, of a mapping that
 * is PMP_COPY_ON_WRITE. 0 where the system does not tell. */
int pmp_pages_used(const void *pages, size_t size_bytes, int sampled, bool written);

/* ---- memory behind a descriptor, which processes share ---- */

/* Return a descriptor of zeroed memory of this size, a multiple of the page size, without a name. The caller owns it. Programs that
 * this process starts do not get it, and other users cannot use it. -ENOSYS: the system has no such memory.
 *
 * anonymous: of the system itself: a memfd, or a section of Windows. posix: a POSIX shared memory object.
 * file: an unlinked file in $TMPDIR or /tmp. */
int pmp_open_anonymous(size_t size_bytes);
int pmp_open_posix(size_t size_bytes);
int pmp_open_file(size_t size_bytes);

/* Reserves all pages behind a descriptor, up to this size. */
int pmp_reserve_pages(int descriptor, size_t size_bytes);

/* Seals the size, where that is possible. Returns 0 where it is not. */
int pmp_seal(int descriptor);

/* Tells the size of the memory behind a descriptor that was received, and keeps it from programs that this process starts.
 * -EINVAL: its size is no multiple of the page size, or 0; or it could be sealed against shrinking, and is not. */
int pmp_check_received(int descriptor, size_t *size_bytes);

/* Opens what is behind a descriptor once more, as another file than that of the descriptor, which stays open. */
int pmp_reopen(int descriptor, bool is_writable);

/* Gives the same memory another descriptor. */
int pmp_duplicate(int descriptor);

/* Returns true if no process has this memory open or mapped, except by this descriptor, which pmp_reopen has returned, and by mappings
 * of it. False also where the system does not tell. */
bool pmp_is_only_opener(int descriptor);

void pmp_close(int descriptor);

/* Write and read the memory without mapping it. Of what pmp_read reads, the caller gets the number of bytes: 0 at the end. */
int pmp_write(int descriptor, const void *bytes, size_t count, size_t offset);
int64_t pmp_read(int descriptor, void *bytes, size_t count, size_t offset);

enum pmp_access {
    PMP_READ_ONLY,
    PMP_READ_WRITE,
    PMP_COPY_ON_WRITE /* what is written stays in this process. No memory is reserved for it */
};

int pmp_map(void **address, int descriptor, size_t size_bytes, enum pmp_access access);
void pmp_unmap(void *address, size_t size_bytes);

/* Makes a mapping that is PMP_READ_ONLY writable. Its address may change. */
int pmp_map_writable(void **address, int descriptor, size_t size_bytes);

/* Maps a file, PMP_COPY_ON_WRITE, and pmp_unmap unmaps it. The descriptor is that of open(). */
int pmp_map_file(void **address, int descriptor, size_t size_bytes);

/* ---- descriptors that wake a thread with a selector ---- */

/* Any that can be written; on Windows, a socket. The functions do not block if the descriptor does not, and report no errors. */
void pmp_wakeup_write(int descriptor);
void pmp_wakeup_read(int descriptor);
void pmp_wakeup_close(int descriptor);

/* ---- doorbells ---- */

struct pmp_doorbell;

/* Ends pmp_doorbell_sleep, after the doorbell was disarmed. */
void pmp_doorbell_wake(struct pmp_doorbell *bell);

/* ---- for posix.c, from linux.c or bsd.c ---- */

/* Returns true if the memory could be sealed against shrinking, and is not. */
bool pmp_could_shrink(int descriptor);

/* Returns a descriptor that pmp_watch_wait waits on until the other end of a connection has gone. */
int pmp_watch_open(int connection);
void pmp_watch_wait(int watch);
void pmp_watch_close(int watch);

#endif
