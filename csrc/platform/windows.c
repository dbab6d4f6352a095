#include "../platform.h"

#ifdef PMP_WINDOWS

#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#define WIN32_LEAN_AND_MEAN
#include <winsock2.h>

#include <windows.h>

#include <bcrypt.h>
#include <errno.h>

#include "../doorbell.h"
#include "../watchdog.h"

#define NS_PER_S INT64_C(1000000000)

static HANDLE handle_of(int descriptor)
{
    return (HANDLE)(intptr_t)descriptor;
}

/* ---- locks ---- */

_Static_assert(sizeof(pmp_mutex) == sizeof(SRWLOCK), "a mutex is an SRWLOCK");

static SRWLOCK *lock_of(pmp_mutex *mutex)
{
    return (SRWLOCK *)(void *)mutex;
}

int pmp_mutex_init(pmp_mutex *mutex)
{
    InitializeSRWLock(lock_of(mutex));
    return 0;
}

void pmp_mutex_destroy(pmp_mutex *mutex)
{
    (void)mutex;
}

void pmp_mutex_lock(pmp_mutex *mutex)
{
    AcquireSRWLockExclusive(lock_of(mutex));
}

bool pmp_mutex_trylock(pmp_mutex *mutex)
{
    return TryAcquireSRWLockExclusive(lock_of(mutex));
}

void pmp_mutex_unlock(pmp_mutex *mutex)
{
    ReleaseSRWLockExclusive(lock_of(mutex));
}

/* ---- time, threads, processes ---- */

int64_t pmp_now_ns(void)
{
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    return ticks.QuadPart / per_second.QuadPart * NS_PER_S +
           ticks.QuadPart % per_second.QuadPart * NS_PER_S / per_second.QuadPart;
}

void pmp_yield(void)
{
    SwitchToThread();
}

void pmp_pause_us(uint32_t pause_us)
{
    Sleep(pause_us / 1000 + 1);
}

int64_t pmp_process_id(void)
{
    return GetCurrentProcessId();
}

int pmp_random(void *bytes, size_t count)
{
    return BCryptGenRandom(NULL, bytes, (ULONG)count, BCRYPT_USE_SYSTEM_PREFERRED_RNG) == 0 ? 0
                                                                                            : -EIO;
}

/* ---- descriptors that wake a thread with a selector: sockets ---- */

void pmp_wakeup_write(int descriptor)
{
    send((SOCKET)descriptor, "", 1, 0);
}

void pmp_wakeup_read(int descriptor)
{
    char bytes[4096];
    recv((SOCKET)descriptor, bytes, sizeof bytes, 0);
}

void pmp_wakeup_close(int descriptor)
{
    closesocket((SOCKET)descriptor);
}

/* ---- doorbells: events with names ----
 *
 * Each sleep has an event of its own. Its random name lies in the doorbell, so that only processes that share its memory know it. Others
 * can list names, but only of events that exist, and these admit no other user.
 *
 *     sleeper: create an event; its name into the doorbell; fence; asleep == 1? wait
 *     ringer:  asleep = 0; fence; read the name; is there such an event? set it
 *
 * One of the two comes first at the name: either the ringer reads that of this sleep, or the sleeper does not wait. A sleeper checks
 * `asleep` every CHECK_NS: if somebody else has taken the wake-up after all, that costs a delay. */

#define NAME_PREFIX L"Local\\pympipool-"
#define NAME_DIGITS 16
#define NAME_LENGTH (sizeof NAME_PREFIX / sizeof(wchar_t) + NAME_DIGITS)

#define CHECK_NS NS_PER_S

/* Shorter sleeps need a timer: those of other functions last up to 16 ms longer. */
#define TIMER_BELOW_NS INT64_C(50000000)

static struct {
    SECURITY_ATTRIBUTES attributes;
    SECURITY_DESCRIPTOR descriptor;
    _Alignas(ACL) char list[sizeof(ACL) + sizeof(ACCESS_ALLOWED_ACE) + SECURITY_MAX_SID_SIZE];
} own_user;

static BOOL CALLBACK admit_own_user(INIT_ONCE *once, void *parameter, void **context)
{
    union {
        TOKEN_USER user;
        char bytes[sizeof(TOKEN_USER) + SECURITY_MAX_SID_SIZE];
    } owner;
    ACL *const list = (ACL *)(void *)own_user.list;
    HANDLE token;
    DWORD size_bytes;

    (void)once;
    (void)parameter;
    (void)context;
    if (!OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &token)) {
        return FALSE;
    }
    const bool is_known =
        GetTokenInformation(token, TokenUser, &owner, sizeof owner, &size_bytes) != 0;
    CloseHandle(token);
    own_user.attributes = (SECURITY_ATTRIBUTES){.nLength = sizeof own_user.attributes,
                                                .lpSecurityDescriptor = &own_user.descriptor};
    return is_known && InitializeAcl(list, sizeof own_user.list, ACL_REVISION) &&
           AddAccessAllowedAce(list, ACL_REVISION, EVENT_ALL_ACCESS, owner.user.User.Sid) &&
           InitializeSecurityDescriptor(&own_user.descriptor, SECURITY_DESCRIPTOR_REVISION) &&
           SetSecurityDescriptorDacl(&own_user.descriptor, TRUE, list, FALSE);
}

static void write_name(wchar_t *name, uint64_t number)
{
    CopyMemory(name, NAME_PREFIX, sizeof NAME_PREFIX);
    for (size_t digit = 0; digit < NAME_DIGITS; digit++) {
        name[NAME_LENGTH - 2 - digit] = L"0123456789abcdef"[number & 15];
        number >>= 4;
    }
    name[NAME_LENGTH - 1] = 0;
}

/* Returns NULL if there is no memory, or if there is an event of this name: it is that of somebody else. */
static HANDLE create_event(pmp_doorbell *bell)
{
    static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
    wchar_t name[NAME_LENGTH];
    uint64_t number;

    if (pmp_random(&number, sizeof number) != 0 ||
        !InitOnceExecuteOnce(&once, admit_own_user, NULL, NULL)) {
        return NULL;
    }
    number |= 1; /* 0 stands for none */
    write_name(name, number);
    SetLastError(ERROR_SUCCESS);
    const HANDLE event = CreateEventW(&own_user.attributes, FALSE, FALSE, name);
    if (event != NULL && GetLastError() == ERROR_ALREADY_EXISTS) {
        CloseHandle(event);
        return NULL;
    }
    atomic_store(&bell->event, number);
    return event;
}

static DWORD milliseconds(int64_t ns)
{
    return (DWORD)((ns + 999999) / 1000000);
}

static DWORD wait_with_timer(HANDLE event, HANDLE timer, int64_t ns)
{
    const HANDLE handles[] = {event, timer};
    const LARGE_INTEGER due = {.QuadPart = -((ns + 99) / 100)}; /* negative: from now on */

    if (!SetWaitableTimer(timer, &due, 0, NULL, NULL, FALSE)) {
        return WaitForSingleObject(event, milliseconds(ns));
    }
    return WaitForMultipleObjects(2, handles, FALSE, INFINITE) == WAIT_OBJECT_0 ? WAIT_OBJECT_0
                                                                                : WAIT_TIMEOUT;
}

static DWORD wait_for(HANDLE event, int64_t ns)
{
    const HANDLE timer =
        ns < TIMER_BELOW_NS
            ? CreateWaitableTimerExW(NULL, NULL, CREATE_WAITABLE_TIMER_HIGH_RESOLUTION,
                                     TIMER_MODIFY_STATE | SYNCHRONIZE)
            : NULL;
    if (timer == NULL) {
        return WaitForSingleObject(event, milliseconds(ns));
    }
    const DWORD result = wait_with_timer(event, timer, ns);
    CloseHandle(timer);
    return result;
}

static int sleep_until_rung(pmp_doorbell *bell, HANDLE event, int64_t left_ns)
{
    while (atomic_load(&bell->asleep) == 1) {
        const int64_t next_ns = left_ns < CHECK_NS ? left_ns : CHECK_NS;
        if (wait_for(event, next_ns) == WAIT_OBJECT_0) {
            return 0;
        }
        left_ns -= next_ns;
        if (left_ns == 0) {
            return -ETIMEDOUT;
        }
    }
    return 0;
}

int pmp_doorbell_sleep(pmp_doorbell *bell, int64_t timeout_ns)
{
    const HANDLE event = create_event(bell);

    if (event == NULL) { /* the caller looks again */
        Sleep(1);
        return -EINTR;
    }
    atomic_thread_fence(memory_order_seq_cst);
    const int code = sleep_until_rung(bell, event, timeout_ns < 0 ? INT64_MAX : timeout_ns);
    CloseHandle(event);
    return code;
}

void pmp_doorbell_wake(pmp_doorbell *bell)
{
    wchar_t name[NAME_LENGTH];

    atomic_thread_fence(memory_order_seq_cst);
    const uint64_t number = atomic_load(&bell->event);
    if (number == 0) {
        return;
    }
    write_name(name, number);
    const HANDLE event = OpenEventW(EVENT_MODIFY_STATE, FALSE, name);
    if (event != NULL) {
        SetEvent(event);
        CloseHandle(event);
    }
}

/* ---- the watchdog ---- */

/* The thread needs very little. The rest is room for thread-local storage of other libraries, which can be large. */
#define STACK_BYTES (256 * 1024)

static DWORD WINAPI watch(void *master)
{
    WaitForSingleObject(master, INFINITE);
    TerminateProcess(GetCurrentProcess(), 9);
    return 0;
}

/* The descriptor is a handle of the master's process. */
int pmp_watchdog_start(int descriptor)
{
    DWORD flags;

    if (!GetHandleInformation(handle_of(descriptor), &flags)) {
        return -EBADF;
    }
    const HANDLE thread = CreateThread(NULL, STACK_BYTES, watch, handle_of(descriptor),
                                       STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (thread == NULL) {
        return -EAGAIN;
    }
    CloseHandle(thread);
    return 0;
}

/* No process is forked. */
int pmp_end_with_parent(int parent_pid)
{
    (void)parent_pid;
    return -ENOSYS;
}

#endif
