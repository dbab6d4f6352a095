# cython: language_level=3
"""The mailbox of a service thread: other threads post functions to it, and the service thread calls them.

    post ─► queue ─► receive: the service thread sleeps until there is a function
      └──► descriptor ─► a selector wakes the service thread, which takes the functions one by one

CPython runs signal handlers in the main thread only, and only between two bytecodes. So a handler's exception, Ctrl-C for
example, cannot interrupt a function of this module: it runs no bytecode. Either a function is posted and its thread will be
woken, or neither has happened.
"""

from posix.unistd cimport write

from functools import partial
from queue import Empty, SimpleQueue


cdef class Mailbox:
    """Functions that any thread posts and one thread calls.

    Args:
        descriptor: A descriptor that does not block. One byte is written to it when functions are posted, for a thread that
            sleeps in a selector. -1: the thread sleeps in `receive`.
    """

    def __init__(self, int descriptor=-1):
        self.queue = SimpleQueue()
        self.descriptor = descriptor
        self.is_written = False

    # ---- for any thread ----

    cpdef int post(self, object function) except -1:
        """Have function() called in the service thread, soon."""
        self.queue.put(function)
        if self.descriptor >= 0 and not self.is_written:
            self.is_written = True
            write(self.descriptor, b"\0", 1)  # if the descriptor has no room, the thread is about to wake up anyway
        return 0

    def post_with(self, function, argument):
        """Have function(argument) called in the service thread, soon."""
        self.post(partial(function, argument))

    cpdef int post_counted(self, dict pending, object member, object function) except -1:
        """Add a member to a dict and post a function, both or neither.

        The number of members is the number of things that are not finished. So nothing has to be counted.

        Args:
            member: Hashed by its identity, so that adding it runs no Python code.
        """
        pending[member] = None
        try:
            self.post(function)
        except BaseException:  # no memory, for example: the call is not accepted, so it must not be counted
            pending.pop(member, None)
            raise
        return 0

    # ---- for the service thread ----

    def receive(self):
        """Return the next function; sleep until there is one."""
        return self.queue.get()

    def is_empty(self):
        """Return True if there is no function now."""
        return self.queue.empty()

    def take(self):
        """Return the next function, or None if there is none now."""
        try:
            return self.queue.get_nowait()
        except Empty:
            return None

    def acknowledge(self):
        """Note that the thread has read the descriptor. It must take all functions afterwards."""
        self.is_written = False

    def close(self):
        """Write to the descriptor no more: it is about to be closed."""
        self.descriptor = -1
