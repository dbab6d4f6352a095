/* News: which rings have something new, and above all that nothing published is overlooked.
 *
 * usage: test_news [SECONDS]    how long each hunt takes
 *
 * In a hunt, writers publish and wait until the reader has seen it, while the reader watches now this ring, now that one, and
 * sleeps in between. If it overlooks something, all sleep until the alarm ends the test. A missing fence is so rarely felt that
 * only the model, doorbell.pml, is sure to find it. */
#include "support.h"

#include "../../csrc/doorbell.h"
#include "../../csrc/news.h"

#include <stdatomic.h>

#define MS INT64_C(1000000)

static int64_t hunt_ns = 1000 * MS;

static pmp_news *new_news(void)
{
    return shared_memory(sizeof(pmp_news));
}

/* ---- one thread ---- */

static void news_are_found_in_order(void)
{
    static const uint32_t slots[] = {0, 1, 63, 64, 200, 6399, PMP_NEWS_SLOTS - 1};
    enum { COUNT = sizeof slots / sizeof *slots };
    static const uint64_t watched[PMP_NEWS_WORDS];
    pmp_news *const news = new_news();
    uint32_t found = 0;

    CHECK_EQUAL(pmp_news_next(news, watched, 0, PMP_NEWS_SLOTS), PMP_NEWS_SLOTS);
    for (uint32_t i = COUNT; i > 0; i--) {
        pmp_news_add(news, slots[i - 1]);
        pmp_news_add(news, slots[i - 1]);
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        found = pmp_news_next(news, watched, found, PMP_NEWS_SLOTS);
        CHECK_EQUAL(found, slots[i]);
        found++;
    }
    CHECK_EQUAL(pmp_news_next(news, watched, found, PMP_NEWS_SLOTS), PMP_NEWS_SLOTS);
}

static void cleared_and_watched_slots_are_skipped(void)
{
    uint64_t watched[PMP_NEWS_WORDS] = {[1] = 1};
    pmp_news *const news = new_news();

    pmp_news_add(news, 3);
    pmp_news_add(news, 64);
    pmp_news_add(news, 65);
    pmp_news_clear(news, 3);
    CHECK_EQUAL(pmp_news_next(news, watched, 0, 128), 65);
    watched[1] = 0;
    CHECK_EQUAL(pmp_news_next(news, watched, 0, 128), 64);
}

static void slots_that_are_not_used_are_not_found(void)
{
    static const uint64_t watched[PMP_NEWS_WORDS];
    pmp_news *const news = new_news();

    pmp_news_add(news, 70);
    CHECK_EQUAL(pmp_news_next(news, watched, 0, 70), 70);
    CHECK_EQUAL(pmp_news_next(news, watched, 70, 70), 70);
    CHECK_EQUAL(pmp_news_next(news, watched, 0, 71), 70);
    CHECK_EQUAL(pmp_news_next(news, watched, 71, 71), 71);
}

static void invalid_slot_stays_inside(void)
{
    static const uint64_t watched[PMP_NEWS_WORDS];
    pmp_news *const news = new_news();

    pmp_news_add(news, UINT32_MAX);
    CHECK_EQUAL(pmp_news_next(news, watched, 0, PMP_NEWS_SLOTS), PMP_NEWS_SLOTS - 1);
}

/* ---- the hunts ---- */

enum { WRITERS = 3, SLOT = 62, LINES = 8 }; /* the slots of the writers are in two words */

/* Both sides write the lines of the payload. So what a writer publishes waits in its store buffer until it has got them from the
 * reader's core, while a writer without the fence would load its bit. */
typedef struct {
    _Alignas(64) _Atomic uint64_t published; /* by the writer */
    _Alignas(64) _Atomic uint64_t seen;      /* by the reader */
    struct {
        _Alignas(64) uint64_t word;
    } payload[LINES];
} ring;

typedef struct {
    pmp_doorbell bell;
    pmp_news news;
    ring rings[WRITERS];
    _Atomic bool over;
    _Atomic uint32_t writers, ended; /* numbers of those that have begun, and ended */
} board;

/* The reader's own view. */
typedef struct {
    board *shared;
    uint64_t watched[PMP_NEWS_WORDS];
    uint64_t count;
} reader;

static bool is_watched(const reader *me, uint32_t slot)
{
    return (me->watched[slot / 64] >> slot % 64 & 1) != 0;
}

static void look(reader *me, uint32_t number)
{
    ring *const looked_at = &me->shared->rings[number];
    const uint64_t published = atomic_load_explicit(&looked_at->published, memory_order_acquire);
    if (published != atomic_load_explicit(&looked_at->seen, memory_order_relaxed)) {
        for (int line = 0; line < LINES; line++) {
            CHECK_EQUAL(looked_at->payload[line].word, 2 * published);
            looked_at->payload[line].word++;
        }
        atomic_store_explicit(&looked_at->seen, published, memory_order_release);
        me->count++;
    }
}

/* Waits up to a microsecond, so that what is published falls on every moment of a change. */
static void dawdle(uint64_t random)
{
    for (volatile uint64_t left = random % 512; left > 0; left--) {
    }
}

static void stop_watching(reader *me, uint32_t number)
{
    me->watched[(SLOT + number) / 64] &= ~(UINT64_C(1) << (SLOT + number) % 64);
    pmp_news_clear(&me->shared->news, SLOT + number);
    look(me, number);
}

static void read_all(reader *me)
{
    uint32_t slot = SLOT;

    for (uint32_t number = 0; number < WRITERS; number++) {
        if (is_watched(me, SLOT + number)) {
            look(me, number);
            if (mix(me->count + number) % 4 == 0) {
                dawdle(mix(me->count));
                stop_watching(me, number);
            }
        }
    }
    while ((slot = pmp_news_next(&me->shared->news, me->watched, slot, SLOT + WRITERS)) <
           SLOT + WRITERS) {
        me->watched[slot / 64] |= UINT64_C(1) << slot % 64;
        look(me, slot - SLOT);
    }
}

static bool has_news(void *context)
{
    const reader *const me = context;

    for (uint32_t number = 0; number < WRITERS; number++) {
        const ring *const checked = &me->shared->rings[number];
        if (is_watched(me, SLOT + number) &&
            atomic_load_explicit(&checked->published, memory_order_acquire) !=
                atomic_load_explicit(&checked->seen, memory_order_relaxed)) {
            return true;
        }
    }
    return pmp_news_next(&me->shared->news, me->watched, 0, SLOT + WRITERS) < SLOT + WRITERS;
}

static void write_all(board *shared, uint32_t number)
{
    ring *const own = &shared->rings[number];

    for (uint64_t next = 1; !atomic_load_explicit(&shared->over, memory_order_relaxed); next++) {
        for (int line = 0; line < LINES; line++) {
            own->payload[line].word = 2 * next;
        }
        atomic_store_explicit(&own->published, next, memory_order_release);
        pmp_news_add(&shared->news, SLOT + number);
        pmp_doorbell_ring_after_fence(&shared->bell);
        while (atomic_load_explicit(&own->seen, memory_order_acquire) != next) {
            sched_yield();
        }
        dawdle(mix(next));
    }
}

static void *write_in_thread(void *argument)
{
    board *const shared = argument;
    write_all(shared, atomic_fetch_add(&shared->writers, 1));
    atomic_fetch_add(&shared->ended, 1);
    return NULL;
}

static int write_in_process(void *argument)
{
    write_in_thread(argument);
    return 0;
}

/* Ends while each writer waits for what it has published, or is about to publish; then nobody waits for anything else. */
static void hunt(board *shared)
{
    static reader me;
    pmp_spinner spinner;
    const int64_t end_ns = pmp_now_ns() + hunt_ns;

    memset(&me, 0, sizeof me);
    me.shared = shared;
    pmp_spinner_init(&spinner, 0);
    use_core(0);
    while (pmp_now_ns() < end_ns) {
        CHECK_EQUAL(pmp_wait(&shared->bell, &spinner, has_news, &me, -1), 0);
        read_all(&me);
    }
    atomic_store(&shared->over, true);
    printf("%llu news ", (unsigned long long)me.count);
}

static void finish(board *shared, uint32_t number)
{
    ring *const own = &shared->rings[number];
    atomic_store(&own->seen, atomic_load(&own->published));
}

static void nothing_is_overlooked_between_threads(void)
{
    board *const shared = shared_memory(sizeof *shared);
    pthread_t threads[WRITERS];

    use_core(1);
    for (uint32_t i = 0; i < WRITERS; i++) {
        threads[i] = start_thread(write_in_thread, shared);
    }
    hunt(shared);
    while (atomic_load(&shared->ended) < WRITERS) {
        for (uint32_t number = 0; number < WRITERS; number++) {
            finish(shared, number);
        }
        sched_yield();
    }
    for (uint32_t i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void nothing_is_overlooked_between_processes(void)
{
    board *const shared = shared_memory(sizeof *shared);
    pid_t children[WRITERS];
    int status;

    use_core(1);
    for (uint32_t i = 0; i < WRITERS; i++) {
        children[i] = start_child(write_in_process, shared);
    }
    hunt(shared);
    for (uint32_t i = 0; i < WRITERS; i++) {
        while (waitpid(children[i], &status, WNOHANG) == 0) {
            for (uint32_t number = 0; number < WRITERS; number++) {
                finish(shared, number);
            }
            sched_yield();
        }
        CHECK_EQUAL(status, 0);
    }
}

int main(int argument_count, char **arguments)
{
    if (argument_count > 1) {
        hunt_ns = (int64_t)(1000 * atof(arguments[1])) * MS;
    }
    const unsigned limit_s = 30 + (unsigned)(2 * hunt_ns / (1000 * MS));
    run("news are found in order", 60, news_are_found_in_order);
    run("slots that are cleared or watched are skipped", 60, cleared_and_watched_slots_are_skipped);
    run("slots that are not used are not found", 60, slots_that_are_not_used_are_not_found);
    run("an invalid slot stays inside", 60, invalid_slot_stays_inside);
    run("nothing is overlooked between threads", limit_s, nothing_is_overlooked_between_threads);
    run("nothing is overlooked between processes", limit_s,
        nothing_is_overlooked_between_processes);
    return 0;
}
