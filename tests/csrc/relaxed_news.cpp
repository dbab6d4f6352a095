/* csrc/news.c with the reader's doorbell: two writers publish in rings of their own, whose bits lie in one word. The reader looks only
 * at rings whose bit is set. It stops watching a ring by clearing its bit. */
#include "relaxed.h"

enum { WRITERS = 2, RECORDS = 2 };

struct model : rl::test_suite<model, 1 + WRITERS> {
    rl::atomic<unsigned> heads[WRITERS], bits;
    rl::var<unsigned> payloads[WRITERS][RECORDS];
    doorbell bell;
    unsigned seen[WRITERS]; /* the reader's */

    void before()
    {
        for (unsigned i = 0; i < WRITERS; i++) {
            heads[i]($) = 0;
            seen[i] = 0;
        }
        bits($) = 0;
        bell.reset();
    }

    void thread(unsigned index)
    {
        if (index == WRITERS) {
            read();
        } else {
            write(index);
        }
    }

    void add_news(unsigned slot)
    {
        FULL_FENCE("FENCE_BEFORE_BIT");
        if ((bits($).load(rl::mo_relaxed) & 1u << slot) == 0) {
            bits($).fetch_or(1u << slot, rl::mo_release);
            FULL_FENCE("FENCE_AFTER_BIT");
        }
    }

    void write(unsigned slot)
    {
        for (unsigned position = 0; position < RECORDS; position++) {
            payloads[slot][position]($) = position + 100;
            heads[slot]($).store(position + 1, order("COMMIT", rl::mo_release));
            add_news(slot);
            bell.ring_after_fence();
        }
    }

    void take_from(unsigned slot)
    {
        const unsigned head = heads[slot]($).load(rl::mo_acquire);
        while (seen[slot] != head) {
            RL_ASSERT((unsigned)payloads[slot][seen[slot]]($) == seen[slot] + 100);
            seen[slot]++;
        }
    }

    void clear(unsigned slot)
    {
        bits($).fetch_and(~(1u << slot), rl::mo_acquire);
        FULL_FENCE("FENCE_IN_CLEAR");
        if (!is_weakened("LOOK_AFTER_CLEAR")) {
            take_from(slot);
        }
    }

    void read()
    {
        while (seen[0] + seen[1] < WRITERS * RECORDS) {
            bell.wait([=] { return bits($).load(rl::mo_acquire) != 0; });
            for (unsigned slot = 0; slot < WRITERS; slot++) {
                if ((bits($).load(rl::mo_acquire) & 1u << slot) != 0) {
                    take_from(slot);
                    clear(slot);
                }
            }
        }
    }
};

int main(int argc, char **argv)
{
    return simulate<model>(argc, argv);
}
