/* Shared memory, doorbells and the watchdog on Windows: handles of sections in place of descriptors, events in place of futexes, a process
 * in place of a connection. */
#include "support.h"

#include "../../csrc/doorbell.h"
#include "../../csrc/platform.h"
#include "../../csrc/shm.h"

enum { BYTES = 1 << 20, MARK = 4711 };

static int *words_of(const pmp_shm *segment)
{
    return segment->address;
}

static int duplicate_for(HANDLE process, const pmp_shm *segment)
{
    HANDLE copy;
    CHECK(DuplicateHandle(GetCurrentProcess(), (HANDLE)(intptr_t)segment->descriptor, process,
                          &copy, 0, FALSE, DUPLICATE_SAME_ACCESS));
    return (int)(intptr_t)copy;
}

static void new_memory_is_zeroed_and_as_large(void)
{
    pmp_shm segment;
    CHECK_EQUAL(pmp_shm_create(&segment, BYTES - 1, PMP_SHM_BEST), 0);
    CHECK_EQUAL(segment.size_bytes, BYTES);
    for (int i = 0; i < BYTES / (int)sizeof(int); i++) {
        CHECK_EQUAL(words_of(&segment)[i], 0);
    }
    pmp_shm_close(&segment);
    CHECK_EQUAL(segment.descriptor, -1);
    CHECK_EQUAL(pmp_shm_create(&segment, BYTES, PMP_SHM_POSIX), -ENOSYS);
    CHECK_EQUAL(pmp_shm_create(&segment, (size_t)1 << 46, PMP_SHM_BEST), -ENOMEM);
}

static void what_is_no_section_is_refused(void)
{
    pmp_shm segment;
    const HANDLE event = CreateEventW(NULL, FALSE, FALSE, NULL);
    CHECK_EQUAL(pmp_shm_attach(&segment, -1), -EBADF);
    CHECK_EQUAL(pmp_shm_attach(&segment, 0x7ffffff0), -EBADF);
    CHECK(pmp_shm_attach(&segment, (int)(intptr_t)event) < 0);
}

static void memory_is_shared_by_duplicates(void)
{
    pmp_shm segment, other, readonly;
    CHECK_EQUAL(pmp_shm_create(&segment, BYTES, PMP_SHM_BEST), 0);
    CHECK_EQUAL(pmp_shm_attach(&other, duplicate_for(GetCurrentProcess(), &segment)), 0);
    CHECK_EQUAL(pmp_shm_attach_readonly(&readonly, duplicate_for(GetCurrentProcess(), &segment)),
                0);
    CHECK_EQUAL(other.size_bytes, BYTES);
    words_of(&segment)[100] = MARK;
    CHECK_EQUAL(words_of(&other)[100], MARK);
    CHECK_EQUAL(words_of(&readonly)[100], MARK);
    pmp_shm_close(&segment); /* the memory stays as long as somebody has it */
    words_of(&other)[101] = MARK;
    CHECK_EQUAL(words_of(&readonly)[101], MARK);
    CHECK_EQUAL(pmp_shm_allow_writing(&readonly), 0);
    words_of(&readonly)[102] = MARK;
    CHECK_EQUAL(words_of(&other)[102], MARK);
    pmp_shm_close(&other);
    pmp_shm_close(&readonly);
}

static void contents_are_stored_and_overwritten(void)
{
    static char bytes[200000], more[100000];
    pmp_shm segment;
    fill_bytes(bytes, sizeof bytes, 1);
    fill_bytes(more, sizeof more, 2);
    const pmp_span contents[] = {
        {bytes, sizeof bytes}, {NULL, 0}, {more, sizeof more}, {bytes, 100}};
    CHECK_EQUAL(pmp_shm_store(&segment, contents, 4), 0);
    CHECK(has_bytes(segment.address, sizeof bytes, 1));
    CHECK(has_bytes((char *)segment.address + sizeof bytes, sizeof more, 2));
    CHECK_EQUAL(pmp_shm_overwrite(&segment, more, sizeof more, 70000), 0);
    CHECK(has_bytes((char *)segment.address + 70000, sizeof more, 2));
    CHECK_EQUAL(pmp_shm_overwrite(&segment, more, sizeof more, 300000), -EINVAL);
    pmp_shm_close(&segment);
}

static void private_copies_are_private(void)
{
    pmp_shm segment, copy;
    int word;
    CHECK_EQUAL(pmp_shm_create(&segment, BYTES, PMP_SHM_BEST), 0);
    words_of(&segment)[0] = MARK;
    CHECK_EQUAL(pmp_shm_attach_private(&copy, segment.descriptor), 0);
    CHECK_EQUAL(words_of(&copy)[0], MARK);
    words_of(&copy)[0] = 1;
    CHECK_EQUAL(words_of(&segment)[0], MARK);
    CHECK_EQUAL(pmp_read(segment.descriptor, &word, sizeof word, 0), sizeof word);
    CHECK_EQUAL(word, MARK);
    CHECK_EQUAL(pmp_read(segment.descriptor, &word, sizeof word, BYTES), 0);
    pmp_shm_close(&copy);
    pmp_shm_close(&segment);
}

/* Lies in shared memory. */
typedef struct {
    pmp_doorbell parent_bell, child_bell;
    _Atomic int descriptor, answer;
} table;

static bool has_descriptor(void *context)
{
    return atomic_load(&((table *)context)->descriptor) != 0;
}

static bool has_answer(void *context)
{
    return atomic_load(&((table *)context)->answer) != 0;
}

static void wait_on(pmp_doorbell *bell, bool (*ready)(void *), table *shared)
{
    pmp_spinner spinner;
    pmp_spinner_init(&spinner, 0);
    CHECK_EQUAL(pmp_wait(bell, &spinner, ready, shared, -1), 0);
}

static int answer_with_word(void *argument)
{
    table *const shared = argument;
    pmp_shm segment;
    wait_on(&shared->child_bell, has_descriptor, shared);
    CHECK_EQUAL(pmp_shm_attach(&segment, atomic_load(&shared->descriptor)), 0);
    atomic_store(&shared->answer, words_of(&segment)[7]);
    pmp_doorbell_ring(&shared->parent_bell);
    return 0;
}

static void handle_is_given_to_another_process(void)
{
    table *const shared = shared_memory(sizeof *shared);
    pmp_shm segment;
    CHECK_EQUAL(pmp_shm_create(&segment, BYTES, PMP_SHM_BEST), 0);
    words_of(&segment)[7] = MARK;
    const pid_t child = start_child(answer_with_word, shared);
    atomic_store(&shared->descriptor, duplicate_for(children_of_this[child - 1], &segment));
    pmp_doorbell_ring(&shared->child_bell);
    wait_on(&shared->parent_bell, has_answer, shared);
    CHECK_EQUAL(atomic_load(&shared->answer), MARK);
    CHECK_EQUAL(wait_for_child(child), 0);
    pmp_shm_close(&segment);
}

/* ---- doorbells ---- */

static DWORD WINAPI sleep_once(void *argument)
{
    pmp_doorbell *const bell = argument;
    pmp_doorbell_arm(bell);
    return (DWORD)pmp_doorbell_sleep(bell, -1);
}

/* Starts a thread that sleeps; returns when its event is there. */
static HANDLE start_sleeper(pmp_doorbell *bell, HANDLE *event, DWORD access)
{
    const uint64_t before = atomic_load(&bell->event);
    const HANDLE thread = CreateThread(NULL, 0, sleep_once, bell, 0, NULL);
    char name[64];

    CHECK(thread != NULL);
    while (atomic_load(&bell->event) == before) {
        Sleep(1);
    }
    snprintf(name, sizeof name, "Local\\pympipool-%016llx",
             (unsigned long long)atomic_load(&bell->event));
    *event = OpenEventA(access, FALSE, name);
    CHECK(*event != NULL);
    return thread;
}

static void await_sleeper(HANDLE thread)
{
    DWORD code;
    CHECK_EQUAL(WaitForSingleObject(thread, INFINITE), WAIT_OBJECT_0);
    CHECK(GetExitCodeThread(thread, &code));
    CHECK_EQUAL((int)code, 0);
    CloseHandle(thread);
}

static void each_sleep_has_an_event_of_its_own(void)
{
    pmp_doorbell *const bell = shared_memory(sizeof *bell);
    HANDLE first, second;
    HANDLE thread = start_sleeper(bell, &first, SYNCHRONIZE);
    const uint64_t name = atomic_load(&bell->event);
    pmp_doorbell_ring(bell);
    await_sleeper(thread);
    thread = start_sleeper(bell, &second, SYNCHRONIZE); /* the first event is still there */
    CHECK(atomic_load(&bell->event) != name);
    pmp_doorbell_ring(bell);
    await_sleeper(thread);
    CloseHandle(first);
    CloseHandle(second);
}

static void events_admit_this_user_alone(void)
{
    pmp_doorbell *const bell = shared_memory(sizeof *bell);
    _Alignas(max_align_t) char security[1024], owner[1024];
    BOOL is_present, is_default;
    HANDLE event, token;
    ACCESS_ALLOWED_ACE *entry;
    DWORD size_bytes;
    ACL *list;
    const HANDLE thread = start_sleeper(bell, &event, READ_CONTROL);
    CHECK(GetKernelObjectSecurity(event, DACL_SECURITY_INFORMATION, security, sizeof security,
                                  &size_bytes));
    CHECK(GetSecurityDescriptorDacl(security, &is_present, &list, &is_default));
    CHECK(is_present);
    CHECK(list != NULL);
    CHECK_EQUAL(list->AceCount, 1);
    CHECK(GetAce(list, 0, (void **)&entry));
    CHECK(OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &token));
    CHECK(GetTokenInformation(token, TokenUser, owner, sizeof owner, &size_bytes));
    CHECK_EQUAL(entry->Header.AceType, ACCESS_ALLOWED_ACE_TYPE);
    CHECK(EqualSid(&entry->SidStart, ((TOKEN_USER *)(void *)owner)->User.Sid));
    pmp_doorbell_ring(bell);
    await_sleeper(thread);
    CloseHandle(token);
    CloseHandle(event);
}

static void taken_wake_up_is_noticed_later(void)
{
    pmp_doorbell *const bell = shared_memory(sizeof *bell);
    HANDLE event;
    const HANDLE thread = start_sleeper(bell, &event, SYNCHRONIZE);
    pmp_doorbell_disarm(bell); /* as a ringer does whose wake-up somebody else gets */
    await_sleeper(thread);
    CloseHandle(event);
}

/* ---- the watchdog ---- */

static int spin_forever(void *argument)
{
    table *const shared = argument;
    atomic_store(&shared->answer, (int)GetCurrentProcessId());
    pmp_doorbell_ring(&shared->parent_bell);
    for (volatile uint64_t turns = 0;; turns++) {
    }
    return 0;
}

/* Its child has a watchdog on it, as start_child starts it. */
static int be_killed_with_child(void *argument)
{
    table *const shared = argument;
    start_child(spin_forever, shared);
    wait_on(&shared->child_bell, has_descriptor, shared); /* never */
    return 0;
}

static void process_ends_with_its_master(void)
{
    table *const shared = shared_memory(sizeof *shared);
    const pid_t master = start_child(be_killed_with_child, shared);
    wait_on(&shared->parent_bell, has_answer, shared);
    const HANDLE worker = OpenProcess(SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION, FALSE,
                                      (DWORD)atomic_load(&shared->answer));
    CHECK(worker != NULL);
    CHECK_EQUAL(WaitForSingleObject(worker, 0), WAIT_TIMEOUT);
    CHECK(TerminateProcess(children_of_this[master - 1], 3));
    CHECK_EQUAL(WaitForSingleObject(worker, INFINITE), WAIT_OBJECT_0);
    CHECK_EQUAL(pmp_watchdog_start(-7), -EBADF);
}

int main(void)
{
    run("new memory is zeroed and as large as wanted", 60, new_memory_is_zeroed_and_as_large);
    run("what is no section is refused", 60, what_is_no_section_is_refused);
    run("memory is shared by duplicates of a handle", 60, memory_is_shared_by_duplicates);
    run("contents are stored and overwritten", 60, contents_are_stored_and_overwritten);
    run("private copies are private", 60, private_copies_are_private);
    run("a handle is given to another process", 60, handle_is_given_to_another_process);
    run("each sleep has an event of its own", 60, each_sleep_has_an_event_of_its_own);
    run("events admit this user alone", 60, events_admit_this_user_alone);
    run("a wake-up that somebody else takes is noticed later", 60, taken_wake_up_is_noticed_later);
    run("a process ends with its master", 60, process_ends_with_its_master);
    return 0;
}
