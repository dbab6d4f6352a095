#include "buffer_pool.h"

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "platform.h"

#define ALIGNMENT 64
#define HUGE_PAGE ((size_t)2 << 20)

/* Precedes the buffer. It is as long as the alignment, so that the buffer is aligned too. */
typedef struct {
    size_t capacity;       /* bytes of the buffer; 0: it came from malloc */
    pmp_buffer_pool *pool; /* the pool to return to; NULL: none */
    unsigned char unused[ALIGNMENT - sizeof(size_t) - sizeof(pmp_buffer_pool *)];
} header;

static_assert(sizeof(header) == ALIGNMENT, "a buffer follows its header");

struct pmp_buffer_pool {
    pmp_mutex lock;
    header *kept[PMP_POOL_BUFFERS_MAX]; /* in the order in which they were freed */
    int count;
    size_t bytes;
};

/* ---- small buffers ---- */

static header *new_small(size_t size_bytes)
{
    header *const head = pmp_aligned_new(sizeof(header) + size_bytes);
    if (head != NULL) {
        head->capacity = 0;
    }
    return head;
}

/* ---- large buffers ---- */

static size_t mapping_bytes(size_t capacity)
{
    return sizeof(header) + capacity;
}

/* Sizes are rounded up so that buffers of about the same size can replace each other. A process that keeps a received
 * message pays for that. So rounding adds at most an eighth, and uses whole huge pages only where they are that small. */
static size_t rounded_up(size_t bytes)
{
    size_t step = HUGE_PAGE;
    while (step > bytes / 8) {
        step /= 2;
    }
    return (bytes + step - 1) / step * step;
}

static header *map_large(size_t size_bytes)
{
    if (size_bytes > SIZE_MAX - sizeof(header) - HUGE_PAGE) {
        return NULL;
    }
    const size_t bytes = rounded_up(sizeof(header) + size_bytes);
    header *const head = pmp_pages_new(bytes);
    if (head != NULL) {
        head->capacity = bytes - sizeof(header);
    }
    return head;
}

static void unmap(header *head)
{
    pmp_pages_free(head, mapping_bytes(head->capacity));
}

/* Takes the buffer at this place out of the kept ones. The caller holds the lock. */
static header *take_kept(pmp_buffer_pool *pool, int place)
{
    header *const taken = pool->kept[place];
    pool->count--;
    pool->bytes -= taken->capacity;
    memmove(&pool->kept[place], &pool->kept[place + 1],
            (size_t)(pool->count - place) * sizeof pool->kept[0]);
    return taken;
}

/* Returns a kept buffer that fits without wasting more than half of it, or NULL. The buffer that was
 * freed last is tried first: it is the warmest. */
static header *find_kept(pmp_buffer_pool *pool, size_t size_bytes)
{
    header *found = NULL;

    pmp_mutex_lock(&pool->lock);
    for (int place = pool->count - 1; place >= 0 && found == NULL; place--) {
        const size_t capacity = pool->kept[place]->capacity;
        if (capacity >= size_bytes && capacity / 2 <= size_bytes) {
            found = take_kept(pool, place);
        }
    }
    pmp_mutex_unlock(&pool->lock);
    return found;
}

/* Allows the system to take the pages if it needs them, except those of the first huge page, which holds the header, and those
 * behind the last whole one: to offer small pages, and to write them again, takes longer than to copy into them. */
static void offer_pages(header *head)
{
    const size_t whole = mapping_bytes(head->capacity) / HUGE_PAGE * HUGE_PAGE;
    if (whole > HUGE_PAGE) {
        pmp_pages_offer((unsigned char *)head + HUGE_PAGE, whole - HUGE_PAGE);
    }
}

static void keep(pmp_buffer_pool *pool, header *head)
{
    header *displaced[PMP_POOL_BUFFERS_MAX];
    int displaced_count = 0;

    offer_pages(head);
    pmp_mutex_lock(&pool->lock);
    while (pool->count > 0 && (pool->count == PMP_POOL_BUFFERS_MAX ||
                               pool->bytes + head->capacity > PMP_POOL_BYTES_MAX)) {
        displaced[displaced_count++] = take_kept(pool, 0);
    }
    pool->kept[pool->count++] = head;
    pool->bytes += head->capacity;
    pmp_mutex_unlock(&pool->lock);
    while (displaced_count > 0) {
        unmap(displaced[--displaced_count]);
    }
}

/* ---- public functions ---- */

pmp_buffer_pool *pmp_buffer_pool_create(void)
{
    pmp_buffer_pool *const pool = calloc(1, sizeof *pool);
    if (pool != NULL && pmp_mutex_init(&pool->lock) != 0) {
        free(pool);
        return NULL;
    }
    return pool;
}

void *pmp_buffer_new(pmp_buffer_pool *pool, size_t size_bytes)
{
    const bool is_large = size_bytes >= PMP_BUFFER_LARGE;
    header *head = is_large && pool != NULL ? find_kept(pool, size_bytes) : NULL;
    if (head == NULL) {
        head = is_large ? map_large(size_bytes) : new_small(size_bytes);
    }
    if (head == NULL && pool != NULL) { /* the kept buffers may be what is missing */
        pmp_buffer_pool_trim(pool);
        head = is_large ? map_large(size_bytes) : new_small(size_bytes);
    }
    if (head == NULL) {
        return NULL;
    }
    head->pool = pool;
    return head + 1;
}

void pmp_buffer_free(void *buffer)
{
    if (buffer == NULL) {
        return;
    }
    header *const head = (header *)buffer - 1;
    if (head->capacity == 0) {
        pmp_aligned_free(head);
    } else if (head->pool == NULL || head->capacity > PMP_POOL_BYTES_MAX) {
        unmap(head);
    } else {
        keep(head->pool, head);
    }
}

void pmp_buffer_pool_trim(pmp_buffer_pool *pool)
{
    pmp_mutex_lock(&pool->lock);
    while (pool->count > 0) {
        unmap(take_kept(pool, 0));
    }
    pmp_mutex_unlock(&pool->lock);
}
