"""The arguments of the calls of a map, all at once or some at a time.

map(fn, xs, ys)      -> columns xs, ys
starmap(fn, rows)    -> columns too, if all rows have the same length
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from pympipool.errors import SerializationError
from pympipool.serialization.columns import pack, transpose
from pympipool.serialization.future_search import find_futures

if TYPE_CHECKING:
    from pympipool.serialization.payload import PackedColumns


class Chunk:
    """The arguments of some calls.

    Args:
        columns: A sequence for each parameter; None if the calls have different numbers of arguments.
        rows: The arguments of each call, without columns.
    """

    def __init__(self, columns: Sequence[list[Any]] | None, rows: Sequence[tuple[Any, ...]] = ()) -> None:
        self._columns = columns
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows) if self._columns is None else len(self._columns[0])

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Return an iterator over the arguments of each call."""
        return iter(self._rows) if self._columns is None else zip(*self._columns, strict=True)

    def select(self, numbers: Sequence[int]) -> Chunk:
        """Return the arguments of the calls with these numbers."""
        if len(numbers) == len(self):
            return self
        columns = None if self._columns is None else [[column[row] for row in numbers] for column in self._columns]
        return Chunk(columns, [self._rows[row] for row in numbers] if columns is None else ())

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield the arguments of size calls at a time."""
        for begin in range(0, len(self), size):
            yield self.select(range(begin, min(begin + size, len(self))))

    def packed(self, workers_see_files: bool, *, for_now: bool = False, in_full: bool = False) -> PackedColumns | None:
        """Return the columns as a batch has them. None if the calls must travel one by one: there are futures, or one cannot.

        Args:
            for_now: All are submitted at once, as one batch.
            in_full: As of `pack`.
        """
        if self._columns is None:
            return None
        packed = transpose(self._columns)
        if packed is not None:
            return packed
        if find_futures(tuple(self._columns), {}):
            return None
        try:
            return pack(self._columns, workers_see_files, for_now=for_now, in_full=in_full)
        except SerializationError:
            return None


class Arguments:
    """The arguments of the calls of a map. They are read once, as far as they are asked for.

    Args:
        iterables: One for each parameter. Ends with the shortest.
        rows: In their place, the arguments of each call.
    """

    def __init__(self, iterables: Sequence[Iterable[Any]], rows: Iterable[Iterable[Any]] | None = None) -> None:
        self._column = iter(iterables[0]) if rows is None and len(iterables) == 1 else None
        self._rows: Iterator[tuple[Any, ...]] = (
            zip(*iterables, strict=False) if rows is None else (tuple(row) for row in rows)
        )

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Return an iterator over the arguments of each call."""
        return self._rows if self._column is None else zip(self._column, strict=True)

    def take(self, size: int | None = None) -> Chunk:
        """Return the arguments of the next calls.

        Args:
            size: At most so many; None: all.
        """
        if self._column is not None:
            return Chunk([list(islice(self._column, size))])
        rows = list(islice(self._rows, size))
        lengths = set(map(len, rows))
        if len(lengths) != 1 or lengths == {0}:
            return Chunk(None, rows)
        return Chunk([list(column) for column in zip(*rows, strict=True)])

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield the arguments of size calls at a time."""
        while len(chunk := self.take(size)) > 0:
            yield chunk

    def count(self) -> int:
        """Read all arguments, and return the number of calls."""
        chunk = self.take()
        self._column, self._rows = None, chunk.rows()
        return len(chunk)
