"""The results in a cache directory, for users."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pympipool.caching.entries import stored_future
from pympipool.caching.exceptions import load_parts
from pympipool.caching.file_waits import FileLockedError
from pympipool.caching.keys import key_of_name
from pympipool.caching.store import Store
from pympipool.caching.values import DIGEST_BYTES

if TYPE_CHECKING:
    from pympipool._core.future import Future
    from pympipool.caching.index import Row

__all__ = ["find_row", "get_cache_data", "get_future_from_cache", "opened", "read_result"]


def get_cache_data(cache_directory: str | os.PathLike[str], *, results: bool = True) -> Any:
    """Return what is in a cache directory.

    Args:
        cache_directory: That of an `Executor`.
        results: Read the results, too.

    Returns:
        A pandas.DataFrame if the script has imported pandas, else a list of dicts; a row for each call, in the order in which the
        results were written, with "key" (hexadecimal), "function" (name), "arguments" (text, or the call's `cache_key`),
        "created" (seconds since 1970), "run_s" (seconds in the worker), "size_bytes" and "result". The result of a call that has
        raised an exception is the exception. A result that cannot be read here, such as an instance of a class of another script,
        is the exception that says why.

    Raises:
        FileNotFoundError: There is no such directory, or it has no cache.
        PermissionError: Another user can write to it.

    Examples:
        >>> import tempfile
        >>> from pympipool import Executor
        >>> folder = tempfile.mkdtemp()
        >>> with Executor(max_workers=1, cache_directory=folder) as exe:
        ...     exe.submit(pow, 2, 5).result()
        32
        >>> calls = get_cache_data(folder)
        >>> len(calls), "pow" in str(calls)
        (1, True)
    """
    with opened(cache_directory) as store:
        calls = [_as_dict(store, row, results) for row in store.index.rows()]
    pandas: Any = sys.modules.get("pandas")
    return calls if pandas is None else pandas.DataFrame(calls)


def get_future_from_cache(cache_directory: str | os.PathLike[str], cache_key: str) -> Future[Any]:
    """Return the future of a cached result. It is done, and reads the result when it is asked for it.

    Args:
        cache_directory: That of an `Executor`.
        cache_key: A "key" of `get_cache_data`, or the `cache_key` of a call.

    Raises:
        KeyError: There is no such result.
        FileNotFoundError: There is no such directory, or it has no cache.
        PermissionError: Another user can write to it.

    Examples:
        >>> import tempfile
        >>> from pympipool import Executor
        >>> folder = tempfile.mkdtemp()
        >>> with Executor(max_workers=1, cache_directory=folder) as exe:
        ...     exe.submit(pow, 2, 5, resource_dict={"cache_key": "a power"}).result()
        32
        >>> get_future_from_cache(folder, "a power").result()
        32
    """
    with opened(cache_directory) as store:
        row = find_row(store, cache_key)
        found = None if row is None else store.find(row.key)
    if row is None or found is None:
        raise KeyError(f"{os.fspath(cache_directory)!r} has no result with the key {cache_key!r}")
    return stored_future(row.key, store, found)


@contextmanager
def opened(cache_directory: str | os.PathLike[str]) -> Iterator[Store]:
    """Open a cache directory that exists."""
    store = Store(cache_directory, create=False)
    try:
        yield store
    except FileLockedError as error:
        raise OSError(str(error)) from error
    except sqlite3.Error as error:
        if "full" in str(error):
            raise OSError(f"the index of the cache in {store.path!r} cannot be used: {error}") from error
        raise OSError(f"the index of the cache in {store.path!r} is damaged: {error}; remove the directory") from error
    finally:
        store.close()


def find_row(store: Store, key: str) -> Row | None:
    """Return the row of a key in hexadecimal digits, of their beginning if there is one such result, or of a user's name."""
    row = store.index.row(key_of_name(key))
    if row is not None or not key or len(key) > 2 * DIGEST_BYTES:
        return row
    found = [row for row in store.index.rows() if row.key.hex().startswith(key.lower())]
    return found[0] if len(found) == 1 else None


def read_result(store: Store, row: Row) -> Any:
    """Return a result, or the exception that the call has raised, or reading it raises."""
    try:
        parts = [row.value] if row.value is not None else store.files.read(row.key, row.size)
        return load_parts(parts)
    except Exception as error:  # of the call, or of unpickling, which runs code of the user's classes
        return error.with_traceback(None)


def _as_dict(store: Store, row: Row, results: bool) -> dict[str, Any]:
    call = {
        "key": row.key.hex(),
        "function": row.function,
        "arguments": row.arguments,
        "created": row.created,
        "run_s": row.run_ns / 1e9,
        "size_bytes": row.size,
    }
    return {**call, "result": read_result(store, row)} if results else call
