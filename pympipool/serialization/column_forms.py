"""The forms in which arguments and results of a batch travel (see `columns.py`, which makes them).

    ArrayColumn  arrays of one type and shape, or numpy scalars: one array
    Entries      values that are pickled one by one, and unpickled one by one
    Records      values of one shape: columns of what they consist of
    Rows         the arguments of calls, instances of classes among them

This module is imported with the first batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from pympipool._core.copies import WatchedRows
from pympipool._core.records import RowIterator, cut
from pympipool._core.sequences import ConsumingIterator, types_in
from pympipool._util.cmodules import pickle
from pympipool.serialization import _built_records, _entries, _items, _records, _rows, payload
from pympipool.serialization.plain import IMMUTABLE_TYPES

__all__ = ["ArrayColumn", "Entries", "Entry", "Records", "Rows", "taking"]

Entry: TypeAlias = "bytes | tuple[Any, ...]"
"""A pickle, or a pickle with its out-of-band buffers."""


class ArrayColumn:
    """Arrays of one type and shape, or numpy scalars of one type. Loading it returns the list of them.

    Pickling them one by one takes 4 us each, this takes 0.5 us.

    Args:
        array: Has them in its first dimension.
    """

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: slice) -> ArrayColumn:
        return ArrayColumn(self.array[rows])

    def __reduce__(self) -> tuple[Any, ...]:
        return _items, (self.array,)


class Entries:
    """Values that are pickled one by one, and unpickled one by one by the iterator.

    Args:
        entries: Their pickles.
        values: Objects that stay alive as long as this one.
        prefix: Bytes with which each of the pickles begins, and which are missing in entries.
    """

    __slots__ = ("entries", "prefix", "values")

    def __init__(self, entries: Sequence[Entry], values: Sequence[Any] = (), prefix: bytes = b"") -> None:
        self.entries = entries
        self.values = values
        self.prefix = prefix

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, rows: slice) -> Entries:
        return Entries(self.entries[rows], self.values[rows], self.prefix)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.prefix or types_in(self.entries) != {bytes}:
            return _entries, (self.entries, self.prefix)
        prefix = _common_prefix(self.entries)
        return _entries, ([entry[len(prefix) :] for entry in self.entries], prefix)

    def __iter__(self) -> Iterator[Any]:
        """Unpickle each value when it is its turn, as `load` does."""
        return map(self.load, self.entries)

    def load(self, entry: Entry) -> Any:
        """Unpickle one of the values.

        Raises:
            SerializationError: It cannot be unpickled in this process.
        """
        return payload.load((self.prefix + entry,) if type(entry) is bytes else entry)


class Records:
    """Values of one shape, as columns of what they consist of. Each is built when it is its turn.

    Pickling and unpickling small containers one by one takes 3 us each, this takes 1 us.

    Args:
        form: As of `Transposer.form_of`.
        count: Number of values.
        are_results: Loading returns the list of them.
    """

    __slots__ = ("are_results", "count", "form")

    def __init__(self, form: Any, count: int, are_results: bool = False) -> None:
        self.form = form
        self.count = count
        self.are_results = are_results

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: slice) -> Records:
        begin, end, _ = rows.indices(self.count)
        return Records(cut(self.form, begin, end), end - begin)

    def __reduce__(self) -> tuple[Any, ...]:
        return _built_records if self.are_results else _records, (self.form, self.count)

    def __iter__(self) -> Iterator[Any]:
        """Build each value when it is its turn."""
        return RowIterator(self.form, self.count)


class Rows:
    """The arguments of calls, instances of classes among them.

    A call that changes one of the classes does not change it for the next call, as if each call had travelled by itself.

    Args:
        columns: Copies: a sequence for each parameter.
        kinds: The classes of the instances.
    """

    __slots__ = ("columns", "kinds")

    def __init__(self, columns: Sequence[Any], kinds: Sequence[type]) -> None:
        self.columns = columns
        self.kinds = kinds

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, rows: slice) -> Rows:
        return Rows([column[rows] for column in self.columns], self.kinds)

    def __reduce__(self) -> tuple[Any, ...]:
        from pympipool.serialization import by_value

        parts = by_value.dump_parts((self.kinds, self.columns), False, False)
        return _rows, tuple(map(pickle.PickleBuffer, parts))

    def iterators(self) -> list[Iterator[Any]]:
        """Return an iterator over each column. That of the first restores the classes, if this process has received them."""
        from pympipool.serialization import classes

        first, *others = map(taking, self.columns)
        received = [kind for kind in self.kinds if classes.is_received(kind)]
        return [WatchedRows(first, *classes.watch(received)) if received else first, *others]


def taking(column: Records | list[Any]) -> Iterator[Any]:
    """Return an iterator over a column that was received, which keeps no value that was taken and can change.

    So a call that returns its argument returns something that nothing else refers to, and that needs no copy.
    """
    if isinstance(column, Records) or type(column[0]) in IMMUTABLE_TYPES:
        return iter(column)
    return ConsumingIterator(iter([column]))


def _common_prefix(pickles: Sequence[Any]) -> bytes:
    """Return the bytes with which all pickles begin: mostly the definition of a class of the script, 2 kB.

    Examples:
        >>> _common_prefix([b"one", b"only", b"on"])
        b'on'
    """
    first, last = min(pickles), max(pickles)
    low, high = 0, min(len(first), len(last))
    while low < high:
        middle = (low + high + 1) // 2
        if first[:middle] == last[:middle]:
            low = middle
        else:
            high = middle - 1
    return bytes(first[:low])
