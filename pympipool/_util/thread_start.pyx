# cython: language_level=3
"""Begin threads when memory is short.

The first Python function of a thread needs memory for its frames, and a thread without it would end before any code of ours has
run. A function of C needs none, so it can try again.
"""

from libc.stdint cimport uint32_t

cdef extern from "platform.h" nogil:
    void pmp_pause_us(uint32_t pause_us)

cdef enum:
    MEMORY_PAUSE_US = 10_000


def bootstrap(thread):
    """Call thread.begin(), again and again while the thread has not begun because there is no memory.

    Args:
        thread: A `ServiceThread`. This is its method `_bootstrap`.
    """
    while True:
        try:
            if thread.begin():
                return
        except BaseException:  # in place of MemoryError, `threading` may raise KeyError
            if thread.target is None:
                raise
        with nogil:
            pmp_pause_us(MEMORY_PAUSE_US)
