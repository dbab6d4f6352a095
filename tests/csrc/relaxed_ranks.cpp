/* csrc/ranks.c: two ranks end each call. At least one of them sees that both have ended it, and what the other one wrote before. */
#include "relaxed.h"

enum { RANKS = 2, CALLS = 2 };

struct model : rl::test_suite<model, RANKS> {
    rl::atomic<unsigned> ended[RANKS];
    rl::var<unsigned> answers[RANKS];
    doorbell bells[RANKS];
    unsigned last[RANKS]; /* how often a rank was the last to end a call */

    void before()
    {
        for (unsigned i = 0; i < RANKS; i++) {
            ended[i]($) = 0;
            bells[i].reset();
            last[i] = 0;
            read[i]($) = 0;
        }
    }

    void after()
    {
        RL_ASSERT(last[0] + last[1] >= CALLS);
    }

    void thread(unsigned rank)
    {
        const unsigned other = 1 - rank;
        for (unsigned call = 1; call <= CALLS; call++) {
            answers[rank]($) = call;
            ended[rank]($).store(call, order("END", rl::mo_release));
            FULL_FENCE("FENCE_IN_END");
            if (ended[other]($).load(order("LOOK", rl::mo_acquire)) >= call) {
                last[rank]++;
                bells[other].ring_after_fence();
            }
            bells[rank].wait([=] { return ended[other]($).load(order("LOOK", rl::mo_acquire)) >= call; });
            RL_ASSERT((unsigned)answers[other]($) >= call);
            meet(rank, call);
        }
    }

    /* Both have read: neither writes the next answer before. Not a part of what is checked. */
    rl::atomic<unsigned> read[RANKS];
    void meet(unsigned rank, unsigned call)
    {
        rl::linear_backoff backoff;
        read[rank]($).store(call, rl::mo_release);
        while (read[1 - rank]($).load(rl::mo_acquire) < call) {
            backoff.yield($);
        }
    }
};

int main(int argc, char **argv)
{
    return simulate<model>(argc, argv);
}
