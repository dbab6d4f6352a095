/* What support.h needs of the system, for Windows, where there is no fork.
 *
 * A child is the same program, started again: before main it maps the shared memory of its parent at the same addresses, runs its
 * function, and exits. Only shared memory and constants are there as in the parent. */
#ifndef PMP_TEST_SUPPORT_WINDOWS_H
#define PMP_TEST_SUPPORT_WINDOWS_H

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <malloc.h>

#include "../../csrc/watchdog.h"

#define WNOHANG 1

/* All shared memory lies in one section, far from everything else. */
#define SHARED_ADDRESS ((char *)(uintptr_t)UINT64_C(0x100000000000))
#define SHARED_BYTES   ((size_t)512 << 20)

enum { CHILDREN_MAX = 4096 };

static HANDLE shared_section;
static size_t shared_used;
static HANDLE children_of_this[CHILDREN_MAX];
static int child_count;
extern IMAGE_DOS_HEADER __ImageBase;

static inline void map_shared_section(HANDLE section)
{
    shared_section = section;
    CHECK(MapViewOfFileEx(section, FILE_MAP_READ | FILE_MAP_WRITE, 0, 0, 0, SHARED_ADDRESS) ==
          SHARED_ADDRESS);
}

/* Zeroed memory that children share; page aligned. */
static inline void *shared_memory(size_t size_bytes)
{
    SECURITY_ATTRIBUTES inherited = {sizeof inherited, NULL, TRUE};

    if (shared_section == NULL) {
        map_shared_section(CreateFileMappingW(INVALID_HANDLE_VALUE, &inherited, PAGE_READWRITE, 0,
                                              (DWORD)SHARED_BYTES, NULL));
    }
    void *const memory = SHARED_ADDRESS + shared_used;
    shared_used += (size_bytes + 4095) / 4096 * 4096;
    CHECK(shared_used <= SHARED_BYTES);
    return memory;
}

/* Runs the function of a child, with the arguments that start_child has written. */
__attribute__((constructor)) static void run_as_child(void)
{
    const char *at = strstr(GetCommandLineA(), " --child ");
    unsigned long long parent, section, body, argument;

    if (at == NULL) {
        return;
    }
    CHECK_EQUAL(sscanf(at, " --child %llu %llx %llx %llx", &parent, &section, &body, &argument), 4);
    if (section != 0) {
        map_shared_section((HANDLE)(uintptr_t)section);
    }
    CHECK_EQUAL(pmp_watchdog_start((int)(intptr_t)OpenProcess(SYNCHRONIZE, FALSE, (DWORD)parent)),
                0);
    int (*const function)(void *) =
        (int (*)(void *))(uintptr_t)((uintptr_t)&__ImageBase + (uintptr_t)body);
    _exit(function((void *)(uintptr_t)argument));
}

/* Starts a child that ends with this process; it exits with what body returns. */
static inline pid_t start_child(int (*body)(void *), void *argument)
{
    char program[MAX_PATH], command[2 * MAX_PATH];
    STARTUPINFOA start = {.cb = sizeof start};
    PROCESS_INFORMATION child;

    CHECK(GetModuleFileNameA(NULL, program, sizeof program) > 0);
    snprintf(command, sizeof command, "\"%s\" --child %llu %llx %llx %llx", program,
             (unsigned long long)GetCurrentProcessId(),
             (unsigned long long)(uintptr_t)shared_section,
             (unsigned long long)((uintptr_t)body - (uintptr_t)&__ImageBase),
             (unsigned long long)(uintptr_t)argument);
    CHECK(CreateProcessA(NULL, command, NULL, NULL, TRUE, 0, NULL, NULL, &start, &child));
    CloseHandle(child.hThread);
    CHECK(child_count < CHILDREN_MAX);
    children_of_this[child_count++] = child.hProcess;
    return child_count;
}

static inline pid_t waitpid(pid_t child, int *status, int flags)
{
    DWORD code;
    const HANDLE process = children_of_this[child - 1];
    if (WaitForSingleObject(process, flags == WNOHANG ? 0 : INFINITE) != WAIT_OBJECT_0) {
        return 0;
    }
    CHECK(GetExitCodeProcess(process, &code));
    *status = (int)code;
    return child;
}

static inline void use_core(unsigned which)
{
    (void)which;
}

/* Zeroed memory. */
static inline void *guarded_memory(size_t size_bytes)
{
    void *const memory = _aligned_malloc(size_bytes, PMP_CACHE_LINE);
    CHECK(memory != NULL);
    memset(memory, 0, size_bytes);
    return memory;
}

/* Returns true if the page of this byte is mapped. */
static inline bool is_mapped(const void *byte)
{
    MEMORY_BASIC_INFORMATION page;
    return VirtualQuery(byte, &page, sizeof page) != 0 && page.State == MEM_COMMIT;
}

static HANDLE alarm_timer;

static void CALLBACK end_by_alarm(void *context, BOOLEAN fired)
{
    (void)context;
    (void)fired;
    fprintf(stderr, "\nFAILED: the time limit has passed\n");
    _exit(1);
}

static inline void alarm(unsigned limit_s)
{
    if (alarm_timer != NULL) {
        CHECK(DeleteTimerQueueTimer(NULL, alarm_timer, INVALID_HANDLE_VALUE));
        alarm_timer = NULL;
    }
    if (limit_s > 0) {
        CHECK(CreateTimerQueueTimer(&alarm_timer, NULL, end_by_alarm, NULL, limit_s * 1000, 0,
                                    WT_EXECUTEONLYONCE));
    }
}

#endif
