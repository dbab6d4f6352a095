"""The calls of a map, which are looked up together, and sent in batches as without a cache.

rows ─► keys ─► store ─┬─ found ─────► Answers: unpickled one by one, as the user asks for them
                       └─ not found ─► `KeyedColumns` ─► BatchCache ─► the engine ─► a batch, whose results the writer stores
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pympipool.caching.entries import UnwrittenBatch, load_stored
from pympipool.serialization.payload import PackedColumns

if TYPE_CHECKING:
    from pympipool._core.future import Future
    from pympipool.caching.interfaces import BatchEngine
    from pympipool.caching.store import Store
    from pympipool.caching.writer import Writer

__all__ = ["Answers", "BatchCache", "KeyedColumns"]


class Answers:
    """What is known of the calls of a map.

    Args:
        keys: The key of each call.
        found: What `Store.find` has returned, by key.
        store: Where that is.
        writer: Stores the results of the other calls.
        function_name: That of the function.
        version: As of `Unwritten`, and so are modules.
        arguments: Describes the arguments of each call (see `UnwrittenEntry`).
    """

    def __init__(
        self,
        keys: Sequence[bytes],
        found: dict[bytes, bytes | int],
        store: Store,
        writer: Writer,
        function_name: str,
        version: int,
        modules: frozenset[str],
        arguments: Sequence[Any],
    ) -> None:
        self._keys = keys
        self._found = found
        self._store = store
        self._writer = writer
        self._function_name = function_name
        self._version = version
        self._modules = modules
        self._arguments = arguments
        self._missing = [number for number, key in enumerate(keys) if key not in found]

    def runs(self) -> list[tuple[bool, int, int]]:
        """Return the runs of calls that are answered (True), or are not: number of the first, and of the one behind the last."""
        runs: list[tuple[bool, int, int]] = []
        for number, key in enumerate(self._keys):
            is_answered = key in self._found
            if runs and runs[-1][0] == is_answered:
                runs[-1] = is_answered, runs[-1][1], number + 1
            else:
                runs.append((is_answered, number, number + 1))
        return runs

    def results(self, begin: int, end: int) -> StoredResults:
        """Return the results of answered calls."""
        keys = self._keys[begin:end]
        return StoredResults(self._store, [(key, self._found[key]) for key in keys])

    def keyed(self, columns: PackedColumns, begin: int = 0) -> KeyedColumns:
        """Return the arguments of calls that are not answered, with what is to be known of each.

        Args:
            columns: The arguments of some of these calls.
            begin: The number of the first of them among all that are not answered.
        """
        keyed = KeyedColumns(columns)
        missing = self._missing[begin : begin + len(columns[0])]
        keyed.keys = [self._keys[number] for number in missing]
        keyed.arguments = [self._arguments[number] for number in missing]
        return keyed

    def engine(self, engine: Any) -> BatchCache:
        """Return an engine whose batches of `keyed` columns are stored."""
        return BatchCache(engine, self._writer, self._function_name, self._version, self._modules)


class StoredResults:
    """Results that are read one by one.

    Args:
        store: Where they are.
        found: The key of each, and what `Store.find` has returned.
    """

    def __init__(self, store: Store, found: Sequence[tuple[bytes, bytes | int]]) -> None:
        self._store = store
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Any]:
        """Yield each result.

        Raises:
            CacheError: Its file was removed or damaged since it was found.
        """
        return (load_stored(key, self._store, found) for key, found in self._found)


class KeyedColumns(PackedColumns):
    """The arguments of calls of a map that are to be stored.

    Attributes:
        keys: The key of each call.
        arguments: Describes the arguments of each.
    """

    keys: Sequence[bytes]
    arguments: Sequence[Any]

    def cut(self, begin: int, end: int) -> KeyedColumns:
        """Return the arguments of the calls from number begin to before number end."""
        some = KeyedColumns(super().cut(begin, end))
        some.keys, some.arguments = self.keys[begin:end], self.arguments[begin:end]
        return some


class BatchCache:
    """An engine as a map uses it, whose batches are stored.

    Args:
        engine: Runs them.
        writer: Stores their results.
        function_name: That of the function.
        version: As of `Unwritten`, and so are modules.
    """

    def __init__(
        self, engine: BatchEngine, writer: Writer, function_name: str, version: int, modules: frozenset[str]
    ) -> None:
        self._version = version
        self._modules = modules
        self._engine = engine
        self._writer = writer
        self._function_name = function_name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def freeze_function(self, fn: Callable[..., Any]) -> Any:
        """Return a function as it is now, with all its data: as the keys of the calls say."""
        return self._engine.freeze_function(fn, in_full=True)

    def submit_batch(self, fn: Any, columns: KeyedColumns, resources: Any) -> Future[Any]:
        """Submit a batch, and have its results stored.

        Args:
            fn: The function, or what `freeze_function` has returned.
        """
        future = self._engine.submit_batch(fn, PackedColumns(columns), resources)
        entry = UnwrittenBatch(columns.keys, self._function_name, self._version, columns.arguments)
        entry.modules = self._modules
        self._writer.follow(future, entry)
        return future
