# cython: language_level=3, boundscheck=False, wraparound=False
"""Loops over very many items, at the speed of C: what `Executor.map` does for each of them."""


def all_types_in(values not None, kinds not None):
    """Whether every value has one of these types, and not a subclass of one.

    Args:
        values: any collection.
        kinds: a set of types.

    Examples:
        >>> all_types_in([1, 2.0], {int, float}), all_types_in((1, True), {int})
        (True, False)
    """
    cdef object seen = None  # the type of the value before: mostly they are alike
    for value in values:
        if type(value) is not seen:
            if type(value) not in kinds:
                return False
            seen = type(value)
    return True


def freeze_all(list results not None, values, kinds not None, keep not None):
    """Appends all values to the results: those of these types as they are, all others as what keep(value) makes of them.

    Args:
        results: stays as it was then when the values, or keep, raise.
        values: an iterator.
        kinds: a set of types.

    Examples:
        >>> kept = []
        >>> freeze_all(kept, iter([1, [2], "3"]), {int, str}, repr)
        >>> kept
        [1, '[2]', '3']
    """
    cdef object seen = None  # the type of the value before that was left as it is
    for value in values:
        if type(value) is not seen:
            if type(value) in kinds:
                seen = type(value)
            else:
                value = keep(value)
        results.append(value)


cdef class ConsumingIterator:
    """Iterates over the items of lists, and takes them out of these: nothing is kept that was handed out.

    Args:
        lists: an iterator of lists, asked for the next one when the one before is used up.

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
        while self.position >= len(self.items):
            self.items = []
            self.position = 0
            items = next(self.lists)
            self.items = items
        item = self.items[self.position]
        self.items[self.position] = None
        self.position += 1
        return item
