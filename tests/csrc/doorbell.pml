/* The doorbell's protocol (csrc/doorbell.h) under weak memory, checked exhaustively:
 *
 *     spin -a doorbell.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan
 *
 * The claim: whenever nothing can move any more, all work was done. A lost ring would leave a
 * sleeper asleep beside work that nobody does.
 *
 * Memory: what a thread stores goes into its store buffer and is seen by others only when the
 * memory process takes it out, at any time; the thread itself goes on, and its loads of
 * other variables do not wait. A fence waits until the buffer is empty. That is how x86
 * behaves, and all that the protocol is afraid of on other processors, too: every thread here
 * stores to one variable only, so that the order among its stores is no question. (An
 * exchange is no store in this sense: it acts on memory, and empties no buffer.)
 *
 * WITH_HELPER models what happens in the master besides: the sleeper (the dispatcher's thread) is
 * parked asleep with the bell armed; a helper (a thread in Future.result) disarms the bell, does
 * work itself, and on leaving arms the bell on behalf of the sleeper and looks once more.
 *
 * Each of these must make the check fail, or it would prove nothing:
 *     -DNO_FENCE_IN_ARM  -DNO_FENCE_IN_RING  -DNO_LOOK_AFTER_ARM  -DNO_COMPARE_IN_SLEEP
 *     and with -DWITH_HELPER:  -DHELPER_DOES_NOT_ARM  -DHELPER_DOES_NOT_LOOK
 */

#define RINGERS 2 /* workers that share the master's doorbell; each publishes in a ring of its own */
#define WORK 2    /* pieces of work that each of them publishes */
#define VISITS 2  /* of the helper */

#define SLEEPER RINGERS
#define HELPER (RINGERS + 1)
#define THREADS (RINGERS + 2)

/* ---- memory ---- */

/* The ringers' heads, one each, and the bell. */
byte memory[RINGERS + 1];
#define ASLEEP RINGERS

chan buffer[THREADS] = [2] of { byte };
byte newest[THREADS]; /* what the thread stored last: what it sees while it is in its buffer */

#define variable_of(thread) ((thread) < RINGERS -> (thread) : ASLEEP)

inline store(thread, value)
{
    atomic {
        buffer[thread]!value;
        newest[thread] = value
    }
}

inline fence(thread)
{
    empty(buffer[thread])
}

active [THREADS] proctype memory_system()
{
    byte value;
end:
    do
    :: d_step {
        buffer[_pid]?value;
        memory[variable_of(_pid)] = value
       }
    od
}

/* ---- the bell ---- */

bool in_futex;     /* the kernel has put the sleeper to sleep */
byte spurious = 1; /* how often it wakes without a reason, as after a signal */

inline arm(thread)
{
    store(thread, 1);
#ifndef NO_FENCE_IN_ARM
    fence(thread)
#endif
}

inline disarm(thread)
{
    store(thread, 0)
}

inline ring(asleep)
{
#ifndef NO_FENCE_IN_RING
    fence(me);
#endif
    asleep = memory[ASLEEP];
    if
    :: asleep == 1 ->
        d_step {
            asleep = memory[ASLEEP];
            memory[ASLEEP] = 0
        }
        if
        :: asleep == 1 -> in_futex = false
        :: else
        fi
    :: else
    fi
}

/* The kernel compares and goes to sleep in one step, with the sleeper's own store done. */
inline sleep()
{
    atomic {
        empty(buffer[SLEEPER]);
        in_futex = true;
#ifndef NO_COMPARE_IN_SLEEP
        in_futex = (memory[ASLEEP] == 1)
#endif
    }
end_asleep:
    if
    :: !in_futex
    :: atomic { in_futex && spurious > 0 -> spurious--; in_futex = false }
    fi
}

/* ---- work ---- */

byte done[RINGERS]; /* under the lock */
bool locked;
bool parked; /* under the lock: the sleeper sleeps, or is about to */

inline lock()
{
    atomic { !locked -> locked = true }
}

/* A release: everything stored before is seen by whoever locks next. */
inline unlock(thread)
{
    atomic { empty(buffer[thread]) -> locked = false }
}

/* Looks at one ring after the other; found is set when there was work, and it is done then. */
inline look(found, head)
{
    found = false;
    head = memory[0];
    if
    :: head != done[0] -> done[0] = head; found = true
    :: else
    fi;
    head = memory[1];
    if
    :: head != done[1] -> done[1] = head; found = true
    :: else
    fi
}

/* ---- the threads ---- */

active [RINGERS] proctype ringer()
{
    byte me = _pid - THREADS, published, asleep;
    do
    :: published < WORK ->
        published++;
        store(me, published);
        ring(asleep)
    :: else -> break
    od
}

active proctype sleeper()
{
    bool found;
    byte head;
    lock();
    do
    :: true ->
        look(found, head);
        arm(SLEEPER);
#ifdef NO_LOOK_AFTER_ARM
        found = false;
#else
        look(found, head);
#endif
        if
        :: found -> disarm(SLEEPER)
        :: else ->
            parked = true;
            unlock(SLEEPER);
            sleep();
            if /* disarms before or after it has the lock again */
            :: disarm(SLEEPER); lock(); parked = false
            :: lock(); parked = false; disarm(SLEEPER)
            fi
        fi
    od
}

#ifdef WITH_HELPER
active proctype helper()
{
    bool found;
    byte head, visits;
    do
    :: visits < VISITS ->
        visits++;
        lock();
        if
        :: parked -> disarm(HELPER)
        :: else
        fi;
        do
        :: look(found, head)
        :: break
        od;
        if
        :: parked ->
#ifndef HELPER_DOES_NOT_ARM
            arm(HELPER);
#endif
#ifndef HELPER_DOES_NOT_LOOK
            look(found, head)
#endif
        :: else
        fi;
        unlock(HELPER)
    :: else -> break
    od
}
#endif

/* timeout is true when nothing else can move. */
active proctype claim()
{
    timeout;
    assert(done[0] == WORK && done[1] == WORK)
}
