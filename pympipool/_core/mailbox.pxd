"""Queues whose entries are made in advance, and mailboxes of service threads; see mailbox.pyx."""

from cpython.pythread cimport PyThread_type_lock

from pympipool._core.state_lock cimport pmp_lock_state, pmp_state_mutex, pmp_unlock_state

cdef pmp_state_mutex state_mutex  # of the process; see state_lock.pxd


cdef inline void lock_state() noexcept:
    """Begin a step that no other thread may see half done. It runs no code of users."""
    pmp_lock_state(&state_mutex)


cdef inline void unlock_state() noexcept:
    pmp_unlock_state(&state_mutex)


cdef class Entry:
    cdef Entry next  # the entry behind this one in its queue


cdef class EntryQueue:
    cdef Entry first
    cdef Entry last
    cdef Py_ssize_t length
    cdef PyThread_type_lock bell  # the receiver sleeps until it can take this lock; free while it is rung
    cdef bint is_rung
    cdef bint has_ended

    cdef void put(self, Entry entry) noexcept
    cdef void ring(self) noexcept
    cdef void end(self) noexcept
    cdef bint has_entry(self) noexcept
    cdef bint must_wait(self) noexcept
    cdef void note_ring(self) noexcept
    cdef Entry pop(self)
    cdef Entry receive_entry(self)
    cdef Entry wait_for_entry(self, double deadline_s)


cdef class Post(Entry):
    cdef Mailbox mailbox
    cdef readonly object function
    cdef bint is_sent


cdef class Mailbox(EntryQueue):
    cdef int descriptor   # written to when something is posted; -1: the receiver waits in `receive`
    cdef bint is_written  # something is written there that the receiver has not read yet

    cdef void send(self, Post post) noexcept
    cpdef Post prepare(self, object function)
    cpdef int post(self, object function) except -1
    cpdef int post_counted(self, dict pending, object member, object function) except -1


cdef int run_until_there_is_memory(object function) except -1
