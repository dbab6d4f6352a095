#include "../platform.h"

#ifdef PMP_WINDOWS

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <errno.h>
#include <io.h>
#include <malloc.h>

#include "../buffer_pool.h"

static int error_of(DWORD code)
{
    switch (code) {
    case ERROR_INVALID_HANDLE:
        return -EBADF;
    case ERROR_ACCESS_DENIED:
        return -EACCES;
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_OUTOFMEMORY:
    case ERROR_COMMITMENT_LIMIT:
    case ERROR_NO_SYSTEM_RESOURCES:
    case ERROR_DISK_FULL: /* no room in the page file */
        return -ENOMEM;
    default:
        return -EINVAL;
    }
}

/* Handles have 32 bits, also in processes of 64 bits. */
static HANDLE handle_of(int descriptor)
{
    return (HANDLE)(intptr_t)descriptor;
}

static int descriptor_of(HANDLE handle)
{
    return (int)(intptr_t)handle;
}

static DWORD high_half(uint64_t number)
{
    return (DWORD)(number >> 32);
}

static DWORD low_half(uint64_t number)
{
    return (DWORD)(number & UINT32_MAX);
}

/* ---- memory of this process ---- */

size_t pmp_page_bytes(void)
{
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

size_t pmp_machine_bytes(void)
{
    MEMORYSTATUSEX status = {.dwLength = sizeof status};
    return GlobalMemoryStatusEx(&status) ? (size_t)status.ullTotalPhys : 0;
}

void *pmp_aligned_new(size_t size_bytes)
{
    return _aligned_malloc(size_bytes, 64);
}

void pmp_aligned_free(void *memory)
{
    _aligned_free(memory);
}

/* Large pages need a privilege that users do not have. */
void *pmp_pages_new(size_t size_bytes)
{
    return VirtualAlloc(NULL, size_bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

void pmp_pages_free(void *pages, size_t size_bytes)
{
    (void)size_bytes;
    VirtualFree(pages, 0, MEM_RELEASE);
}

void pmp_pages_offer(void *pages, size_t size_bytes)
{
    VirtualAlloc(pages, size_bytes, MEM_RESET, PAGE_READWRITE);
}

void pmp_pages_populate(void *pages, size_t size_bytes)
{
    (void)pages;
    (void)size_bytes;
}

int pmp_pages_used(const void *pages, size_t size_bytes, int sampled, bool written)
{
    (void)pages;
    (void)size_bytes;
    (void)sampled;
    (void)written;
    return 0;
}

void pmp_malloc_retain(void)
{
}

/* ---- memory behind a descriptor: sections ---- */

int pmp_open_anonymous(size_t size_bytes)
{
    const HANDLE section =
        CreateFileMappingW(INVALID_HANDLE_VALUE, NULL, PAGE_READWRITE | SEC_COMMIT,
                           high_half(size_bytes), low_half(size_bytes), NULL);
    return section == NULL ? error_of(GetLastError()) : descriptor_of(section);
}

int pmp_open_posix(size_t size_bytes)
{
    (void)size_bytes;
    return -ENOSYS;
}

int pmp_open_file(size_t size_bytes)
{
    (void)size_bytes;
    return -ENOSYS;
}

/* A section is created with all of its pages committed. */
int pmp_reserve_pages(int descriptor, size_t size_bytes)
{
    (void)descriptor;
    (void)size_bytes;
    return 0;
}

/* The size of a section never changes. */
int pmp_seal(int descriptor)
{
    (void)descriptor;
    return 0;
}

int pmp_check_received(int descriptor, size_t *size_bytes)
{
    MEMORY_BASIC_INFORMATION region;

    void *const view = MapViewOfFile(handle_of(descriptor), FILE_MAP_READ, 0, 0, 0);
    if (view == NULL) {
        return error_of(GetLastError());
    }
    *size_bytes = VirtualQuery(view, &region, sizeof region) != 0 ? region.RegionSize : 0;
    UnmapViewOfFile(view);
    return *size_bytes == 0 ? -EINVAL : 0;
}

int pmp_duplicate(int descriptor)
{
    HANDLE copy;
    return DuplicateHandle(GetCurrentProcess(), handle_of(descriptor), GetCurrentProcess(), &copy,
                           0, FALSE, DUPLICATE_SAME_ACCESS)
               ? descriptor_of(copy)
               : error_of(GetLastError());
}

/* Whoever opens memory once more to write it will ask who has it open: no function of this system tells. */
int pmp_reopen(int descriptor, bool is_writable)
{
    return is_writable ? -ENOSYS : pmp_duplicate(descriptor);
}

bool pmp_is_only_opener(int descriptor)
{
    (void)descriptor;
    return false;
}

void pmp_close(int descriptor)
{
    CloseHandle(handle_of(descriptor));
}

/* A view begins at a multiple of 64 KiB. */
int pmp_write(int descriptor, const void *bytes, size_t count, size_t offset)
{
    const size_t before = offset % 65536, begin = offset - before;

    if (count == 0) {
        return 0;
    }
    char *const view = MapViewOfFile(handle_of(descriptor), FILE_MAP_WRITE, high_half(begin),
                                     low_half(begin), before + count);
    if (view == NULL) {
        return error_of(GetLastError());
    }
    CopyMemory(view + before, bytes, count);
    UnmapViewOfFile(view);
    return 0;
}

int64_t pmp_read(int descriptor, void *bytes, size_t count, size_t offset)
{
    size_t size_bytes;

    const int error = pmp_check_received(descriptor, &size_bytes);
    if (error != 0 || offset >= size_bytes) {
        return error;
    }
    const char *const view = MapViewOfFile(handle_of(descriptor), FILE_MAP_READ, 0, 0, 0);
    if (view == NULL) {
        return error_of(GetLastError());
    }
    const size_t got = count < size_bytes - offset ? count : size_bytes - offset;
    CopyMemory(bytes, view + offset, got);
    UnmapViewOfFile(view);
    return (int64_t)got;
}

/* FILE_MAP_COPY counts against the system's limit as if all of it were written. */
int pmp_map(void **address, int descriptor, size_t size_bytes, enum pmp_access access)
{
    static const DWORD accesses[] = {[PMP_READ_ONLY] = FILE_MAP_READ,
                                     [PMP_READ_WRITE] = FILE_MAP_READ | FILE_MAP_WRITE,
                                     [PMP_COPY_ON_WRITE] = FILE_MAP_COPY};

    void *const view = MapViewOfFile(handle_of(descriptor), accesses[access], 0, 0, size_bytes);
    if (view == NULL) {
        return error_of(GetLastError());
    }
    *address = view;
    return 0;
}

void pmp_unmap(void *address, size_t size_bytes)
{
    (void)size_bytes;
    UnmapViewOfFile(address);
}

int pmp_map_writable(void **address, int descriptor, size_t size_bytes)
{
    void *const before = *address;
    const int error = pmp_map(address, descriptor, size_bytes, PMP_READ_WRITE);
    if (error == 0) {
        UnmapViewOfFile(before);
    }
    return error;
}

/* The view keeps the section. As long as there is one, the file cannot be removed. */
int pmp_map_file(void **address, int descriptor, size_t size_bytes)
{
    const HANDLE section =
        CreateFileMappingW((HANDLE)_get_osfhandle(descriptor), NULL, PAGE_WRITECOPY, 0, 0, NULL);
    if (section == NULL) {
        return error_of(GetLastError());
    }
    const int error = pmp_map(address, descriptor_of(section), size_bytes, PMP_COPY_ON_WRITE);
    CloseHandle(section);
    return error;
}

#endif
