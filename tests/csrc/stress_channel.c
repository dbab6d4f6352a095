/* Master and worker exchange messages of all sizes through a link, at full speed.
 *
 * usage: stress_channel threads|processes MESSAGES
 *
 * The worker, of one rank or several, sends every call back as a result from each rank. The master has many calls under
 * way, takes some of them back, and must get each of the others back as it was from each rank, in order. No rank begins a
 * call before all have ended the one before. */
#include "support.h"

#include <stdatomic.h>

#include "../../csrc/link.h"

enum {
    CAPACITY = PMP_LINK_CAPACITY_MIN,
    UNDER_WAY = 64,
    PARTS = 6,
    PART_LIMIT = 5 * CAPACITY,
    RANKS_MAX = 3
};

/* Lies in shared memory. */
typedef struct {
    pmp_doorbell master_bell;
    uint64_t message_count;
    uint32_t rank_count;
    _Atomic uint32_t next_rank;
    _Alignas(PMP_CACHE_LINE) unsigned char link[];
} course;

typedef struct {
    pmp_sender sender;
    pmp_receiver receiver;
    pmp_doorbell *worker_bells, *master_bell;
    pmp_spinner spinner;
    pmp_ranks ranks;
} side;

/* The parts of message number n: mostly small or empty, 1 message of 128 larger than the ring. */
static uint32_t sizes_of(uint64_t number, uint64_t *sizes)
{
    uint64_t random = mix(number);
    const uint64_t most = random % 128 == 0 ? PART_LIMIT : 100;
    const uint32_t part_count = 1 + (uint32_t)((random >> 8) % PARTS);
    for (uint32_t part = 0; part < part_count; part++) {
        random = mix(random);
        sizes[part] = random % 4 == 0 ? 0 : (random >> 8) % most;
    }
    return part_count;
}

static pmp_head head_of(uint64_t number)
{
    uint64_t sizes[PARTS];
    return (pmp_head){PMP_CALL, sizes_of(number, sizes), number, mix(number)};
}

static void make_parts(uint64_t number, pmp_part *parts)
{
    uint64_t sizes[PARTS];
    const uint32_t part_count = sizes_of(number, sizes);
    for (uint32_t part = 0; part < part_count; part++) {
        parts[part].size_bytes = sizes[part];
        fill_bytes(parts[part].data, sizes[part], mix(number + part));
    }
}

static void check_message(const pmp_receiver *receiver, uint64_t number)
{
    uint64_t sizes[PARTS];
    const uint32_t part_count = sizes_of(number, sizes);
    CHECK_EQUAL(receiver->head.kind, PMP_RESULT);
    CHECK_EQUAL(receiver->head.id, number);
    CHECK_EQUAL(receiver->head.tag, mix(number));
    CHECK_EQUAL(receiver->head.part_count, part_count);
    for (uint32_t part = 0; part < part_count; part++) {
        CHECK_EQUAL(receiver->parts[part].size_bytes, sizes[part]);
        CHECK(has_bytes(receiver->parts[part].data, sizes[part], mix(number + part)));
    }
}

/* ---- the worker ---- */

static bool may_begin(void *context)
{
    const side *const worker = context;
    return pmp_ring_has_record(&worker->receiver.consumer) && pmp_ranks_have_ended(&worker->ranks);
}

static bool has_room(void *context)
{
    return pmp_sender_has_room(&((side *)context)->sender);
}

static void wait_for_message(side *worker)
{
    int error = -EAGAIN;
    while (error != 0) {
        CHECK_EQUAL(error, -EAGAIN);
        pmp_doorbell_ring(worker->master_bell);
        CHECK_EQUAL(pmp_wait(&worker->worker_bells[worker->ranks.rank], &worker->spinner, may_begin,
                             worker, -1),
                    0);
        error = pmp_receive(&worker->receiver);
    }
}

static void send_back(side *worker)
{
    pmp_head head = worker->receiver.head;
    int error;
    head.kind = PMP_RESULT;
    while ((error = pmp_send(&worker->sender, &head, worker->receiver.parts, NULL)) != 0) {
        CHECK_EQUAL(error, -EAGAIN);
        pmp_doorbell_ring(worker->master_bell);
        CHECK_EQUAL(pmp_wait(&worker->worker_bells[worker->ranks.rank], &worker->spinner, has_room,
                             worker, -1),
                    0);
    }
}

/* Only the last rank to end a call rings: the master, and the others. */
static void end_call(course *shared, side *worker)
{
    const uint64_t number = worker->receiver.head.id;
    pmp_receive_done(&worker->receiver);
    if (pmp_ranks_end(&worker->ranks, number)) {
        CHECK(pmp_ranks_agree(&worker->ranks));
        pmp_doorbell_ring(worker->master_bell);
        for (uint32_t rank = 0; rank < shared->rank_count; rank++) {
            if (may_begin(worker)) {
                pmp_doorbell_ring(&worker->worker_bells[rank]);
            }
        }
    }
}

static void work(course *shared)
{
    side *const worker = calloc(1, sizeof *worker);
    CHECK(worker != NULL);
    worker->master_bell = &shared->master_bell;
    pmp_spinner_init(&worker->spinner, 20000);
    CHECK_EQUAL(pmp_link_open_worker(shared->link, pmp_link_footprint(CAPACITY, shared->rank_count),
                                     atomic_fetch_add(&shared->next_rank, 1), &worker->receiver,
                                     &worker->sender, &worker->worker_bells, &worker->ranks),
                0);
    for (;;) {
        wait_for_message(worker);
        if (worker->receiver.head.kind == PMP_END) {
            break;
        }
        send_back(worker);
        end_call(shared, worker);
    }
    pmp_receive_done(&worker->receiver);
    free(worker);
}

static void *work_in_thread(void *argument)
{
    work(argument);
    return NULL;
}

static int work_in_process(void *argument)
{
    work(argument);
    return 0;
}

/* ---- the master ---- */

typedef struct {
    side own;
    uint32_t rank_count;
    pmp_receiver results[RANKS_MAX];
    pmp_part parts[PARTS];
    uint64_t message_count;
    uint64_t sent, received, revoked; /* numbers below these are sent; received or revoked */
    uint64_t positions[UNDER_WAY];
    bool is_revoked[UNDER_WAY];
    bool prepared; /* parts hold the message to be sent next */
} master;

static bool may_send(const master *state)
{
    return state->sent < state->message_count && state->sent - state->received < UNDER_WAY;
}

static void ring_worker(const master *state)
{
    for (uint32_t rank = 0; rank < state->rank_count; rank++) {
        pmp_doorbell_ring(&state->own.worker_bells[rank]);
    }
}

/* Returns whether it got on. */
static bool send_next(master *state)
{
    const pmp_head head = head_of(state->sent);
    uint64_t position;
    if (!may_send(state)) {
        return false;
    }
    if (!state->prepared) {
        make_parts(state->sent, state->parts);
        state->prepared = true;
    }
    const int error = pmp_send(&state->own.sender, &head, state->parts, &position);
    ring_worker(state);
    if (error != 0) {
        CHECK_EQUAL(error, -EAGAIN);
        return false;
    }
    state->positions[state->sent % UNDER_WAY] = position;
    state->is_revoked[state->sent % UNDER_WAY] = false;
    state->sent++;
    state->prepared = false;
    return true;
}

static void revoke_some(master *state)
{
    const uint64_t random = mix(~state->sent);
    if (random % 4 != 0 || state->sent == state->received) {
        return;
    }
    const uint64_t number = state->received + (random >> 8) % (state->sent - state->received);
    const uint64_t slot = number % UNDER_WAY;
    if (state->positions[slot] == UINT64_MAX || state->is_revoked[slot]) {
        return;
    }
    if (pmp_ring_revoke(&state->own.sender.producer, state->positions[slot]) == 0) {
        state->is_revoked[slot] = true;
        state->revoked++;
    }
}

static void pass_revoked(master *state)
{
    while (state->received < state->sent && state->is_revoked[state->received % UNDER_WAY]) {
        state->received++;
    }
}

static bool receive_next(master *state)
{
    bool all = true;
    for (uint32_t rank = 0; rank < state->rank_count; rank++) {
        const int error = pmp_receive(&state->results[rank]);
        CHECK(error == 0 || error == -EAGAIN);
        all = all && error == 0;
    }
    if (all) {
        pass_revoked(state);
        for (uint32_t rank = 0; rank < state->rank_count; rank++) {
            check_message(&state->results[rank], state->received);
            pmp_receive_done(&state->results[rank]);
        }
        state->received++;
    }
    ring_worker(state);
    return all;
}

static bool can_get_on(void *context)
{
    const master *const state = context;
    bool has_answer = false;
    for (uint32_t rank = 0; rank < state->rank_count; rank++) {
        const pmp_receiver *const results = &state->results[rank];
        has_answer = has_answer || (!results->complete && pmp_ring_has_record(&results->consumer));
    }
    return has_answer || (may_send(state) && pmp_sender_has_room(&state->own.sender));
}

static void exchange(master *state)
{
    while (pass_revoked(state), state->received < state->message_count) {
        const bool sent = send_next(state);
        if (sent) {
            revoke_some(state);
        }
        pass_revoked(state);
        if (!receive_next(state) && !sent && state->received < state->message_count) {
            CHECK_EQUAL(
                pmp_wait(state->own.master_bell, &state->own.spinner, can_get_on, state, -1), 0);
        }
    }
}

static void say_end(master *state)
{
    side *const own = &state->own;
    const pmp_head head = {PMP_END, 1, 0, 0};
    const pmp_part nothing = {NULL, 0};
    while (pmp_send(&own->sender, &head, &nothing, NULL) != 0) {
        CHECK_EQUAL(pmp_wait(own->master_bell, &own->spinner, has_room, own, -1), 0);
    }
    ring_worker(state);
}

static void lead(course *shared)
{
    master *const state = calloc(1, sizeof *state);
    CHECK(state != NULL);
    state->message_count = shared->message_count;
    state->own.master_bell = &shared->master_bell;
    pmp_spinner_init(&state->own.spinner, 20000);
    for (int part = 0; part < PARTS; part++) {
        state->parts[part].data = malloc(PART_LIMIT);
        CHECK(state->parts[part].data != NULL);
    }
    state->rank_count = shared->rank_count;
    CHECK_EQUAL(pmp_link_open_master(shared->link, pmp_link_footprint(CAPACITY, shared->rank_count),
                                     shared->rank_count, 0, &state->own.sender, state->results,
                                     &state->own.worker_bells),
                0);
    exchange(state);
    say_end(state);
    printf("%llu revoked ", (unsigned long long)state->revoked);
    CHECK(state->revoked > 0);
    for (int part = 0; part < PARTS; part++) {
        free(state->parts[part].data);
    }
    free(state);
}

static uint64_t message_count;
static bool in_threads;

static uint32_t rank_count;

static void stress(void)
{
    const size_t size_bytes = pmp_link_footprint(CAPACITY, rank_count);
    course *const shared = shared_memory(sizeof(course) + size_bytes);
    pthread_t threads[RANKS_MAX];
    pid_t children[RANKS_MAX];
    shared->message_count = message_count / rank_count;
    shared->rank_count = rank_count;
    CHECK_EQUAL(pmp_link_init(shared->link, size_bytes, CAPACITY, rank_count), 0);
    for (uint32_t rank = 0; rank < rank_count; rank++) {
        if (in_threads) {
            threads[rank] = start_thread(work_in_thread, shared);
        } else {
            children[rank] = start_child(work_in_process, shared);
        }
    }
    lead(shared);
    for (uint32_t rank = 0; rank < rank_count; rank++) {
        if (in_threads) {
            join_thread(threads[rank]);
        } else {
            CHECK_EQUAL(wait_for_child(children[rank]), 0);
        }
    }
}

int main(int argument_count, char **arguments)
{
    char sentence[100];
    if (argument_count != 3) {
        fprintf(stderr, "usage: stress_channel threads|processes MESSAGES\n");
        return 2;
    }
    in_threads = strcmp(arguments[1], "threads") == 0;
    message_count = strtoull(arguments[2], NULL, 10);
    for (rank_count = 1; rank_count <= RANKS_MAX; rank_count++) {
        snprintf(sentence, sizeof sentence, "%llu messages to %u ranks in %s and back",
                 (unsigned long long)message_count / rank_count, rank_count, arguments[1]);
        run(sentence, 600, stress);
    }
    return 0;
}
