# cython: language_level=3
"""The mailbox of a service thread: other threads post functions to it, and the service thread calls them.

    post ─► queue ─► receive: the service thread sleeps until there is a function
      └──► descriptor ─► a selector wakes the service thread, which calls the functions one by one

CPython runs signal handlers in the main thread only, and only between two bytecodes. So a handler's exception, Ctrl-C for
example, cannot interrupt a function of this module: it runs no bytecode. Either a function is posted and its thread will be
woken, or neither has happened.

Memory may run out at any allocation. So what a thread must be told later, such as the end of a future, is allocated
when it is asked for: an `Entry` is made in advance, and putting it into an `EntryQueue` allocates nothing and cannot fail.
A function that is posted can be repeated: if it raises MemoryError, nothing that it has done so far is lost or done twice
when the service thread calls it again (`run_until_there_is_memory`).
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport (
    NOWAIT_LOCK, PY_LOCK_ACQUIRED, PY_LOCK_INTR, PyLockStatus, PyThread_acquire_lock, PyThread_allocate_lock,
    PyThread_free_lock, PyThread_release_lock, WAIT_LOCK,
)

from pympipool._core.ring cimport pmp_now_ns, pmp_pause_us, pmp_wakeup_write
from pympipool._core.state_lock cimport pmp_init_state_mutex

cdef extern from "pythread.h":
    PyLockStatus PyThread_acquire_lock_timed(void *lock, long long microseconds, int intr_flag) nogil

cdef enum:
    MEMORY_PAUSE_US = 10_000
    MEMORY_PAUSES_MAX = 6_000  # together a minute

cdef double LONGEST_WAIT_S = 86_400.0  # locks refuse waits of more than 292 years, and on some systems of a few weeks

if pmp_init_state_mutex(&state_mutex) != 0:
    raise MemoryError("no mutex")


cdef int run_until_there_is_memory(object function) except -1:
    """Call function(), and again after a pause while it raises MemoryError, for a minute at most."""
    cdef int pauses = 0
    while True:
        try:
            function()
            return 0
        except MemoryError:
            pauses += 1
            if pauses > MEMORY_PAUSES_MAX:
                raise
        with nogil:
            pmp_pause_us(MEMORY_PAUSE_US)


cdef class Entry:
    """What can be in a queue; in one at a time."""


cdef class EntryQueue:
    """A queue with one receiver, whose entries are linked through themselves."""

    def __cinit__(self):
        self.bell = PyThread_allocate_lock()
        if self.bell == NULL:
            raise MemoryError()
        PyThread_acquire_lock(self.bell, NOWAIT_LOCK)

    def __dealloc__(self):
        if self.bell != NULL:
            PyThread_free_lock(self.bell)

    # ---- for any thread ----

    cdef void put(self, Entry entry) noexcept:
        lock_state()
        if self.last is None:
            self.first = entry
        else:
            self.last.next = entry
        self.last = entry
        self.length += 1
        self.ring()
        unlock_state()

    cdef void ring(self) noexcept:
        """Wake the receiver."""
        lock_state()
        if not self.is_rung:
            self.is_rung = True
            PyThread_release_lock(self.bell)
        unlock_state()

    cdef void end(self) noexcept:
        """Have `receive_entry` return None, instead of sleeping, when the queue is empty."""
        lock_state()
        self.has_ended = True
        self.ring()
        unlock_state()

    # ---- for the receiver ----

    cdef bint has_entry(self) noexcept:
        """Return True if there is an entry now."""
        lock_state()
        found = self.first is not None
        unlock_state()
        return found

    cdef Entry pop(self):
        """Return the next entry, or None if there is none now."""
        lock_state()
        entry = self.first
        if entry is not None:
            self.first = entry.next
            if self.first is None:
                self.last = None
            entry.next = None
            self.length -= 1
        unlock_state()
        return entry

    cdef bint must_wait(self) noexcept:
        """Return True if the receiver has nothing to do until the bell is rung."""
        lock_state()
        must_wait = self.first is None and not self.has_ended
        unlock_state()
        return must_wait

    cdef void note_ring(self) noexcept:
        """Note that the receiver has heard the bell. What is put from now on rings again."""
        lock_state()
        self.is_rung = False
        unlock_state()

    cdef Entry receive_entry(self):
        """Return the next entry; sleep until there is one. None: the queue has ended."""
        while self.must_wait():
            with nogil:
                PyThread_acquire_lock(self.bell, WAIT_LOCK)
            self.note_ring()
        return self.pop()

    cdef Entry wait_for_entry(self, double deadline_s):
        """Wait like `receive_entry`, until the deadline (monotonic, s), in a thread in which signal handlers may run.

        Returns:
            None, maybe before the deadline, if there is no entry.
        """
        cdef PyLockStatus status
        cdef double left_s
        while not self.has_entry():
            left_s = min(max(deadline_s - pmp_now_ns() / 1e9, 0.0), LONGEST_WAIT_S)
            with nogil:
                status = PyThread_acquire_lock_timed(self.bell, <long long>(left_s * 1e6), 1)
            if status == PY_LOCK_INTR:
                PyErr_CheckSignals()
                continue
            if status == PY_LOCK_ACQUIRED:
                self.note_ring()
            break
        return self.pop()


@cython.trashcan(True)
cdef class Post(Entry):
    """A function that will be posted to a mailbox: later, and by a step that cannot fail."""

    def send(self, _):
        """Post the function, the first time that this is called. The argument is for those who pass one to callbacks."""
        self.mailbox.send(self)


cdef class Mailbox(EntryQueue):
    """Functions that any thread posts and one thread calls.

    Args:
        descriptor: A descriptor that does not block. One byte is written to it when functions are posted, for a thread that
            sleeps in a selector. -1: the thread sleeps in `receive`.
    """

    def __init__(self, int descriptor=-1):
        self.descriptor = descriptor
        self.is_written = False

    # ---- for any thread ----

    cpdef Post prepare(self, object function):
        """Return a `Post`, whose `send` has function() called in the service thread."""
        post = <Post>Post.__new__(Post)
        post.mailbox = self
        post.function = function
        return post

    cdef void send(self, Post post) noexcept:
        lock_state()
        if not post.is_sent:
            post.is_sent = True
            self.put(post)
            if self.descriptor >= 0 and not self.is_written:
                self.is_written = True
                pmp_wakeup_write(self.descriptor)
        unlock_state()

    cpdef int post(self, object function) except -1:
        """Have function() called in the service thread, soon."""
        self.send(self.prepare(function))
        return 0

    cpdef int post_counted(self, dict pending, object member, object function) except -1:
        """Add a member to a dict and post a function, both or neither.

        The number of members is the number of things that are not finished. So nothing has to be counted.

        Args:
            member: Hashed by its identity, so that adding it runs no Python code.
        """
        post = self.prepare(function)
        pending[member] = None
        self.send(post)
        return 0

    # ---- for the service thread ----

    def is_empty(self):
        """Return True if there is no function now."""
        return not self.has_entry()

    def peek(self):
        """Return the next function, which stays in the mailbox, or None if there is none now."""
        lock_state()
        post = <Post>self.first
        unlock_state()
        return None if post is None else post.function

    def drop(self):
        """Remove the next function."""
        self.pop()

    def take(self):
        """Remove and return the next post, or None if there is none now."""
        return self.pop()

    def acknowledge(self):
        """Note that the thread has read the descriptor. It must call all functions afterwards."""
        lock_state()
        self.is_written = False
        unlock_state()

    def close(self):
        """Write to the descriptor no more: it is about to be closed."""
        lock_state()
        self.descriptor = -1
        unlock_state()
