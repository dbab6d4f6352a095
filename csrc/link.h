/* The link: what the master and one worker share, in one segment.
 *
 *     header | doorbell of each rank | word of each rank | ring of calls | ring of results of each rank
 *
 * A worker has one rank or more. The master writes a call once, and all ranks receive it from the same ring. Each rank
 * answers on a ring of its own. Over the rings go messages (message.h): a pmp_sender and a pmp_receiver are a channel.
 */
#ifndef PMP_LINK_H
#define PMP_LINK_H

#include <stddef.h>
#include <stdint.h>

#include "doorbell.h"
#include "ranks.h"
#include "receiver.h"
#include "sender.h"

/* Smallest capacity of a link's rings: the sizes of PMP_PARTS_MAX parts fit into one record. */
#define PMP_LINK_CAPACITY_MIN 32768

/* Largest number of ranks of a link. */
#define PMP_RANKS_MAX PMP_RING_CONSUMERS_MAX

/* Returns the bytes of a segment for a link whose rings have this capacity (a power of two) each. */
size_t pmp_link_footprint(uint64_t capacity, uint32_t rank_count);

/* Lays out a link in a new segment. Errors: -EINVAL (invalid capacity, no rank or too many, or size too small). */
int pmp_link_init(void *memory, size_t size_bytes, uint64_t capacity, uint32_t rank_count);

/* Returns the number of ranks of a link. Errors: -EINVAL (the memory holds no link, or one of another version or size). */
int pmp_link_rank_count(void *memory, size_t size_bytes);

/* Opens the master's side of a link: it sends calls, and receives the results of each rank. results has room for
 * rank_count receivers; *bells are the doorbells of the ranks. slot is where the worker announces what it has sent
 * (see news.h): it knows the slot when it receives its first call.
 * Errors: -EINVAL (as above, or the link has another number of ranks). */
int pmp_link_open_master(void *memory, size_t size_bytes, uint32_t rank_count, uint32_t slot,
                         pmp_sender *calls, pmp_receiver *results, pmp_doorbell **bells);

/* Opens the side of one rank of the worker. Errors: -EINVAL (as above, or there is no such rank). */
int pmp_link_open_worker(void *memory, size_t size_bytes, uint32_t rank, pmp_receiver *calls,
                         pmp_sender *results, pmp_doorbell **bells, pmp_ranks *ranks);

/* The slot of a link that the master has not opened. */
#define PMP_NO_SLOT UINT32_MAX

/* Returns the slot that the master has given to a link that a worker has opened, or PMP_NO_SLOT. */
uint32_t pmp_link_slot(void *memory);

/* Has the master announce what it does on this link in the news of its relay, and ring the relay's doorbell instead of that of the
 * rank. For the worker's side, before the master opens the link. */
void pmp_link_share_bell(void *memory);

/* Returns true if pmp_link_share_bell was called. */
bool pmp_link_shares_bell(void *memory);

/* Has the master ring once after it has received results. For the relay, which must look afterwards whether there is room already. */
void pmp_link_await_room(void *memory);

/* Returns true if the relay is to be rung now: after pmp_link_await_room, once. For the master, after it has received results. */
bool pmp_link_awaits_room(void *memory);

#endif
