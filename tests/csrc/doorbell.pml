/* The doorbell's protocol (csrc/doorbell.h) under weak memory, checked exhaustively:
 *
 *     spin -a doorbell.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan
 *
 * The claim: whenever nothing can move any more, all work was done. A lost ring would leave a
 * sleeper asleep beside work that nobody does.
 *
 * Memory: what a thread stores goes into its store buffer, of which it has one for each variable,
 * and is seen by others only when it leaves the buffer, at any time. The thread itself
 * goes on meanwhile: neither its loads nor its stores to other variables wait. A fence waits
 * until all of the thread's buffers are empty. This is weaker than x86, where stores leave
 * in order. An exchange acts on memory itself and empties no buffer.
 *
 * WITH_HELPER models what happens in the master besides (pympipool/_core/progress_engine.pyx): the mover is
 * parked on its bell; a helper takes its place, disarming its bell, and sleeps on a bell of its
 * own; handing back it arms the mover's bell and looks once more. Workers ring both.
 *
 * Each of these must make the check fail, or it would prove nothing:
 *     -DNO_FENCE_IN_ARM  -DNO_FENCE_IN_RING  -DNO_LOOK_AFTER_ARM  -DNO_COMPARE_IN_SLEEP
 *     and with -DWITH_HELPER:  -DHELPER_DOES_NOT_ARM  -DHELPER_DOES_NOT_LOOK
 *
 * What is left out: time limits of sleeps (they can only help), and that threads which submit calls
 * do work in passing (they do what the helper does, without sleeping).
 */

/* One worker is enough beside the helper; -DRINGERS=2 takes minutes and gigabytes there. */
#ifndef RINGERS
#ifdef WITH_HELPER
#define RINGERS 1
#else
#define RINGERS 2 /* at most; workers, each of which publishes in a ring of its own */
#endif
#endif
#define WORK 2   /* fragments of work that each of them publishes */
#define VISITS 2 /* of the helper */

/* ---- memory ---- */

/* Who stores what. Every pair has a store buffer. */
#define HEAD(ringer) (ringer)          /* by the ringer: how much it published */
#define MOVER_PARKED 2                 /* by the mover */
#define MOVER_ASLEEP 3                 /* by the mover ... */
#define MOVER_ASLEEP_BY_HELPER 4       /* ... and by the helper, through a buffer of its own */
#define HELPER_ASLEEP 5                /* by the helper */
#define HELPING 6                      /* by the helper */
#define BUFFERS 7

#define variable_of(buffer_) ((buffer_) == MOVER_ASLEEP_BY_HELPER -> MOVER_ASLEEP : (buffer_))

byte memory[BUFFERS];
chan buffer[BUFFERS] = [2] of { byte };

inline store(where, value)
{
    buffer[where]!value
}

/* Whether all that the thread stored has left its buffers. */
#define DRAINED_RINGER (len(buffer[me]) == 0)
#define DRAINED_MOVER (len(buffer[MOVER_PARKED]) + len(buffer[MOVER_ASLEEP]) == 0)
#define DRAINED_HELPER \
    (len(buffer[MOVER_ASLEEP_BY_HELPER]) + len(buffer[HELPER_ASLEEP]) + len(buffer[HELPING]) == 0)

active [BUFFERS] proctype store_buffer()
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

/* ---- the bells ---- */

bool mover_in_futex, helper_in_futex; /* the kernel has put it to sleep */
byte spurious = 1; /* how often somebody wakes without a reason, as after a signal */

#ifdef NO_FENCE_IN_ARM
#define FENCE_IN_ARM(drained) true
#else
#define FENCE_IN_ARM(drained) drained
#endif

inline arm(asleep_, drained)
{
    store(asleep_, 1);
    FENCE_IN_ARM(drained)
}

inline disarm(asleep_)
{
    store(asleep_, 0)
}

/* The fence of pmp_doorbell_ring is the caller's, once for both bells. */
inline ring(bell, in_futex, asleep)
{
    asleep = memory[bell];
    if
    :: asleep == 1 ->
        d_step {
            asleep = memory[bell];
            memory[bell] = 0
        }
        if
        :: asleep == 1 -> in_futex = false
        :: else
        fi
    :: else
    fi
}

/* The kernel compares and goes to sleep in one step. own is the sleeper's buffer for the word. */
inline begin_sleep(bell, in_futex, own)
{
    atomic {
        len(buffer[own]) == 0;
#ifdef NO_COMPARE_IN_SLEEP
        in_futex = true
#else
        in_futex = (memory[bell] == 1)
#endif
    }
}

inline end_sleep(in_futex)
{
    if
    :: !in_futex
    :: atomic { in_futex && spurious > 0 -> spurious--; in_futex = false }
    fi
}

/* ---- work ---- */

byte done[2]; /* under the lock */
bool locked;

/* Unlocking is a release: everything stored before is seen by whoever locks next. */
inline pump(drained)
{
    atomic { !locked -> locked = true }
    done[0] = memory[HEAD(0)];
    done[1] = memory[HEAD(1)];
    atomic { drained -> locked = false }
}

/* Says yes when it cannot know, because somebody else has the lock. */
inline look_for_news(news, drained)
{
    if
    :: locked -> news = true
    :: atomic { !locked -> locked = true }
        news = (memory[HEAD(0)] != done[0]);
        news = (news || memory[HEAD(1)] != done[1]);
        atomic { drained -> locked = false }
    fi
}

/* ---- the threads ---- */

active [RINGERS] proctype ringer()
{
    byte me = _pid - BUFFERS, published, asleep;
    do
    :: published < WORK ->
        published++;
        store(HEAD(me), published);
#ifndef NO_FENCE_IN_RING
        DRAINED_RINGER;
#endif
        ring(MOVER_ASLEEP, mover_in_futex, asleep);
#ifdef WITH_HELPER
        ring(HELPER_ASLEEP, helper_in_futex, asleep)
#endif
    :: else -> break
    od
}

active proctype mover()
{
    bool news;
    do
    :: true ->
        pump(DRAINED_MOVER);
        if
        :: memory[HELPING] == 1 ->
            /* It naps. That ends by itself, but counting on it while the helper is there would hide
             * what the helper misses. */
end_nap:    memory[HELPING] == 0
        :: else ->
            store(MOVER_PARKED, 1);
            arm(MOVER_ASLEEP, DRAINED_MOVER);
            news = (memory[HELPING] == 1);
#ifndef NO_LOOK_AFTER_ARM
            if
            :: !news -> look_for_news(news, DRAINED_MOVER)
            :: else
            fi;
#endif
            if
            :: news -> disarm(MOVER_ASLEEP)
            :: else ->
                begin_sleep(MOVER_ASLEEP, mover_in_futex, MOVER_ASLEEP);
end_asleep:     end_sleep(mover_in_futex)
            fi;
            store(MOVER_PARKED, 0)
        fi
    od
}

#ifdef WITH_HELPER
active proctype helper()
{
    bool news;
    byte visits, asleep;
    do
    :: visits < VISITS ->
        visits++;
        /* acquire_progress */
        store(HELPING, 1);
#ifndef NO_FENCE_IN_TAKE_OVER
        DRAINED_HELPER;
#endif
        store(MOVER_ASLEEP_BY_HELPER, 0);
        /* wait_for_news: it may leave after any round, with a result or because its time is over */
        do
        :: pump(DRAINED_HELPER);
            if
            :: break
            :: true
            fi;
            arm(HELPER_ASLEEP, DRAINED_HELPER);
            look_for_news(news, DRAINED_HELPER);
            if
            :: news
            :: else ->
                begin_sleep(HELPER_ASLEEP, helper_in_futex, HELPER_ASLEEP);
end_asleep:     end_sleep(helper_in_futex)
            fi;
            disarm(HELPER_ASLEEP)
        od;
        /* release_progress */
        store(HELPING, 0);
#ifndef NO_FENCE_IN_HAND_BACK
        DRAINED_HELPER;
#endif
        if
        :: memory[MOVER_PARKED] == 1 ->
#ifndef HELPER_DOES_NOT_ARM
            arm(MOVER_ASLEEP_BY_HELPER, DRAINED_HELPER);
#endif
            news = false;
#ifndef HELPER_DOES_NOT_LOOK
            look_for_news(news, DRAINED_HELPER);
#endif
            if
            :: news ->
                DRAINED_HELPER;
                ring(MOVER_ASLEEP, mover_in_futex, asleep)
            :: else
            fi
        :: else
        fi
    :: else -> break
    od
}
#endif

/* timeout is true when nothing else can move. */
active proctype claim()
{
    timeout;
    assert(done[0] + done[1] == RINGERS * WORK)
}
