/* Who wakes whom when a call has ended on the ranks of a worker (csrc/ranks.h, Channel.end_call in pympipool/_core/channel.pyx)
 * under weak memory, checked exhaustively:
 *
 *     spin -a ranks.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan
 *
 * Only a rank that finds a call ended on all ranks rings: the master, and the other ranks if there is another call for
 * them. The claim: whenever no process can run any more, the master has all answers, and all ranks have left. A lost ring would leave
 * the master or a rank asleep.
 *
 * Memory as in doorbell.pml: each store goes into a buffer and leaves it at any time; a fence waits until the buffers of
 * its process are empty. A word is stored with release: it leaves after the answers before it. The doorbells work as they do there.
 *
 * Each of these must make the check fail, or it would prove nothing:
 *     -DNO_FENCE_IN_END  -DNO_RING_FOR_RANKS  -DNO_RING_AT_END  -DNO_CHECK_AFTER_ARM
 *
 * Not modelled: fragments, for which each rank rings by itself; timeouts of sleeps, and the rings of a master that has received
 * something (they can only help).
 */

#define RANKS 2
#define CALLS 2

/* ---- memory ---- */

/* Variables. Each is stored by one process, through a buffer of its own. */
#define ANSWERS(rank) (rank)             /* by the rank: how many calls it has answered */
#define WORD(rank) (RANKS + (rank))      /* by the rank: how many calls have ended there */
#define ARMED(rank) (2 * RANKS + (rank)) /* by the rank, and exchanged by those who ring */
#define HEAD (3 * RANKS)                 /* by the caller: how many calls it has sent */
#define MASTER_ARMED (HEAD + 1)
#define BUFFERS (HEAD + 2)

byte memory[BUFFERS];
chan buffer[BUFFERS] = [2] of { byte };

inline store(where, value)
{
    buffer[where]!value
}

#define DRAINED(where) (len(buffer[where]) == 0)
#define DRAINED_RANK (DRAINED(ANSWERS(me)) && DRAINED(WORD(me)) && DRAINED(ARMED(me)))

#define MAY_LEAVE (_pid < RANKS || _pid >= 2 * RANKS || DRAINED(_pid - RANKS))

active [BUFFERS] proctype store_buffer()
{
    byte value;
end:
    do
    :: d_step {
        MAY_LEAVE && len(buffer[_pid]) > 0 ->
        buffer[_pid]?value;
        memory[_pid] = value
       }
    od
}

/* ---- doorbells ---- */

bool in_futex[BUFFERS]; /* whose doorbell it is sleeps in the kernel */

/* After a fence of the caller's. */
inline ring(bell)
{
    if
    :: memory[bell] == 1 ->
        d_step {
            if
            :: memory[bell] == 1 -> memory[bell] = 0; in_futex[bell] = false
            :: else
            fi
        }
    :: else
    fi
}

inline begin_sleep(bell)
{
    atomic { DRAINED(bell); in_futex[bell] = (memory[bell] == 1) }
}

/* ---- the processes ---- */

byte done;  /* calls that the master has all answers of */
byte gone;  /* ranks that have left */

/* pmp_ranks_have_ended. Of two ranks each reads one word of another. */
inline check_ended(found)
{
    found = (memory[WORD(1 - me)] >= ended)
}

/* After the last call a rank waits for the others, in `ranks_agree`; before, for them and another call, in `receive`. */
inline check_ready(found)
{
    check_ended(found);
    if
    :: found && ended < CALLS -> found = (memory[HEAD] > ended)
    :: else
    fi
}

active [RANKS] proctype rank()
{
    byte me = _pid - BUFFERS, ended;
    bool found;
    do
    :: true ->
        check_ready(found);
        do
        :: found -> break
        :: else ->
            store(ARMED(me), 1);
            DRAINED_RANK;
#ifndef NO_CHECK_AFTER_ARM
            check_ready(found);
#endif
            if
            :: found
            :: else ->
                begin_sleep(ARMED(me));
                !in_futex[ARMED(me)];
                check_ready(found)
            fi;
            store(ARMED(me), 0)
        od;
        if
        :: ended == CALLS -> break
        :: else
        fi;
        ended++;
        store(ANSWERS(me), ended);
        store(WORD(me), ended);
#ifndef NO_FENCE_IN_END
        DRAINED_RANK;
#endif
        check_ended(found);
        if
        :: found ->
            ring(MASTER_ARMED);
            if
#ifndef NO_RING_FOR_RANKS
            :: ended < CALLS && memory[HEAD] > ended -> ring(ARMED(1 - me))
#endif
#ifndef NO_RING_AT_END
            :: ended == CALLS -> ring(ARMED(1 - me))
#endif
            :: else
            fi
        :: else
        fi
    od;
    atomic { gone++; found = false }
}

/* Sends calls at any time. */
active proctype caller()
{
    byte sent;
    do
    :: sent < CALLS ->
        sent++;
        store(HEAD, sent);
        DRAINED(HEAD);
        ring(ARMED(0));
        ring(ARMED(1))
    :: else -> break
    od
}

inline check_answers(found)
{
    found = (memory[ANSWERS(0)] > done);
    found = (found && memory[ANSWERS(1)] > done)
}

active proctype master()
{
    bool found;
    do
    :: done < CALLS ->
        check_answers(found);
        if
        :: found -> done++
        :: else ->
            store(MASTER_ARMED, 1);
            DRAINED(MASTER_ARMED);
            check_answers(found);
            if
            :: found
            :: else ->
                begin_sleep(MASTER_ARMED);
                !in_futex[MASTER_ARMED]
            fi;
            store(MASTER_ARMED, 0)
        fi
    :: else -> break
    od
}

/* timeout is true when no other process can run. */
active proctype claim()
{
    timeout;
    assert(done == CALLS && gone == RANKS)
}
