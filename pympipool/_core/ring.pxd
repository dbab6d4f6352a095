"""Declarations of csrc for Cython, and the classes of ring.pyx that other modules use."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "<stdbool.h>" nogil:
    ctypedef bint c_bool "bool"

cdef extern from "platform.h" nogil:
    uint32_t pmp_current_core()
    c_bool pmp_move_to_core(uint32_t core)
    uint32_t pmp_next_core(uint32_t core)
    int64_t pmp_now_ns()
    void pmp_pause_us(uint32_t pause_us)
    int64_t pmp_process_id()
    size_t pmp_page_bytes()
    void pmp_pages_populate(void *pages, size_t size_bytes)
    int pmp_pages_used(const void *pages, size_t size_bytes, int sampled, c_bool written)
    int64_t pmp_read(int descriptor, void *bytes, size_t count, size_t offset)
    enum pmp_access:
        PMP_COPY_ON_WRITE
    int pmp_map(void **address, int descriptor, size_t size_bytes, pmp_access access)
    int pmp_map_file(void **address, int descriptor, size_t size_bytes)
    void pmp_unmap(void *address, size_t size_bytes)
    void pmp_wakeup_write(int descriptor)
    void pmp_wakeup_read(int descriptor)
    void pmp_wakeup_close(int descriptor)

cdef extern from "shm.h" nogil:
    ctypedef struct pmp_span:
        const void *data
        size_t size_bytes
    ctypedef struct pmp_shm:
        void *address
        size_t size_bytes
        int descriptor
    enum pmp_shm_kind:
        PMP_SHM_BEST
        PMP_SHM_POSIX
    int pmp_shm_create(pmp_shm *segment, size_t size_bytes, pmp_shm_kind kind)
    int pmp_shm_attach(pmp_shm *segment, int descriptor)
    int pmp_shm_store(pmp_shm *segment, const pmp_span *contents, int count)
    int pmp_shm_overwrite(const pmp_shm *segment, const void *bytes, size_t count, size_t offset)
    int pmp_shm_attach_readonly(pmp_shm *segment, int descriptor)
    int pmp_shm_attach_private(pmp_shm *segment, int descriptor)
    int pmp_shm_allow_writing(pmp_shm *segment)
    int pmp_shm_duplicate(pmp_shm *copy, const pmp_shm *segment)
    void pmp_shm_close_descriptor(pmp_shm *segment)
    void pmp_shm_close(pmp_shm *segment)

cdef extern from "buffer_pool.h" nogil:
    ctypedef struct pmp_buffer_pool:
        pass
    pmp_buffer_pool *pmp_buffer_pool_create()
    void pmp_malloc_retain()
    void *pmp_buffer_new(pmp_buffer_pool *pool, size_t size_bytes)
    void pmp_buffer_free(void *block)

cdef extern from "doorbell.h" nogil:
    ctypedef struct pmp_doorbell:
        pass
    ctypedef struct pmp_notices:
        pass
    void pmp_notices_add(pmp_notices *notices)
    uint32_t pmp_notices_count(const pmp_notices *notices)
    ctypedef struct pmp_spinner:
        int64_t budget_ns
        int64_t min_ns
        int64_t max_ns
        int64_t near_miss_ns
        int32_t polls_with_pause
    int32_t PMP_POLLS_WITH_PAUSE
    void pmp_doorbell_tell_core(pmp_doorbell *bell)
    uint32_t pmp_doorbell_core(const pmp_doorbell *bell)
    void pmp_doorbell_ring(pmp_doorbell *bell)
    void pmp_doorbell_ring_after_fence(pmp_doorbell *bell)
    void pmp_doorbell_arm(pmp_doorbell *bell)
    void pmp_doorbell_disarm(pmp_doorbell *bell)
    int pmp_doorbell_sleep(pmp_doorbell *bell, int64_t timeout_ns)
    void pmp_spinner_init(pmp_spinner *spinner, int64_t max_ns)
    c_bool pmp_poll(int32_t count, c_bool (*ready)(void *context) noexcept nogil, void *context)
    c_bool pmp_spin(pmp_spinner *spinner, c_bool (*ready)(void *) noexcept nogil, void *context)
    void pmp_spin_failed(pmp_spinner *spinner, int64_t took_ns)
    int pmp_wait(pmp_doorbell *bell, pmp_spinner *spinner,
                 c_bool (*ready)(void *) noexcept nogil, void *context, int64_t timeout_ns)

cdef extern from "news.h" nogil:
    enum:
        PMP_NEWS_SLOTS
        PMP_NEWS_WORDS
    ctypedef struct pmp_news:
        pass
    void pmp_news_add(pmp_news *news, uint32_t slot)
    void pmp_news_clear(pmp_news *news, uint32_t slot)
    uint32_t pmp_news_next(const pmp_news *news, const uint64_t *watched, uint32_t first, uint32_t slot_count)

cdef extern from "ring.h" nogil:
    ctypedef struct pmp_producer:
        uint64_t head
    ctypedef struct pmp_consumer:
        pass
    int pmp_ring_revoke(pmp_producer *producer, uint64_t position)
    c_bool pmp_ring_claimed(const pmp_producer *producer, uint64_t position)
    c_bool pmp_ring_is_empty(const pmp_producer *producer)
    c_bool pmp_ring_has_record(const pmp_consumer *consumer)

cdef extern from "ranks.h" nogil:
    ctypedef struct pmp_ranks:
        uint32_t count
        uint32_t rank
    c_bool pmp_ranks_end(pmp_ranks *ranks, uint64_t outcome)
    c_bool pmp_ranks_have_ended(const pmp_ranks *ranks)
    c_bool pmp_ranks_need_core(const pmp_ranks *ranks, const pmp_doorbell *bells, uint32_t core)
    c_bool pmp_ranks_use_core(const pmp_ranks *ranks, const pmp_doorbell *bells, uint32_t core)
    uint32_t pmp_ranks_other_core(const pmp_ranks *ranks, const pmp_doorbell *bells, uint32_t core)
    c_bool pmp_ranks_agree(const pmp_ranks *ranks)

cdef extern from "message.h" nogil:
    enum:
        PMP_PARTS_MAX
        PMP_FUNCTION_CACHE_SIZE
        PMP_PREFETCH_NS
        PMP_OVERDUE_NS
        PMP_CALL
        PMP_FUNCTION
        PMP_END
        PMP_RESULT
        PMP_ERROR
        PMP_RECALLED
    const uint64_t PMP_TRACED
    const uint64_t PMP_CACHED
    const uint64_t PMP_STORED
    ctypedef struct pmp_head:
        uint32_t kind
        uint32_t part_count
        uint64_t id
        uint64_t tag
    ctypedef struct pmp_part:
        void *data
        uint64_t size_bytes

cdef extern from "stored_parts.h" nogil:
    enum:
        PMP_STORED_PARTS_MAX
    ctypedef struct pmp_stored_segment:
        pmp_shm shm
    ctypedef struct pmp_store:
        pass
    ctypedef struct pmp_stored_parts:
        pmp_part *parts
        uint32_t stored_count
        pmp_stored_segment *segments
    pmp_stored_parts *pmp_store_begin(const pmp_part *parts, uint32_t part_count, uint64_t least_bytes)
    int pmp_store_next(pmp_store *store, pmp_stored_parts *stored)
    void pmp_store_keep(pmp_store *store, pmp_stored_parts *stored)
    void pmp_store_clear(pmp_store *store)
    void pmp_store_free(pmp_stored_parts *stored)

cdef extern from "sender.h" nogil:
    ctypedef struct pmp_sender:
        pmp_producer producer
        c_bool busy
    c_bool pmp_fits_record(const pmp_sender *sender, uint32_t part_count, const pmp_part *parts)
    int pmp_send(pmp_sender *sender, const pmp_head *head, const pmp_part *parts,
                 uint64_t *position)
    c_bool pmp_sender_has_room(const pmp_sender *sender)

cdef extern from "receiver.h" nogil:
    ctypedef struct pmp_receiver:
        pmp_consumer consumer
        pmp_head head
        pmp_part *parts
        c_bool complete
        pmp_buffer_pool *pool
        c_bool owned
        c_bool busy
        c_bool lost
    int pmp_receive(pmp_receiver *receiver)
    void pmp_receive_done(pmp_receiver *receiver)
    void pmp_receiver_close(pmp_receiver *receiver)

cdef extern from "link.h" nogil:
    enum:
        PMP_RANKS_MAX
    size_t pmp_link_footprint(uint64_t capacity, uint32_t rank_count)
    int pmp_link_init(void *memory, size_t size_bytes, uint64_t capacity, uint32_t rank_count)
    int pmp_link_rank_count(void *memory, size_t size_bytes)
    int pmp_link_open_master(void *memory, size_t size_bytes, uint32_t rank_count, uint32_t slot, pmp_sender *calls,
                             pmp_receiver *results, pmp_doorbell **bells)
    int pmp_link_open_worker(void *memory, size_t size_bytes, uint32_t rank, pmp_receiver *calls,
                             pmp_sender *results, pmp_doorbell **bells, pmp_ranks *ranks)
    const uint32_t PMP_NO_SLOT
    uint32_t pmp_link_slot(void *memory)
    void pmp_link_share_bell(void *memory)
    c_bool pmp_link_shares_bell(void *memory)
    void pmp_link_await_room(void *memory)
    c_bool pmp_link_awaits_room(void *memory)

cdef extern from "watchdog.h" nogil:
    int pmp_watchdog_start(int descriptor)
    int pmp_end_with_parent(int parent_pid)


cdef class Segment:
    cdef pmp_shm shm
    cdef void *memory(self) except NULL


cdef class Buffer:
    # A buffer of the pool, writable through the buffer protocol.
    cdef void *data
    cdef Py_ssize_t size


cdef void init_short_spinner(pmp_spinner *spinner, int64_t limit_ns) noexcept nogil

cdef pmp_notices *notices_in(Segment doorbells) except NULL
cdef pmp_news *news_in(Segment doorbells) except NULL
cdef pmp_doorbell *relay_bell_in(Segment doorbells) except NULL
cdef pmp_news *relay_news_in(Segment doorbells) except NULL
cdef pmp_buffer_pool *process_buffer_pool() noexcept nogil
cdef object part_to_object(pmp_part *part, bint owned, bint as_bytes)
cdef uint64_t message_bytes(pmp_receiver *receiver) noexcept nogil


cdef class Parts:
    # The buffers of a message's parts, exported while C code reads them.
    cdef Py_buffer *views
    cdef pmp_part *parts  # has room for one more part
    cdef uint32_t count
    cdef uint32_t view_count

    cdef void append(self, void *data, uint64_t size_bytes) noexcept


cdef int raise_errno(int code, str what) except -1
cdef int usable_cores() except -1
