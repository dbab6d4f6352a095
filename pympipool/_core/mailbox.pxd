"""Mailboxes of service threads; see mailbox.pyx."""


cdef class Mailbox:
    cdef object queue
    cdef int descriptor   # written to when something is posted; -1: the receiver waits in `receive`
    cdef bint is_written  # something is written there that the receiver has not read yet

    cpdef int post(self, object function) except -1
    cpdef int post_counted(self, dict pending, object member, object function) except -1
