/* The protocols of the doorbell (csrc/doorbell.h) and of news (csrc/news.h) under weak memory, checked exhaustively:
 *
 *     spin -a doorbell.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan
 *
 * The claim: whenever no thread can run any more, all work was done. A lost ring would leave a
 * sleeper asleep although there is work that no thread does.
 *
 * Memory: each thread has a store buffer for each variable. A store goes into the buffer, and other
 * threads see it only when it leaves the buffer, at any time. The thread itself
 * continues meanwhile: neither its loads nor its stores to other variables wait. A fence waits
 * until all of the thread's buffers are empty. This is weaker than x86, where stores leave
 * in order. An exchange acts on memory itself and empties no buffer. Setting and clearing a bit of news may take effect
 * late, like a store.
 *
 * News: the rings that the master watches are looked at in each round, and of the others those whose bit is set. The master may
 * stop watching a ring in any round.
 *
 * WITH_WAITING_THREAD also models the master (pympipool/_core/progress_engine.pyx): the progress thread sleeps on
 * its doorbell. A waiting thread takes its place: it disarms that doorbell and sleeps on one of its own. When it
 * releases progress, it arms the progress thread's doorbell and checks for work once more. Workers ring both.
 *
 * Each of these must make the check fail, or it would prove nothing:
 *     -DNO_FENCE_IN_ARM  -DNO_FENCE_IN_RING  -DNO_CHECK_AFTER_ARM  -DNO_COMPARE_IN_SLEEP
 *     -DNO_FENCE_AFTER_NEWS  -DNO_FENCE_IN_CLEAR  -DNO_LOOK_AFTER_CLEAR
 *     and with -DWITH_WAITING_THREAD:  -DRELEASE_DOES_NOT_ARM  -DRELEASE_DOES_NOT_CHECK
 *
 * Not modelled: timeouts of sleeps (they can only help), and threads that submit calls and make progress
 * in passing (they do what the waiting thread does, without sleeping).
 */

/* One worker is enough beside the waiting thread; -DRINGERS=2 takes minutes and gigabytes there. */
#ifndef RINGERS
#ifdef WITH_WAITING_THREAD
#define RINGERS 1
#else
#define RINGERS 2 /* at most; workers, each of which publishes in a ring of its own */
#endif
#endif
#define WORK 2   /* units of work that each of them publishes */
#define VISITS 2 /* of the waiting thread */
#ifndef CHANGES
#define CHANGES 2 /* how often the master stops watching a ring */
#endif

/* ---- memory ---- */

/* Variables and the thread that stores them. Every pair has a store buffer. */
#define HEAD(ringer) (ringer)          /* by the ringer: how much it published */
#define PROGRESS_THREAD_ASLEEP 2 /* by the progress thread */
#define PROGRESS_ARMED 3 /* by the progress thread */
#define PROGRESS_ARMED_BY_WAITING 4 /* the same variable, stored by the waiting thread through a buffer of its own */
#define WAITING_ARMED 5 /* by the waiting thread */
#define PROGRESS_ACQUIRED 6 /* by the waiting thread */
#define NEWS(ringer) (7 + (ringer)) /* by the ringer, which sets its bit */
#define NEWS_CLEARED(ringer) (9 + (ringer)) /* the same variable, stored by the thread that has the lock */
#define BUFFERS 11

#define variable_of(buffer_) \
    ((buffer_) == PROGRESS_ARMED_BY_WAITING -> PROGRESS_ARMED : ((buffer_) >= NEWS_CLEARED(0) -> (buffer_) - 2 : (buffer_)))

byte memory[BUFFERS];
chan buffer[BUFFERS] = [2] of { byte };

inline store(where, value)
{
    buffer[where]!value
}

/* True when all stores of the thread have left its buffers. */
#define DRAINED_RINGER (len(buffer[HEAD(me)]) + len(buffer[NEWS(me)]) == 0)
#define DRAINED_NEWS (len(buffer[NEWS_CLEARED(0)]) + len(buffer[NEWS_CLEARED(1)]) == 0)
#define DRAINED_PROGRESS (len(buffer[PROGRESS_THREAD_ASLEEP]) + len(buffer[PROGRESS_ARMED]) == 0)
#define DRAINED_WAITING \
    (len(buffer[PROGRESS_ARMED_BY_WAITING]) + len(buffer[WAITING_ARMED]) + len(buffer[PROGRESS_ACQUIRED]) == 0)

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

/* ---- the doorbells ---- */

bool progress_in_futex, waiting_in_futex; /* the kernel has put it to sleep */
byte spurious = 1; /* number of wake-ups without a ring, as after a signal */

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

/* The fence of pmp_doorbell_ring is the caller's, once for both doorbells. */
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

/* Under the lock. */
byte done[2];
bool unwatched[2]; /* the ring is looked at only if its bit is set */
byte changes = CHANGES; /* how often the master may still stop watching a ring */
bool locked;

inline look(ringer_)
{
    done[ringer_] = memory[HEAD(ringer_)]
}

inline stop_watching(ringer_)
{
    changes--;
    unwatched[ringer_] = true;
    store(NEWS_CLEARED(ringer_), 0);
#ifndef NO_FENCE_IN_CLEAR
    DRAINED_NEWS;
#endif
#ifndef NO_LOOK_AFTER_CLEAR
    look(ringer_)
#endif
}

inline serve(ringer_)
{
    if
    :: !unwatched[ringer_] -> look(ringer_)
    :: unwatched[ringer_] && memory[NEWS(ringer_)] == 1 ->
        unwatched[ringer_] = false;
        look(ringer_)
    :: else
    fi;
    if
    :: !unwatched[ringer_] && changes > 0 -> stop_watching(ringer_)
    :: true
    fi
}

/* Unlocking is a release: everything stored before is seen by the thread that locks next. */
inline pump(drained)
{
    atomic { !locked -> locked = true }
    serve(0);
#if RINGERS > 1
    serve(1);
#endif
    atomic { drained && DRAINED_NEWS -> locked = false }
}

#define HAS_NEWS(ringer_) \
    (unwatched[ringer_] -> memory[NEWS(ringer_)] == 1 : memory[HEAD(ringer_)] != done[ringer_])

/* Finds work also when that cannot be known, because another thread has the lock. */
inline check_for_work(found, drained)
{
    if
    :: locked -> found = true
    :: atomic { !locked -> locked = true }
        found = HAS_NEWS(0);
        found = (found || HAS_NEWS(1));
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
        if
        :: memory[NEWS(me)] == 0 ->
            store(NEWS(me), 1);
#ifndef NO_FENCE_AFTER_NEWS
            DRAINED_RINGER
#endif
        :: else
        fi;
        ring(PROGRESS_ARMED, progress_in_futex, asleep);
#ifdef WITH_WAITING_THREAD
        ring(WAITING_ARMED, waiting_in_futex, asleep)
#endif
    :: else -> break
    od
}

active proctype progress_thread()
{
    bool found;
    do
    :: true ->
        pump(DRAINED_PROGRESS);
        if
        :: memory[PROGRESS_ACQUIRED] == 1 ->
            /* A short sleep. It ends by itself, but relying on that while the waiting thread is active would
             * hide what the waiting thread misses. */
end_short_sleep:    memory[PROGRESS_ACQUIRED] == 0
        :: else ->
            store(PROGRESS_THREAD_ASLEEP, 1);
            arm(PROGRESS_ARMED, DRAINED_PROGRESS);
            found = (memory[PROGRESS_ACQUIRED] == 1);
#ifndef NO_CHECK_AFTER_ARM
            if
            :: !found -> check_for_work(found, DRAINED_PROGRESS)
            :: else
            fi;
#endif
            if
            :: found -> disarm(PROGRESS_ARMED)
            :: else ->
                begin_sleep(PROGRESS_ARMED, progress_in_futex, PROGRESS_ARMED);
end_asleep:     end_sleep(progress_in_futex)
            fi;
            store(PROGRESS_THREAD_ASLEEP, 0)
        fi
    od
}

#ifdef WITH_WAITING_THREAD
active proctype waiting_thread()
{
    bool found;
    byte visits, asleep;
    do
    :: visits < VISITS ->
        visits++;
        /* acquire_progress */
        store(PROGRESS_ACQUIRED, 1);
#ifndef NO_FENCE_IN_ACQUIRE
        DRAINED_WAITING;
#endif
        store(PROGRESS_ARMED_BY_WAITING, 0);
        /* wait_for_completion: it may return after any round, with a result or because of its timeout */
        do
        :: pump(DRAINED_WAITING);
            if
            :: break
            :: true
            fi;
            arm(WAITING_ARMED, DRAINED_WAITING);
            check_for_work(found, DRAINED_WAITING);
            if
            :: found
            :: else ->
                begin_sleep(WAITING_ARMED, waiting_in_futex, WAITING_ARMED);
end_asleep:     end_sleep(waiting_in_futex)
            fi;
            disarm(WAITING_ARMED)
        od;
        /* release_progress */
        store(PROGRESS_ACQUIRED, 0);
#ifndef NO_FENCE_IN_RELEASE
        DRAINED_WAITING;
#endif
        if
        :: memory[PROGRESS_THREAD_ASLEEP] == 1 ->
#ifndef RELEASE_DOES_NOT_ARM
            arm(PROGRESS_ARMED_BY_WAITING, DRAINED_WAITING);
#endif
            found = false;
#ifndef RELEASE_DOES_NOT_CHECK
            check_for_work(found, DRAINED_WAITING);
#endif
            if
            :: found ->
                DRAINED_WAITING;
                ring(PROGRESS_ARMED, progress_in_futex, asleep)
            :: else
            fi
        :: else
        fi
    :: else -> break
    od
}
#endif

/* timeout is true when no other process can run. */
active proctype claim()
{
    timeout;
    assert(done[0] + done[1] == RINGERS * WORK)
}
