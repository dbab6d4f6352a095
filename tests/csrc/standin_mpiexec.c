/* Stands in for the mpiexec of MS-MPI, which no package registry has: starts the ranks of a job on this host in the same way.
 *
 *     mpiexec -n N PROGRAM ARGUMENTS ...
 *       mpiexec -mgr N ...      as smpd: a member of a job object that mpiexec alone has
 *         rank 0 ... rank N-1   members of another one, without a window, with the variables that smpd sets
 *
 * What it does and prints is that of MS-MPI 10.1, as its source says (https://github.com/microsoft/Microsoft-MPI). Ranks do not call
 * MPI here. So a rank that ends with another exit code than 0 stands for one that ends without MPI_Finalize: the job is aborted. */
#include <stdio.h>
#include <stdlib.h>
#include <wchar.h>
#include <windows.h>

#define RANKS_MAX   64 /* for which a thread can wait */
#define COMMAND_MAX 32768
#define ABORTED     0x7fff

static void fail(const char *what)
{
    fprintf(stderr, "stand-in for mpiexec: %s: error %lu\n", what, GetLastError());
    exit(1);
}

/* Add an argument, in quotes as MS-MPI adds them: a backslash before a quote, nothing else. */
static void add(wchar_t *command, const wchar_t *argument)
{
    wchar_t *to = command + wcslen(command);
    int quoted = argument[wcscspn(argument, L" \t\"%")] != 0;

    if (to != command)
        *to++ = L' ';
    if (quoted)
        *to++ = L'"';
    for (; *argument && to < command + COMMAND_MAX - 4; argument++) {
        if (*argument == L'"')
            *to++ = L'\\';
        *to++ = *argument;
    }
    if (quoted)
        *to++ = L'"';
    *to = 0;
}

/* Start a command in a job object of its own, or in one that is there. Return the handle of the process. */
static HANDLE start(wchar_t *command, HANDLE job, DWORD flags)
{
    STARTUPINFOW info;
    PROCESS_INFORMATION process;

    GetStartupInfoW(&info);
    if (!CreateProcessW(NULL, command, NULL, NULL, TRUE, flags | CREATE_SUSPENDED, NULL, NULL,
                        &info, &process))
        fail("CreateProcess");
    if (!AssignProcessToJobObject(job, process.hProcess))
        fail("AssignProcessToJobObject");
    ResumeThread(process.hThread);
    CloseHandle(process.hThread);
    return process.hProcess;
}

static HANDLE new_job(void)
{
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits = {0};
    HANDLE job = CreateJobObjectW(NULL, NULL);

    limits.BasicLimitInformation.LimitFlags =
        JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | JOB_OBJECT_LIMIT_BREAKAWAY_OK;
    if (!job ||
        !SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof(limits)))
        fail("CreateJobObject");
    return job;
}

static void set(const wchar_t *name, int value)
{
    wchar_t text[16];

    swprintf(text, 16, L"%d", value);
    SetEnvironmentVariableW(name, text);
}

/* As smpd: run the ranks; return the first exit code that is not 0. */
static DWORD manage(int size, wchar_t **program)
{
    static wchar_t command[COMMAND_MAX];
    HANDLE ranks[RANKS_MAX], job = new_job();
    DWORD code, first = 0;

    set(L"PMI_SIZE", size);
    SetEnvironmentVariableW(L"PMI_KVS", L"6f9619ff-8b86-d011-b42d-00c04fc964ff");
    SetEnvironmentVariableW(L"PMI_HOST", L"localhost");
    set(L"PMI_SMPD_ID", 1);
    set(L"PMI_APPNUM", 0);
    set(L"PMI_SPAWN", 0);
    for (int rank = 0; rank < size; rank++) {
        set(L"PMI_RANK", rank);
        set(L"PMI_SMPD_KEY", rank);
        command[0] = 0;
        for (wchar_t **argument = program; *argument; argument++)
            add(command, *argument);
        ranks[rank] = start(command, job, CREATE_NO_WINDOW);
    }
    for (int left = size; left > 0; left--) {
        DWORD ended = WaitForMultipleObjects(left, ranks, FALSE, INFINITE) - WAIT_OBJECT_0;

        GetExitCodeProcess(ranks[ended], &code);
        CloseHandle(ranks[ended]);
        ranks[ended] = ranks[left - 1];
        if (code && !first) {
            first = code;
            TerminateJobObject(job, ABORTED);
        }
    }
    return first;
}

int wmain(int argc, wchar_t **argv)
{
    static wchar_t command[COMMAND_MAX];
    DWORD code;
    HANDLE smpd;
    int size = argc > 3 ? _wtoi(argv[2]) : 0;

    if (argc > 1 && wcscmp(argv[1], L"-help") == 0) {
        printf("Microsoft MPI Startup Program [Version 10.1.0.0]\n\nLaunches an application on "
               "multiple hosts.\n");
        return 0;
    }
    if (size < 1 || size > RANKS_MAX || (wcscmp(argv[1], L"-n") && wcscmp(argv[1], L"-mgr"))) {
        printf("Unknown option: %ls\n", argc > 1 ? argv[1] : L"");
        return -1;
    }
    if (wcscmp(argv[1], L"-mgr") == 0)
        return (int)manage(size, argv + 3);
    SetEnvironmentVariableW(L"MSMPI_LOCAL_ONLY", L"1");
    add(command, argv[0]);
    add(command, L"-mgr");
    for (int i = 2; i < argc; i++)
        add(command, argv[i]);
    smpd = start(command, new_job(), 0);
    WaitForSingleObject(smpd, INFINITE);
    GetExitCodeProcess(smpd, &code);
    if (code)
        printf("\njob aborted:\n[ranks] message\n\n[0-%d] terminated\n\n---- error analysis "
               "-----\n\n---- error analysis -----\n",
               size - 1);
    return (int)code;
}
