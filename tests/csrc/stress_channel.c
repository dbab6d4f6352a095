/* Master and worker exchange messages of all sizes through a link, at full speed.
 *
 * usage: stress_channel threads|processes MESSAGES
 *
 * The worker sends every call back as a result. The master has many calls under way, takes some
 * of them back, and must get each of the others back as it was, in order. */
#include "support.h"

#include "../../csrc/channel.h"

enum { CAPACITY = PMP_LINK_CAPACITY_MIN, UNDER_WAY = 64, PARTS = 6, PART_LIMIT = 5 * CAPACITY };

/* Lies in shared memory. */
typedef struct {
    pmp_doorbell master_bell;
    uint64_t message_count;
    _Alignas(64) unsigned char link[];
} course;

typedef struct {
    pmp_sender sender;
    pmp_receiver receiver;
    pmp_doorbell *worker_bell, *master_bell;
    pmp_spinner spinner;
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

static bool has_record(void *context)
{
    return pmp_ring_has_record(&((side *)context)->receiver.consumer);
}

static bool has_room(void *context)
{
    return pmp_sender_has_room(&((side *)context)->sender);
}

static void wait_for_message(side *worker)
{
    int error;
    while ((error = pmp_receive(&worker->receiver)) != 0) {
        CHECK_EQUAL(error, -EAGAIN);
        pmp_doorbell_ring(worker->master_bell);
        CHECK_EQUAL(pmp_wait(worker->worker_bell, &worker->spinner, has_record, worker, -1), 0);
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
        CHECK_EQUAL(pmp_wait(worker->worker_bell, &worker->spinner, has_room, worker, -1), 0);
    }
    pmp_doorbell_ring(worker->master_bell);
}

static void work(course *shared)
{
    side *const worker = calloc(1, sizeof *worker);
    CHECK(worker != NULL);
    worker->master_bell = &shared->master_bell;
    pmp_spinner_init(&worker->spinner, 20000);
    CHECK_EQUAL(pmp_link_open_worker(shared->link, pmp_link_footprint(CAPACITY), &worker->receiver,
                                     &worker->sender, &worker->worker_bell),
                0);
    for (;;) {
        wait_for_message(worker);
        if (worker->receiver.head.kind == PMP_END) {
            break;
        }
        send_back(worker);
        pmp_receive_done(&worker->receiver);
        pmp_doorbell_ring(worker->master_bell);
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
    pmp_doorbell_ring(state->own.worker_bell);
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
    pmp_receiver *const receiver = &state->own.receiver;
    const int error = pmp_receive(receiver);
    if (error != 0) {
        CHECK_EQUAL(error, -EAGAIN);
        pmp_doorbell_ring(state->own.worker_bell);
        return false;
    }
    pass_revoked(state);
    check_message(receiver, state->received++);
    pmp_receive_done(receiver);
    pmp_doorbell_ring(state->own.worker_bell);
    return true;
}

static bool can_get_on(void *context)
{
    const master *const state = context;
    return (may_send(state) && pmp_sender_has_room(&state->own.sender)) ||
           pmp_ring_has_record(&state->own.receiver.consumer);
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

static void say_end(side *own)
{
    const pmp_head head = {PMP_END, 1, 0, 0};
    const pmp_part nothing = {NULL, 0};
    while (pmp_send(&own->sender, &head, &nothing, NULL) != 0) {
        CHECK_EQUAL(pmp_wait(own->master_bell, &own->spinner, has_room, own, -1), 0);
    }
    pmp_doorbell_ring(own->worker_bell);
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
    CHECK_EQUAL(pmp_link_open_master(shared->link, pmp_link_footprint(CAPACITY), &state->own.sender,
                                     &state->own.receiver, &state->own.worker_bell),
                0);
    exchange(state);
    say_end(&state->own);
    printf("%llu revoked ", (unsigned long long)state->revoked);
    CHECK(state->revoked > 0);
    for (int part = 0; part < PARTS; part++) {
        free(state->parts[part].data);
    }
    free(state);
}

static uint64_t message_count;
static bool in_threads;

static void stress(void)
{
    course *const shared = shared_memory(sizeof(course) + pmp_link_footprint(CAPACITY));
    shared->message_count = message_count;
    CHECK_EQUAL(pmp_link_init(shared->link, pmp_link_footprint(CAPACITY), CAPACITY), 0);
    if (in_threads) {
        const pthread_t thread = start_thread(work_in_thread, shared);
        lead(shared);
        join_thread(thread);
        return;
    }
    const pid_t child = start_child(work_in_process, shared);
    lead(shared);
    CHECK_EQUAL(wait_for_child(child), 0);
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
    snprintf(sentence, sizeof sentence, "%llu messages there and back between two %s",
             (unsigned long long)message_count, arguments[1]);
    run(sentence, 600, stress);
    return 0;
}
