/* Shared by the models under the relaxed memory model of C11: relacy runs random executions of a model, in which a load may
 * return any value that the standard allows, and detects data races, failed assertions, and waits that never end.
 *
 * The command line of a model may name one thing that is weakened, which must break it: see `make relaxed`.
 */
#ifndef PMP_RELAXED_H
#define PMP_RELAXED_H

#include <cstdlib>
#include <cstring>
#include <relacy/relacy.hpp>

/* What the command line weakens. */
static const char *weakened = "";

static bool is_weakened(const char *name)
{
    return std::strcmp(weakened, name) == 0;
}

static rl::memory_order order(const char *name, rl::memory_order usual)
{
    if (!is_weakened(name)) {
        return usual;
    }
    return usual == rl::mo_seq_cst ? rl::mo_acq_rel : rl::mo_relaxed;
}

/* A full fence, or one that does not order a store before a later load. */
#define FULL_FENCE(name) rl::atomic_thread_fence(order(name, rl::mo_seq_cst), $)

/* csrc/doorbell.c. A sleeper in the kernel is one that waits for a change of the word: the kernel compares it before. */
struct doorbell {
    rl::atomic<unsigned> asleep;

    void reset()
    {
        asleep($) = 0;
    }

    void ring_after_fence()
    {
        if (asleep($).load(rl::mo_relaxed) != 0) {
            asleep($).exchange(0, rl::mo_release);
        }
    }

    void ring()
    {
        FULL_FENCE("FENCE_IN_RING");
        ring_after_fence();
    }

    /* Sleeps unless there is work after arming. */
    template <typename ready_function> void sleep_unless(ready_function ready)
    {
        asleep($).store(1, rl::mo_relaxed);
        FULL_FENCE("FENCE_IN_ARM");
        if (!ready()) {
            rl::linear_backoff backoff;
            while (asleep($).load(rl::mo_acquire) == 1) {
                backoff.yield($);
            }
        }
        asleep($).store(0, rl::mo_relaxed);
    }

    template <typename ready_function> void wait(ready_function ready)
    {
        while (!ready()) {
            sleep_unless(ready);
        }
    }
};

/* The command line has the number of executions, and what is weakened. Exit code 1: an execution broke the model, and is
 * printed. */
template <typename model> int simulate(int argc, char **argv)
{
    weakened = argc > 2 ? argv[2] : "";
    rl::test_params parameters;
    parameters.iteration_count =
        argc > 1 ? static_cast<rl::iteration_t>(std::atoi(argv[1])) : 20000;
    parameters.execution_depth_limit = 3000; /* a wait that is longer never ends */
    parameters.search_type = rl::random_scheduler_type;
    return rl::simulate<model>(parameters) ? 0 : 1;
}

#endif
