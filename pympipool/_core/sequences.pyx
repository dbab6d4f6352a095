# cython: language_level=3, boundscheck=False, wraparound=False
"""The loops of `Executor.map` over single items, at the speed of C."""

cimport cython

from pympipool._core.own_frames cimport pmp_hide_frames_of_next


def all_types_in(values not None, kinds not None):
    """Return True if the type of every value is one of these. A subclass of one does not count.

    Args:
        values: Any collection.
        kinds: A set of types.

    Examples:
        >>> all_types_in([1, 2.0], {int, float}), all_types_in((1, True), {int})
        (True, False)
    """
    cdef object seen = None  # the type of the previous value: most values have the same type
    for value in values:
        if type(value) is not seen:
            if type(value) not in kinds:
                return False
            seen = type(value)
    return True


def types_in(values not None):
    """Return the set of the types of the values.

    Args:
        values: Any collection.

    Examples:
        >>> types_in([1, True, 2]) == {int, bool}
        True
    """
    cdef set kinds = set()
    cdef object seen = None
    for value in values:
        if type(value) is not seen:
            seen = type(value)
            kinds.add(seen)
    return kinds


cdef class ConsumingIterator:
    """An iterator over the items of lists that removes each item from its list, so that no returned item is kept alive.

    Args:
        lists: An iterator of lists; advanced when the items of the current list are used up.

    Examples:
        >>> list(ConsumingIterator(iter([[1, 2], [], [3]])))
        [1, 2, 3]
    """

    cdef object lists
    cdef list items
    cdef Py_ssize_t position

    def __init__(self, lists):
        self.lists = iter(lists)
        self.items = []
        self.position = 0

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            with cython.critical_section(self):
                if self.position < len(self.items):
                    item = self.items[self.position]
                    self.items[self.position] = None
                    self.position += 1
                    return item
                self.items = []
                self.position = 0
            items = next(self.lists)
            with cython.critical_section(self):
                self.items = items

    def close(self):
        """Return no further item. The lists keep theirs."""
        with cython.critical_section(self):
            self.lists = iter(())
            self.items = []


def without_own_frames(kind):
    """Decorate a subclass of `ConsumingIterator`: what it raises has no frames of ours in its traceback."""
    pmp_hide_frames_of_next(kind, ConsumingIterator)
    return kind
