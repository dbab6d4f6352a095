# cython: language_level=3
"""The memory of shared data: written once, and mapped read-only by every process that uses it; that of shared arrays writable.

    header: mark | released | number of parts | is writable | size of each part        parts, each at a multiple of 64 bytes

    owner                                                        user of the data, in another process
    Mapping.store(parts), Mapping.fill(pattern) ── descriptor ─► Mapping.attach(descriptor)
    Owner: with it the data end ─► released = 1 ─► Mapping.is_released
                                └► announce() ───► whoever sleeps wakes, and looks at what it has mapped

A mapping is not closed: it lasts as long as there is a view of it. So no view uses memory that is gone.
"""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG_RO, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from pympipool._core.ring cimport (
    pmp_page_bytes, pmp_pages_populate, pmp_process_id, pmp_shm_allow_writing, pmp_shm_attach_readonly, pmp_shm_close,
    pmp_shm_close_descriptor, pmp_shm_overwrite, pmp_shm_store, pmp_span, raise_errno,
)
from pympipool._core.shared_ranges cimport add_shared_range, remove_shared_range
from pympipool._core.state_lock cimport counter, pmp_count

cdef enum:
    LENGTH_MAX = 0x7FFFFFFF
    ALIGNMENT = 64  # of each part, bytes: arrays start at cache lines

cdef uint64_t os_page_bytes = pmp_page_bytes()
cdef bytes MARK = b"pmpdata1"
cdef uint8_t[ALIGNMENT] PADDING
cdef uint32_t RELEASED = 1
cdef uint32_t IN_USE = 0


cdef inline size_t padded(size_t size) noexcept:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


cdef class Announcer:
    """Wakes processes that may use shared data."""

    cdef void announce(self) noexcept:
        pass


cdef class Mapping:
    """The memory of shared data in this process, readable through the buffer protocol."""

    def __cinit__(self):
        self.shm.descriptor = -1

    @staticmethod
    def store(parts):
        """Write parts into new memory.

        Args:
            parts: Objects with contiguous memory.

        Raises:
            OSError: ENOSPC or ENOMEM, there is not enough memory; EMFILE, no descriptor is free.
        """
        cdef Py_ssize_t count = len(parts)
        cdef Py_ssize_t held = 0
        cdef size_t header_bytes = padded(sizeof(Header) + count * sizeof(uint64_t))
        cdef Mapping mapping = Mapping.__new__(Mapping)
        cdef Header *header = <Header *>calloc(1, header_bytes)
        cdef Py_buffer *views = <Py_buffer *>calloc(count + 1, sizeof(Py_buffer))
        cdef pmp_span *contents = <pmp_span *>calloc(1 + 2 * count, sizeof(pmp_span))
        cdef uint64_t *sizes = <uint64_t *>(header + 1)
        cdef uint64_t total = header_bytes
        cdef int code
        try:
            if header == NULL or views == NULL or contents == NULL:
                raise MemoryError()
            memcpy(header.mark, <char *>MARK, sizeof(header.mark))
            header.part_count = count
            contents[0].data, contents[0].size_bytes = header, header_bytes
            for part in parts:
                PyObject_GetBuffer(part, &views[held], PyBUF_CONTIG_RO)
                held += 1
                size = views[held - 1].len
                sizes[held - 1] = size
                total += padded(size)
                contents[2 * held - 1].data, contents[2 * held - 1].size_bytes = views[held - 1].buf, size
                contents[2 * held].data, contents[2 * held].size_bytes = PADDING, padded(size) - size
            with nogil:
                code = pmp_shm_store(&mapping.shm, contents, 1 + 2 * count)
            if code < 0:
                raise_errno(code, f"no shared memory of {total} bytes")
        finally:
            for i in range(held):
                PyBuffer_Release(&views[i])
            free(header)
            free(views)
            free(contents)
        return mapping

    @staticmethod
    def fill(uint64_t size_bytes, bytes pattern not None):
        """Create memory of one part that every process may write, and write a pattern into it, again and again.

        Its pages are written, not only reserved: other processes map pages with contents at a third of the time.

        Args:
            size_bytes: Of the part.
            pattern: Not empty.

        Raises:
            MemoryError: There is no memory for it.
            OSError: As of `store`.
        """
        cdef uint64_t header_bytes = padded(sizeof(Header) + sizeof(uint64_t)), written = 0
        cdef size_t count = 1 + (size_bytes + len(pattern) - 1) // len(pattern)
        cdef Mapping mapping = Mapping.__new__(Mapping)
        cdef uint8_t[ALIGNMENT] start
        cdef Header *header = <Header *>start
        cdef pmp_span *contents = <pmp_span *>calloc(count, sizeof(pmp_span))
        cdef size_t i
        cdef int code
        if contents == NULL or count > LENGTH_MAX:
            free(contents)
            raise MemoryError(f"no memory for a shared array of {size_bytes} bytes")
        memset(start, 0, ALIGNMENT)
        memcpy(header.mark, <char *>MARK, sizeof(header.mark))
        header.part_count = header.is_writable = 1
        (<uint64_t *>(header + 1))[0] = size_bytes
        contents[0].data, contents[0].size_bytes = start, header_bytes
        for i in range(1, count):
            contents[i].data, contents[i].size_bytes = <char *>pattern, min(<uint64_t>len(pattern), size_bytes - written)
            written += contents[i].size_bytes
        with nogil:
            code = pmp_shm_store(&mapping.shm, contents, count)
        free(contents)
        if code < 0:
            raise_errno(code, f"no shared memory of {size_bytes} bytes")
        mapping.allow_writing()
        return mapping

    @staticmethod
    def attach(int descriptor, bint keep_descriptor=False):
        """Map the memory behind a descriptor, which is closed.

        Args:
            keep_descriptor: Close it with the mapping: `own_copy` of private_copies.pyx needs it. That of writable memory is
                always kept, since further processes need it.

        Raises:
            OSError: The descriptor is none of shared data, or there is no room for the mapping.
        """
        cdef Mapping mapping = Mapping.__new__(Mapping)
        code = pmp_shm_attach_readonly(&mapping.shm, descriptor)
        if code < 0:
            raise_errno(code, f"descriptor {descriptor} is none of shared data")
        mapping.parts()
        if mapping.is_writable:
            mapping.allow_writing()
        elif not keep_descriptor:
            mapping.close_descriptor()
        return mapping

    cdef int allow_writing(self) except -1:
        code = pmp_shm_allow_writing(&self.shm)
        if code < 0:
            raise_errno(code, "shared memory cannot be written")
        return 0

    cdef Header *header(self) except NULL:
        cdef Header *header = <Header *>self.shm.address
        if self.shm.size_bytes < sizeof(Header) or memcmp(header.mark, <char *>MARK, sizeof(header.mark)) != 0:
            raise OSError("the memory holds no shared data of this version of pympipool")
        return header

    cdef char *first_part(self) noexcept:
        return <char *>self.shm.address + padded(sizeof(Header) + sizeof(uint64_t))

    def recognize_arrays(self, bytes key not None):
        """Have arrays in this memory, which is writable, be recognized as parts of the shared array of this key."""
        add_shared_range(self.first_part(), (<uint64_t *>(self.header() + 1))[0], key)

    def populate(self, uint64_t begin, uint64_t end):
        """Have a part of the memory mapped before it is used, all pages at once: that takes a third of the time.

        Args:
            begin, end: Positions in the first part, bytes.
        """
        cdef size_t count = self.shm.size_bytes // os_page_bytes
        cdef uint64_t before = self.first_part() - <char *>self.shm.address
        cdef uint64_t first = (before + begin) // os_page_bytes, last = (before + end + os_page_bytes - 1) // os_page_bytes
        if self.populated == NULL:
            self.populated = <uint8_t *>calloc(count, 1)
        if self.populated == NULL or end <= begin or last > count:
            return
        while first < last and self.populated[first]:
            first += 1
        while first < last and self.populated[last - 1]:
            last -= 1
        if first < last:
            with nogil:
                pmp_pages_populate(<char *>self.shm.address + first * os_page_bytes, (last - first) * os_page_bytes)
            memset(&self.populated[first], 1, last - first)

    def parts(self):
        """Return views of the parts, read-only unless the memory is writable."""
        cdef Header *header = self.header()
        cdef uint64_t *sizes = <uint64_t *>(header + 1)
        cdef uint64_t begin = sizeof(Header) + <uint64_t>header.part_count * sizeof(uint64_t)
        if begin > self.shm.size_bytes:
            raise OSError("the memory of shared data is damaged")
        begin = padded(begin)
        whole = memoryview(self)
        views = []
        for i in range(header.part_count):
            if begin > self.shm.size_bytes or sizes[i] > self.shm.size_bytes - begin:
                raise OSError("the memory of shared data is damaged")
            views.append(whole[begin:begin + sizes[i]])
            begin += padded(sizes[i])
        return views

    @property
    def is_released(self):
        """True if the owner of the data has given them up."""
        return (<volatile uint32_t *>&self.header().released)[0] == RELEASED

    @property
    def is_writable(self):
        """True for the memory of a shared array."""
        return self.header().is_writable != 0

    @property
    def size_bytes(self):
        """Bytes of memory."""
        return self.shm.size_bytes

    def fileno(self):
        """Return the descriptor, -1 if it is closed."""
        return self.shm.descriptor

    def close_descriptor(self):
        """Close the descriptor; the memory stays mapped."""
        pmp_shm_close_descriptor(&self.shm)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.shm.address, self.shm.size_bytes, 1, flags)

    def __dealloc__(self):
        if self.shm.address != NULL:
            remove_shared_range(self.first_part())
        free(self.populated)
        pmp_shm_close(&self.shm)


@cython.no_gc_clear  # arrays use the memory that its attributes keep, also while the garbage collector breaks cycles
cdef class ArrayMemory:
    """The memory of a shared array, as the base of arrays in it.

    Args:
        shared_object: Lives as long as there is an array in the memory.
        mapping: Its memory, which is writable.
    """

    cdef object shared_object
    cdef Mapping mapping

    def __cinit__(self, shared_object, Mapping mapping not None):
        if not mapping.is_writable:
            raise ValueError("the memory is read-only")
        self.shared_object = shared_object
        self.mapping = mapping

    def __getbuffer__(self, Py_buffer *view, int flags):
        size = (<uint64_t *>(self.mapping.header() + 1))[0]
        PyBuffer_FillInfo(view, self, self.mapping.first_part(), size, 0, flags)


cdef counter _owned_bytes = 0  # of this process
cdef counter _most_owned_bytes = 0


cdef void _count_owned(Mapping mapping, bint is_owned) noexcept:
    global _most_owned_bytes
    cdef int64_t size_bytes = mapping.shm.size_bytes
    cdef int64_t owned_bytes = pmp_count(&_owned_bytes, size_bytes if is_owned else -size_bytes)
    if owned_bytes > _most_owned_bytes:
        _most_owned_bytes = owned_bytes


def most_owned_bytes(bint from_now=False):
    """Return the most bytes of shared memory that this process has owned at a time.

    Args:
        from_now: Forget what was before, for the next time.
    """
    global _most_owned_bytes
    cdef int64_t most = _most_owned_bytes
    if from_now:
        _most_owned_bytes = _owned_bytes
    return most


@cython.no_gc_clear  # __dealloc__ needs the attributes
cdef class Owner:
    """Ends shared data when it ends itself. Its end runs no Python code: neither Ctrl-C nor an exception stops it half-way.

    Args:
        mapping: The memory of the data.
        handed_over: As for `hand_over`.
    """

    def __cinit__(self, Mapping mapping not None, bint handed_over=False):
        self.mapping = mapping
        self.announcers = ()
        self.pid = pmp_process_id()
        self.handed_over = handed_over
        if not handed_over:
            _count_owned(mapping, True)
        if not handed_over and mapping.is_released:  # by an owner before this one
            pmp_shm_overwrite(&mapping.shm, &IN_USE, sizeof(IN_USE), 8)

    def add_announcer(self, Announcer announcer not None):
        """Have the processes told of the end of the data that this announcer reaches."""
        with cython.critical_section(self):
            if announcer not in self.announcers:
                self.announcers += (announcer,)

    def hand_over(self, bint handed_over=True):
        """Leave the end of the data to another process; False: take it back."""
        if handed_over != self.handed_over:
            _count_owned(self.mapping, not handed_over)
        self.handed_over = handed_over

    def __dealloc__(self):
        cdef Announcer announcer
        if self.mapping is None or self.pid != pmp_process_id():  # a fork of the owner
            return
        if not self.handed_over:
            _count_owned(self.mapping, False)
            pmp_shm_overwrite(&self.mapping.shm, &RELEASED, sizeof(RELEASED), 8)
        for announcer in self.announcers:
            announcer.announce()
