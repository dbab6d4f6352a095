/* The doorbell's protocol (csrc/doorbell.h) under weak memory, checked exhaustively:
 *
 *     spin -a doorbell.pml && cc -DSAFETY -o pan pan.c && ./pan
 *
 * The claim is that nobody sleeps for ever while there is work: the search must find no state in
 * which nothing moves before everybody has come to their end ("invalid end state").
 *
 * Memory: every thread has, for each variable, a store buffer of one entry. What a thread
 * stores stays there until the memory process takes it out, at any time and in any order, and
 * meanwhile only the thread itself sees it. A fence waits until the thread's buffer is
 * empty. This is weaker than x86 (where stores leave in order) and has what the protocol is
 * afraid of: a load that is done before an earlier store is seen. An atomic exchange acts on memory
 * itself and empties only its own entry: it is no fence for the other variable.
 *
 * -DWITH_HELPER models what happens in the master besides: the sleeper (dispatcher) is parked
 * asleep with the bell armed; a helper (a thread in Future.result) disarms the bell, does work
 * itself, and on leaving arms the bell on behalf of the sleeper and looks once more.
 *
 * What must fail, each a way to lose a ring:
 *   -DNO_FENCE_IN_ARM   -DNO_FENCE_IN_RING   -DNO_LOOK_AFTER_ARM   -DNO_COMPARE_IN_SLEEP
 *   and with the helper: -DHELPER_DOES_NOT_ARM   -DHELPER_DOES_NOT_LOOK
 */

#ifndef RINGERS
#define RINGERS 2 /* at most 2: workers that share the master's doorbell */
#endif
#ifndef WORK
#define WORK 2 /* pieces of work that each of them publishes */
#endif

/* Threads and variables. A ringer publishes in a variable of its own, as each worker in its ring. */
#define SLEEPER RINGERS
#define HELPER (RINGERS + 1)
#define THREADS (RINGERS + 2)
#define ASLEEP RINGERS
#define VARIABLES (RINGERS + 1)

#define EMPTY 255

byte memory[VARIABLES];
byte buffer[THREADS * VARIABLES] = EMPTY;

#define ENTRY(thread, variable) buffer[(thread) * VARIABLES + (variable)]

inline store(thread, variable, value)
{
    /* a second store waits for the first one's way out: the order within a variable is kept */
    atomic {
        ENTRY(thread, variable) == EMPTY;
        ENTRY(thread, variable) = value
    }
}

inline load(thread, variable, result)
{
    atomic {
        if
        :: ENTRY(thread, variable) != EMPTY -> result = ENTRY(thread, variable)
        :: else -> result = memory[variable]
        fi
    }
}

#if RINGERS == 1
#define DRAINED(thread) (ENTRY(thread, 0) == EMPTY && ENTRY(thread, 1) == EMPTY)
#else
#define DRAINED(thread) \
    (ENTRY(thread, 0) == EMPTY && ENTRY(thread, 1) == EMPTY && ENTRY(thread, 2) == EMPTY)
#endif

active proctype memory_system()
{
    byte entry;
end:
    do
    :: atomic {
        select(entry : 0 .. (THREADS * VARIABLES - 1));
        buffer[entry] != EMPTY;
        memory[entry % VARIABLES] = buffer[entry];
        buffer[entry] = EMPTY
       }
    od
}
