/* Publishing, claiming and revoking records (csrc/ring.h) under weak memory, checked exhaustively:
 *
 *     spin -a ring.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan
 *
 * The claim: every record is received once by each of the two consumers with its own bytes, or revoked once, never both.
 *
 * The ring has two places, so that it is full and every place is used again. Positions count
 * records. The producer's stores go into its store buffer, which is emptied at any time
 * and, since head is published with release, in order. A compare-and-swap acts on memory as
 * soon as the buffer has nothing more for the same variable; it is no fence.
 *
 * Each of these must make the check fail, or it would prove nothing:
 *     -DNO_RELEASE  -DPLAIN_CLAIM  -DPLAIN_REVOKE  -DNO_CHECK_OF_TAIL  -DONE_TAIL  -DSKIP_CLAIMED
 */

#define PLACES 2
#define RECORDS 4
#define CONSUMERS 2

/* Variables: the payload and the state of each place, and head; a tail is its consumer's. */
#define PAYLOAD(place) (place)
#define STATE(place) (PLACES + (place))
#define HEAD (2 * PLACES)
byte memory[2 * PLACES + 1];
byte tails[CONSUMERS]; /* not buffered: stored late, they would only make the ring look fuller */

#define READY 1
#define CLAIMED 2
#define REVOKED 3

chan buffer = [3] of { byte, byte }; /* variable, value */

byte received[RECORDS * CONSUMERS];
byte revoked[RECORDS];

active proctype memory_system()
{
    byte variable, value;
end:
    do
#ifdef NO_RELEASE
    :: d_step { buffer??eval(HEAD), value; memory[HEAD] = value }
#endif
    :: d_step { buffer?variable(value); memory[variable] = value }
    od
}

/* Changes a variable from one value to another; swapped is true if it had that value. */
inline compare_and_swap(variable, from, to, swapped)
{
    d_step {
        swapped = (memory[variable] == from);
        if
        :: swapped -> memory[variable] = to
        :: else
        fi
    }
}

/* The broken variant: other steps can come between the comparison and the store. */
inline compare_then_store(variable, from, to, swapped)
{
    swapped = (memory[variable] == from);
    if
    :: swapped -> memory[variable] = to
    :: else
    fi
}

inline publish(position)
{
    position - tails[0] < PLACES;
#ifndef ONE_TAIL
    position - tails[1] < PLACES;
#endif
    buffer!PAYLOAD(position % PLACES)(position);
    buffer!STATE(position % PLACES)(READY);
    buffer!HEAD(position + 1)
}

inline revoke(position, swapped)
{
    swapped = true;
#ifndef NO_CHECK_OF_TAIL
    swapped = (tails[0] <= position || tails[1] <= position);
#endif
    if
    :: swapped ->
        !(buffer??[eval(STATE(position % PLACES)), READY]);
#ifdef PLAIN_REVOKE
        compare_then_store(STATE(position % PLACES), READY, REVOKED, swapped);
#else
        compare_and_swap(STATE(position % PLACES), READY, REVOKED, swapped);
#endif
        if
        :: swapped -> revoked[position]++
        :: else
        fi
    :: else
    fi
}

active proctype producer()
{
    byte head, position;
    bool swapped;
    do
    :: head < RECORDS ->
        publish(head);
        head++;
        do /* revokes any of the published records, any number of times */
        :: position < head -> revoke(position, swapped); position++
        :: position < head -> position++
        :: break
        od;
        position = 0
    :: else -> break
    od
}

active [CONSUMERS] proctype consumer()
{
    byte me = _pid - 2, place;
    bool swapped;
    do
    :: tails[me] < RECORDS ->
        memory[HEAD] > tails[me];
        place = tails[me] % PLACES;
        swapped = false;
        if
        :: memory[STATE(place)] == READY ->
#ifdef PLAIN_CLAIM
            compare_then_store(STATE(place), READY, CLAIMED, swapped)
#else
            compare_and_swap(STATE(place), READY, CLAIMED, swapped)
#endif
        :: else
        fi;
#ifndef SKIP_CLAIMED
        swapped = (swapped || memory[STATE(place)] == CLAIMED); /* for all consumers */
#endif
        if
        :: swapped ->
            assert(memory[PAYLOAD(place)] == tails[me]);
            received[tails[me] * CONSUMERS + me]++
        :: else -> assert(memory[STATE(place)] != READY)
        fi;
        tails[me]++
    :: else -> break
    od
}

active proctype claim()
{
    byte position;
    timeout;
    for (position : 0 .. RECORDS - 1) {
        assert(received[position * CONSUMERS] + revoked[position] == 1);
        assert(received[position * CONSUMERS + 1] + revoked[position] == 1)
    }
}
