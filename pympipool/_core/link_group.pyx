# cython: language_level=3
"""The links of many workers, whose calls one thread waits for: in the relay, those of workers behind agents.

    master ── call on a ring; its slot in the relay's news; the relay's doorbell ──> LinkGroup.wait() ──> the channels of such links

A worker that has a thread of its own sleeps on the doorbell of its link instead. News that come between two calls of `wait` are
kept, and wake no thread.
"""

from libc.errno cimport EINTR, ETIMEDOUT
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from pympipool._core.channel cimport Channel
from pympipool._core.ring cimport (
    PMP_NEWS_SLOTS, PMP_NEWS_WORDS, PMP_NO_SLOT, Segment, c_bool, pmp_doorbell, pmp_link_share_bell,
    pmp_link_slot, pmp_news, pmp_news_clear, pmp_news_next, pmp_spinner, pmp_spinner_init, pmp_wait,
    raise_errno, relay_bell_in, relay_news_in,
)


FOUND_MAX = 512
"""Channels that `wait` returns at most: the first hosts get their calls while the master sends those for others."""

cdef uint64_t[PMP_NEWS_WORDS] NONE_WATCHED
memset(NONE_WATCHED, 0, sizeof(NONE_WATCHED))


cdef c_bool has_news(void *news) noexcept nogil:
    return pmp_news_next(<pmp_news *>news, NONE_WATCHED, 0, PMP_NEWS_SLOTS) < PMP_NEWS_SLOTS


cdef class LinkGroup:
    """The worker's side of many links of one master.

    Args:
        doorbells: A descriptor of the segment with the master's doorbells. It is closed.

    Raises:
        OSError: The descriptor is that of no segment.
    """

    cdef Segment doorbells
    cdef pmp_doorbell *bell
    cdef pmp_news *news
    cdef pmp_spinner spinner
    cdef dict by_slot    # channels, by the slots of their links
    cdef dict slots      # the reverse
    cdef set unopened    # channels of links that the master has not opened yet
    cdef uint32_t first  # the slot that `wait` looks at first: all get their turns

    def __cinit__(self, int doorbells):
        self.doorbells = Segment.attach(doorbells)
        self.doorbells.close_descriptor()
        self.bell = relay_bell_in(self.doorbells)
        self.news = relay_news_in(self.doorbells)
        pmp_spinner_init(&self.spinner, 0)  # others need the core, and the network takes longer than to wake up
        self.by_slot = {}
        self.slots = {}
        self.unopened = set()

    def add(self, int descriptor, kind):
        """Map a link that the master has not opened yet, and return its channel, which `wait` returns when there is something new.

        Args:
            descriptor: That of the link's segment. It is closed.
            kind: The class of the channel.

        Raises:
            OSError: The descriptor is not that of a link of this version of pympipool.
        """
        cdef Segment link = Segment.attach(descriptor)
        link.close_descriptor()
        channel = kind(link, self.doorbells)
        pmp_link_share_bell(link.memory())
        self.unopened.add(channel)
        return channel

    def remove(self, object channel):
        """Forget a link. A second time, or for an unknown channel, do nothing."""
        self.unopened.discard(channel)
        slot = self.slots.pop(channel, None)
        if slot is not None and self.by_slot.get(slot) is channel:
            del self.by_slot[slot]

    def wait(self, double timeout_s):
        """Wait until the master has done something on links; return their channels, often more than it concerns, up to `FOUND_MAX`.

        Args:
            timeout_s: Seconds after which an empty list is returned.
        """
        cdef int64_t timeout_ns = <int64_t>(timeout_s * 1e9)
        cdef Py_ssize_t limit = FOUND_MAX
        cdef uint32_t slot
        cdef int code
        with nogil:
            code = pmp_wait(self.bell, &self.spinner, has_news, self.news, timeout_ns)
        if code < 0 and code != -ETIMEDOUT and code != -EINTR:
            raise_errno(code, "waiting on a doorbell failed")
        cdef list found = []
        if code != 0:
            return found
        slot = pmp_news_next(self.news, NONE_WATCHED, self.first, PMP_NEWS_SLOTS)
        while slot < PMP_NEWS_SLOTS and len(found) < limit:
            pmp_news_clear(self.news, slot)  # before the rings are looked at
            self.learn_slots()
            channel = self.by_slot.get(slot)
            if channel is not None:
                found.append(channel)
            slot = pmp_news_next(self.news, NONE_WATCHED, slot + 1, PMP_NEWS_SLOTS)
        self.first = slot % PMP_NEWS_SLOTS
        return found

    cdef int learn_slots(self) except -1:
        """Learn the slots of the links that the master has opened meanwhile: one of them may be that of a link that has ended."""
        cdef Channel channel
        cdef uint32_t slot
        if not self.unopened:
            return 0
        for channel in list(self.unopened):
            slot = pmp_link_slot(channel.link.memory())
            if slot == PMP_NO_SLOT or channel not in self.unopened:
                continue
            self.by_slot[slot] = channel
            self.slots[channel] = slot
            if channel in self.unopened:
                self.unopened.discard(channel)
            else:  # another thread has removed it meanwhile, perhaps before its slot was known
                self.remove(channel)
        return 0
