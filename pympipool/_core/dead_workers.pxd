"""Which calls fail with a dead worker, and which wait again; see dead_workers.pyx."""

from pympipool._core.types cimport Core, Worker

cdef enum:
    UNBEGUN_ENDS_MAX = 3  # number of times that workers may die when they are to begin a call, before it counts as begun

cdef Py_ssize_t requeue_calls(Core *core, Worker *worker) noexcept nogil
