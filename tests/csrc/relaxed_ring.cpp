/* csrc/ring.c with its doorbells: one producer, CONSUMERS consumers that each receive every record, or none of them.
 * The producer revokes one record while the consumers may claim it. */
#include "relaxed.h"

#ifndef CONSUMERS
#define CONSUMERS 1
#endif

enum { READY = 1, CLAIMED = 2, REVOKED = 3 };
enum { RECORDS = 3, CAPACITY = 2, REVOKE_AFTER = 1 };

struct model : rl::test_suite<model, 1 + CONSUMERS> {
    rl::atomic<unsigned> head, tails[CONSUMERS], states[CAPACITY];
    rl::var<unsigned> payloads[CAPACITY];
    doorbell bells[CONSUMERS], producer_bell;
    unsigned received[CONSUMERS], revoked; /* a bit for each record */

    void before()
    {
        head($) = 0;
        for (unsigned i = 0; i < CAPACITY; i++) {
            states[i]($) = 0;
        }
        for (unsigned i = 0; i < CONSUMERS; i++) {
            tails[i]($) = 0;
            bells[i].reset();
            received[i] = 0;
        }
        producer_bell.reset();
        revoked = 0;
    }

    void after()
    {
        for (unsigned i = 0; i < CONSUMERS; i++) {
            RL_ASSERT((received[i] | revoked) == (1u << RECORDS) - 1);
            RL_ASSERT((received[i] & revoked) == 0);
        }
    }

    void thread(unsigned index)
    {
        if (index == 0) {
            produce();
        } else {
            consume(index - 1);
        }
    }

    unsigned furthest_tail()
    {
        unsigned furthest = tails[0]($).load(order("LOOK_BACK", rl::mo_acquire));
        for (unsigned i = 1; i < CONSUMERS && !is_weakened("ONE_TAIL"); i++) {
            const unsigned tail = tails[i]($).load(order("LOOK_BACK", rl::mo_acquire));
            furthest = tail < furthest ? tail : furthest;
        }
        return furthest;
    }

    bool change_state(unsigned position, unsigned to)
    {
        unsigned from = READY;
        rl::atomic<unsigned> &state = states[position % CAPACITY];
        if (!is_weakened("CHANGE_STATE")) {
            return state($).compare_exchange_strong(from, to, rl::mo_relaxed);
        }
        if (state($).load(rl::mo_relaxed) != from) {
            return false;
        }
        state($).store(to, rl::mo_relaxed);
        return true;
    }

    void produce()
    {
        for (unsigned position = 0; position < RECORDS; position++) {
            producer_bell.wait([=] { return position - furthest_tail() < CAPACITY; });
            payloads[position % CAPACITY]($) = position + 100;
            states[position % CAPACITY]($).store(READY, rl::mo_relaxed);
            head($).store(position + 1, order("COMMIT", rl::mo_release));
            for (unsigned i = 0; i < CONSUMERS; i++) {
                bells[i].ring();
            }
            if (position == REVOKE_AFTER && position - furthest_tail() < CAPACITY &&
                change_state(position, REVOKED)) {
                revoked |= 1u << position;
            }
        }
    }

    /* Returns true if the record is this consumer's, claimed by itself or, for all, by another one. */
    bool claim(unsigned position)
    {
        unsigned state = states[position % CAPACITY]($).load(rl::mo_relaxed);
        RL_ASSERT(state == READY || state == REVOKED || (state == CLAIMED && CONSUMERS > 1));
        if (state == READY) {
            if (change_state(position, CLAIMED)) {
                return true;
            }
            state = states[position % CAPACITY]($).load(rl::mo_relaxed);
        }
        return state == CLAIMED && CONSUMERS > 1 && !is_weakened("CLAIM_OF_OTHERS");
    }

    void consume(unsigned number)
    {
        for (unsigned position = 0; position < RECORDS;) {
            bells[number].wait([=] { return head($).load(order("LOOK", rl::mo_acquire)) != position; });
            if (claim(position)) {
                RL_ASSERT((unsigned)payloads[position % CAPACITY]($) == position + 100);
                received[number] |= 1u << position;
            }
            tails[number]($).store(++position, order("RELEASE", rl::mo_release));
            producer_bell.ring();
        }
    }
};

int main(int argc, char **argv)
{
    return simulate<model>(argc, argv);
}
