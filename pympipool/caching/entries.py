"""What a future has of its cached result. The future asks it for the bytes that are to be unpickled (`take`).

    UnwrittenEntry   a call that runs, or has ended: its result will be written
    UnwrittenBatch   the same for the calls of a map that were sent together
    StoredEntry      a call that was answered from disk; or a detached one, whose result another process writes

A user may change an array in place as soon as the result is read. Its buffers may be those that are about to be written. So as
long as they are not, the user gets a copy of them.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from pympipool._core.future import Future
from pympipool._core.future_core import CompletionSource
from pympipool._core.mailbox import Post
from pympipool.caching.exceptions import is_raised, load_parts
from pympipool.caching.file_format import left_in
from pympipool.caching.inputs import InputResults, LastLoaded, ReturnedValues, stored_parts
from pympipool.errors import CacheError
from pympipool.serialization import has_shared, payload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pympipool.caching.store import Store

__all__ = [
    "Entry",
    "StoredEntry",
    "Unwritten",
    "UnwrittenBatch",
    "UnwrittenEntry",
    "answer",
    "load_stored",
    "returned_values",
    "stored_future",
]


class Unwritten(Post):
    """The entry of a future whose result will be written. It is posted to the writer when the future has ended.

    Args:
        function_name: The name of the function.
        keys: The keys of its calls.
        version: That of the files of modules (see `version_now`), before the keys were made. If one that the keys tell has changed
            since, the calls may have run what is not what their keys say. `inputs.UNKNOWN`: they may have got what is not what
            their keys say.

    Attributes:
        modules: The names of the modules that the keys tell (see `scopes.Seen`).
        future: That of the call, until the result is written.
        parts: The pickled result, once it has been asked for and until it is written.
        must_be_unpickled: It has classes by value, or shared data.
        is_written: The parts are not needed any more: the file of a large result is written, or none will be.
        is_passed_on: Another call gets the parts, or has got them.
        is_shared: The result has shared data. Known before a call that gets the result is sent.
    """

    __slots__ = (
        "__weakref__",
        "function_name",
        "future",
        "is_passed_on",
        "is_shared",
        "is_written",
        "keys",
        "modules",
        "must_be_unpickled",
        "parts",
        "version",
    )

    def __init__(self, function_name: str, keys: Sequence[bytes], version: int) -> None:
        self.version = version
        self.modules: frozenset[str] = frozenset()
        self.function_name = function_name
        self.keys = keys
        self.future: Future[Any] | None = None
        self.parts: Any = None
        self.is_passed_on = self.is_shared = self.is_written = self.must_be_unpickled = False

    def keep(self, parts: Any) -> None:
        """Keep the parts of the result until they are written."""
        if self.parts is None:
            as_list = parts if type(parts) is list else [parts]
            self.must_be_unpickled = payload.must_be_unpickled(as_list)
            self.is_shared = self.must_be_unpickled and any(map(has_shared, as_list))
        self.parts = parts

    def received_parts(self) -> Any:
        """Return the result as it was received; None if there is none."""
        received = None if self.future is None else self.future.received_result()
        return (
            self.parts if received is None else received
        )  # in this order: `take` comes before the future forgets them

    def take(self, parts: Any, is_value: bool) -> Any:
        """Return the parts of the result to unpickle (is_value), or to send on."""
        if not is_value:
            self.is_passed_on = True
        if not self.is_written:
            self.keep(parts)
        elif not (is_value and self.is_passed_on):
            return parts
        if is_value and type(parts) is list and len(parts) > 1:
            return [parts[0], *map(bytearray, parts[1:])]
        return parts

    def finish(self) -> None:
        """Forget the result: it was written, or will not be."""
        self.is_written = True
        self.parts = self.future = None


class UnwrittenEntry(Unwritten):
    """The entry of a call that was not answered.

    Args:
        key: The key of the call.
        function_name: The name of the function.
        version: As of `Unwritten`.
        arguments: Describes the arguments: the tuple of them if they are plain, or text.
        store: Gets the result. The worker may leave it in a file of the store's.
        last: What was unpickled of the results of other calls.
        inputs: The entries of the calls whose results are among the arguments.
        keeps_exception: If the call raises an exception, that is written.
    """

    __slots__ = ("_last", "_left_parts", "_store", "arguments", "inputs", "keeps_exception", "key")

    def __init__(
        self,
        key: bytes,
        function_name: str,
        version: int,
        arguments: Any,
        store: Store,
        last: LastLoaded,
        inputs: Sequence[Entry] = (),
        keeps_exception: bool = False,
    ) -> None:
        super().__init__(function_name, (key,), version)
        self.key = key
        self.arguments = arguments
        self.inputs = inputs
        self.keeps_exception = keeps_exception
        self._store = store
        self._last = last
        self._left_parts: list[Any] | None = None  # of a result that is not stored

    def take(self, parts: Any, is_value: bool) -> Any:
        """Return the parts of the result.

        Raises:
            CacheError: The file in which the worker has left it was removed.
        """
        left = left_in(parts)
        if left is None:
            return super().take(parts, is_value)
        if self.future is not None:  # else the parts are not needed any more
            self.keep(parts)
        try:
            with suppress(FileNotFoundError):
                return self._store.files.read_left(left)
            if self._left_parts is not None:
                return self._left_parts
            return self._store.files.read(self.key)  # the writer has moved it there
        except (OSError, ValueError) as error:
            raise CacheError(
                f"the result {self.key.hex()} cannot be read any more from the cache, where the worker has written it: {error}."
                " Submit the call again"
            ) from error

    def unchanged_parts(self) -> list[Any] | None:
        """Return the parts of the result, which was read, as they were received; None if they are neither kept nor stored."""
        parts = self.parts
        if parts is None:
            return stored_parts(self._store, self.key)
        try:
            parts = self.take(parts, False)
        except CacheError:
            return None
        return parts if type(parts) is list else [parts]

    def input_results(self) -> InputResults:
        """Return what gives the results of the inputs, as the key says that they were. Nobody may write to them."""
        return InputResults(self, returned_values(self._store, self._last))

    def finish(self) -> None:
        """Forget the result, and what led to it."""
        left = left_in(self.received_parts())
        if left is not None:
            with suppress(OSError, ValueError, MemoryError):  # the file stays, and `take` tries again
                self._left_parts = self._store.files.read_left(left)  # it was not stored, and may be read later
                self._store.files.discard_left(left)
        super().finish()
        self.arguments = None
        self.inputs = ()


class UnwrittenBatch(Unwritten):
    """The entry of a batch of calls that were not answered.

    Args:
        keys: The keys of the calls.
        function_name: The name of the function.
        version: As of `Unwritten`.
        arguments: Describes the arguments of each call, as of `UnwrittenEntry`.
    """

    __slots__ = ("arguments",)

    def __init__(self, keys: Sequence[bytes], function_name: str, version: int, arguments: Sequence[Any]) -> None:
        super().__init__(function_name, keys, version)
        self.arguments = arguments


class StoredEntry:
    """The entry of a call that was answered, or of one whose result another process will write.

    Args:
        key: The key of the call.
        store: Where its result is, or will be.
        size_bytes: The size of the file of a large result.
    """

    __slots__ = ("__weakref__", "_store", "key", "size_bytes")

    is_shared = False  # such results are not stored
    version = sys.maxsize
    modules: frozenset[str] = frozenset()

    def __init__(self, key: bytes, store: Store, size_bytes: int = 0) -> None:
        self.key = key
        self._store = store
        self.size_bytes = size_bytes

    def unchanged_parts(self) -> list[Any] | None:
        """Return the parts of the result, as of `UnwrittenEntry`."""
        return stored_parts(self._store, self.key)

    def take(self, parts: Any, is_value: bool) -> Any:
        """Return the parts of the result.

        Raises:
            CacheError: The file was removed or damaged since the call was answered.
        """
        if parts is not self:  # a small result
            return parts
        try:
            return self._store.files.read(self.key, self.size_bytes)
        except (OSError, ValueError) as error:
            if isinstance(error, (FileNotFoundError, ValueError)):
                self._store.remove_damaged(self.key, self.size_bytes)
            raise CacheError(
                f"the cached result {self.key.hex()} in {self._store.path!r} cannot be read: {error}. Submit the call again"
            ) from error


def returned_values(store: Store, last: LastLoaded) -> ReturnedValues:
    """Return the results of other calls as they were returned.

    Args:
        store: That of the call that gets them.
        last: As of `ReturnedValues`.
    """
    return ReturnedValues(lambda entry: entry.unchanged_parts() or stored_parts(store, entry.key), last)


Entry: TypeAlias = "UnwrittenEntry | StoredEntry"


class _Loader(CompletionSource):
    """Unpickles stored results."""

    def load(self, parts: Any, is_error: bool) -> Any:
        return payload.load(parts if type(parts) is list else [parts], "a cached result")


def load_stored(key: bytes, store: Store, found: bytes | int) -> Any:
    """Return a stored result.

    Args:
        found: What `Store.find` has returned.

    Raises:
        CacheError: The file was removed or damaged since.
        Exception: The call has raised this.
    """
    if isinstance(found, bytes):
        return load_parts([found])
    entry = StoredEntry(key, store, found)
    return load_parts(entry.take(entry, True))


_LOADER = _Loader()


def stored_future(key: bytes, store: Store, found: bytes | int) -> Future[Any]:
    """Return a future that is done, and reads its result when it is asked for it.

    Args:
        found: What `Store.find` has returned.
    """
    future: Future[Any] = Future()
    future.cache_entry = StoredEntry(key, store)
    answer(future, future.cache_entry, found)
    return future


def answer(future: Future[Any], entry: StoredEntry, found: bytes | int) -> None:
    """End a future with a stored result, which is read when it is asked for, or with a stored exception.

    Args:
        entry: That of the future. It stays the same one: keys tell which items are of one result.
        found: What `Store.find` has returned.
    """
    if isinstance(found, int):
        entry.size_bytes = found
    if isinstance(found, bytes) and is_raised([found]):
        try:
            load_parts([found])
        except Exception as error:
            future.set_exception(error.with_traceback(None))
        return
    future.answer(_LOADER, found if isinstance(found, bytes) else entry)
