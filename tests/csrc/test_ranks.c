/* The words of ranks: who has ended a call, and whether all have ended it alike. stress_channel.c uses them at full speed. */
#include "support.h"

#include "../../csrc/ranks.h"

enum { RANKS = 3 };

static pmp_rank_word words[RANKS];
static pmp_ranks ranks[RANKS];

static void new_ranks(void)
{
    memset(words, 0, sizeof words);
    for (uint32_t rank = 0; rank < RANKS; rank++) {
        ranks[rank] = (pmp_ranks){.words = words, .count = RANKS, .rank = rank};
    }
}

static void all_end(uint64_t outcome)
{
    for (uint32_t rank = 0; rank < RANKS; rank++) {
        CHECK_EQUAL(pmp_ranks_end(&ranks[rank], outcome), rank == RANKS - 1);
    }
}

static void new_ranks_may_begin(void)
{
    new_ranks();
    for (uint32_t rank = 0; rank < RANKS; rank++) {
        CHECK(pmp_ranks_have_ended(&ranks[rank]));
        CHECK(pmp_ranks_agree(&ranks[rank]));
    }
}

static void last_rank_ends_the_call(void)
{
    new_ranks();
    CHECK(!pmp_ranks_end(&ranks[1], 0));
    CHECK(!pmp_ranks_have_ended(&ranks[1]));
    CHECK(pmp_ranks_have_ended(&ranks[0])); /* it has not ended itself: nothing to wait for */
    CHECK(!pmp_ranks_end(&ranks[2], 0));
    CHECK(pmp_ranks_end(&ranks[0], 0));
    for (uint32_t rank = 0; rank < RANKS; rank++) {
        CHECK(pmp_ranks_have_ended(&ranks[rank]));
    }
}

/* For more calls than a word can count. */
static void counts_wrap_around(void)
{
    new_ranks();
    for (int call = 0; call < 70000; call++) {
        all_end((uint64_t)call);
        CHECK(pmp_ranks_agree(&ranks[call % RANKS]));
    }
}

static void different_outcomes_are_seen_by_all(void)
{
    for (uint32_t different = 0; different < RANKS; different++) {
        new_ranks();
        all_end(5);
        for (uint32_t rank = 0; rank < RANKS; rank++) {
            pmp_ranks_end(&ranks[rank], rank == different ? 7 : 5);
        }
        for (uint32_t rank = 0; rank < RANKS; rank++) {
            CHECK(pmp_ranks_have_ended(&ranks[rank]));
            CHECK(!pmp_ranks_agree(&ranks[rank]));
        }
    }
}

/* A rank that has begun and ended the next call has seen that the outcomes of this one were equal. */
static void rank_that_is_ahead_agrees(void)
{
    new_ranks();
    all_end(5);
    CHECK(!pmp_ranks_end(&ranks[0], 7));
    CHECK(pmp_ranks_have_ended(&ranks[1]));
    CHECK(pmp_ranks_agree(&ranks[1]));
    CHECK(!pmp_ranks_have_ended(&ranks[0]));
}

static void rank_that_is_behind_needs_its_core(void)
{
    pmp_doorbell bells[RANKS];
    memset(bells, 0, sizeof bells);
    bells[0].core = 1;
    bells[1].core = 2;
    bells[2].core = 1;
    new_ranks();
    CHECK(!pmp_ranks_need_core(&ranks[0], bells, 1));
    CHECK(!pmp_ranks_end(&ranks[0], 0));
    CHECK(pmp_ranks_need_core(&ranks[0], bells, 1)); /* rank 2 */
    CHECK(pmp_ranks_need_core(&ranks[0], bells, 2)); /* rank 1 */
    CHECK(!pmp_ranks_need_core(&ranks[0], bells, 3));
    CHECK(pmp_ranks_use_core(&ranks[0], bells, 1));
    CHECK(!pmp_ranks_use_core(&ranks[0], bells, 3));
    CHECK(!pmp_ranks_use_core(&ranks[1], bells, 2));  /* it does so itself */
    CHECK(!pmp_ranks_need_core(&ranks[1], bells, 1)); /* it has not ended the call itself */
    CHECK(!pmp_ranks_end(&ranks[2], 0));
    CHECK(!pmp_ranks_need_core(&ranks[0], bells, 1));
    CHECK(pmp_ranks_need_core(&ranks[0], bells, 2));
}

static void rank_knows_where_the_others_are(void)
{
    pmp_doorbell bells[RANKS];
    memset(bells, 0, sizeof bells);
    new_ranks();
    CHECK_EQUAL(pmp_ranks_other_core(&ranks[0], bells, 1), 0);
    bells[0].core = 1;
    bells[1].core = 2;
    bells[2].core = 3;
    CHECK_EQUAL(pmp_ranks_other_core(&ranks[0], bells, 1), 2);
    CHECK_EQUAL(pmp_ranks_other_core(&ranks[1], bells, 2), 3);
    CHECK_EQUAL(pmp_ranks_other_core(&ranks[2], bells, 1), 2);
    bells[1].core = 1;
    bells[2].core = 1;
    CHECK_EQUAL(pmp_ranks_other_core(&ranks[0], bells, 1), 0);
}

static void outcome_has_48_bits(void)
{
    new_ranks();
    all_end(UINT64_MAX);
    CHECK(pmp_ranks_agree(&ranks[0]));
    CHECK(!pmp_ranks_end(&ranks[0], 0));
    CHECK(!pmp_ranks_end(&ranks[1], UINT64_C(1) << 47));
    CHECK(pmp_ranks_end(&ranks[2], 0));
    CHECK(!pmp_ranks_agree(&ranks[1]));
}

int main(void)
{
    run("new ranks may begin", 60, new_ranks_may_begin);
    run("the last rank ends the call", 60, last_rank_ends_the_call);
    run("counts wrap around", 60, counts_wrap_around);
    run("different outcomes are seen by all", 60, different_outcomes_are_seen_by_all);
    run("a rank that is ahead agrees", 60, rank_that_is_ahead_agrees);
    run("a rank that is behind needs its core", 60, rank_that_is_behind_needs_its_core);
    run("a rank knows where the others are", 60, rank_knows_where_the_others_are);
    run("an outcome has 48 bits", 60, outcome_has_48_bits);
    return 0;
}
