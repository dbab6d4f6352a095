"""The engine of `Executor(detached=True)`: each call is a job of its own, which outlives the script.

    submit ─► key ─┬─ in the cache ──────────────► a future that is done
                   └─ pickle ─► watcher.py ─┬─ a job computes it already ─► wait for that
                                            └─ submit ─► run.py, in the job ─► result ─► cache ─► future

The script may end at any moment. What it has submitted goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pympipool._util.reprs import callable_name, safe_repr
from pympipool.caching.entries import StoredEntry, stored_future
from pympipool.caching.keys import Keys, key_of_name
from pympipool.caching.store import Store
from pympipool.caching.values import KeylessFutureError, UnhashableError
from pympipool.detached.calls import dump_detached
from pympipool.detached.futures import DetachedFuture
from pympipool.detached.records import open_records
from pympipool.detached.schedulers import make_scheduler
from pympipool.detached.submitting import Call, Group, Submitter
from pympipool.detached.watcher import Watcher, flush_watchers
from pympipool.execution.open_engines import after_end
from pympipool.execution.workerless import WorkerlessEngine
from pympipool.serialization import has_shared
from pympipool.serialization.future_search import find_futures
from pympipool.serialization.inputs import entry_and_origin

if TYPE_CHECKING:
    from pympipool._core.future import Future
    from pympipool._options import Options
    from pympipool.resources import Resources

__all__ = ["DetachedEngine"]

DESCRIPTION_MAX = 200
"""Longest text that describes the arguments of a call."""


class DetachedEngine(WorkerlessEngine):
    """Submits the calls of one executor as jobs.

    Args:
        options: Those of the executor.
        scheduler: The name of the scheduler.
        cores: How many cores jobs may use at a time, for "local".
        owner: The executor. When Python collects it, the thread ends after the last call.

    Raises:
        WorkerStartError: The scheduler cannot be used here.
        OSError: The cache directory cannot be made or read; another user can write to it.
        ValueError: It has results of another version of pympipool.
    """

    def __init__(self, options: Options, scheduler: str, cores: int, owner: object) -> None:
        self.resolve_dependencies = not options.disable_dependencies
        self._pid = os.getpid()
        self._keys = Keys(takes_futures=self.resolve_dependencies, has_workers=False)
        self._store = Store(options.cache_directory or "")
        self._root = os.path.join(self._store.path, "detached")
        os.makedirs(self._root, 0o700, exist_ok=True)
        try:
            self.records = open_records(self._root, is_shared=self._store.is_shared)
        except BaseException:
            self._store.close()
            raise
        try:
            self._scheduler = make_scheduler(scheduler, self.records, self._store.path)
            submitter = Submitter(self.records, self._store, self._scheduler, self._root, _at_once(options), cores)
            self._watcher = Watcher(self.records, self._store, self._scheduler, submitter)
        except BaseException:
            self.records.close()
            self._store.close()
            raise
        self._watcher.close_with(owner)
        after_end[flush_watchers] = None

    def check_open(self) -> None:
        """Raise RuntimeError after `close`, in a forked process, or if the watching thread has failed."""
        super().check_open()
        if self._pid != os.getpid():
            raise RuntimeError(
                "this executor belongs to the process that made it, and this is a fork of it: make an Executor here"
            )
        self._watcher.check_running()

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], resources: Resources | None = None
    ) -> Future[Any]:
        """Answer a call from the cache, or have a job run it.

        Raises:
            RuntimeError: After `close`.
            TypeError: fn is not callable, or a future is among the arguments of an engine that does not resolve them.
            ValueError: The call has no key.
            SerializationError: It cannot be pickled.
            FileNotFoundError: The working directory was removed.
        """
        assert resources is not None, "the executor knows what each call needs"
        placed = _with_cwd(resources)
        future, call = self._prepare(fn, args, kwargs, placed, resources.cwd)
        if call is not None:
            self._watcher.submit(Group([call], placed))
        return future

    def submit_map(
        self, fn: Callable[..., Any], rows: Iterable[tuple[Any, ...]], chunksize: int, resources: Resources
    ) -> list[Future[Any]]:
        """Submit the calls of a map: those that are not in the cache are one job array."""
        placed = _with_cwd(resources)
        prepared = [self._prepare(fn, row, {}, placed, resources.cwd) for row in rows]
        calls = [call for _, call in prepared if call is not None]
        if calls:
            self._watcher.submit(Group(calls, placed, chunksize if resources.cores == 1 else 1))
        return [future for future, _ in prepared]

    def _prepare(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: Resources,
        cwd: str | None,
    ) -> tuple[Future[Any], Call | None]:
        """Return the future of a call, and the call if it is not in the cache.

        Args:
            cwd: The folder that the user has asked for, which counts for the key.
        """
        self.check_usable(fn)
        inputs = find_futures(args, kwargs)
        if inputs:
            self.check_resolves(callable_name(fn))
        key = self._key(fn, args, kwargs, resources, cwd, inputs)
        found = self._store.find(key)
        if found is not None:
            return stored_future(key, self._store, found), None
        parts = dump_detached(fn, args, kwargs)
        if has_shared(parts[0]):
            raise ValueError(
                f"the call of {callable_name(fn)}() gets shared data, which end with the script: pass a copy"
            )
        future = DetachedFuture(self._watcher)
        future.cache_entry = StoredEntry(key, self._store)
        call = Call(key, callable_name(fn), _describe(args, kwargs, resources), parts, inputs, resources, future)
        future.on_cancelled = lambda: self._watcher.cancel(call)
        return future, call

    def _key(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        resources: Resources,
        cwd: str | None,
        inputs: list[Any],
    ) -> bytes:
        name = callable_name(fn)
        if any(entry_and_origin(future)[0] is None for future in inputs):
            raise ValueError(
                f"an argument of {name}() is a future of an executor without a cache, which a detached call cannot wait for: pass"
                " its result()"
            )
        if not resources.cache:
            raise ValueError(
                f"the call of {name}() has 'cache': False; a detached call is known by its key: leave it out"
            )
        if resources.cache_key is not None:
            return key_of_name(resources.cache_key)
        try:
            return self._keys.of_call(fn, args, kwargs, resources.cores, resources.result_of, [], cwd=cwd)
        except KeylessFutureError as error:
            raise ValueError(f"{name}() cannot be detached: it gets {error}; pass its result()") from None
        except UnhashableError as error:
            raise ValueError(
                f"{name}() cannot be detached: its result may depend on {error}, so a later script could not find it. Give the"
                " call a name by resource_dict={'cache_key': ...}"
            ) from None

    def waiting_count(self) -> int:
        """Return the number of calls that have not ended."""
        return self._watcher.open_count()

    def close(self, *, wait: bool = True, cancel: bool = False) -> None:
        """Refuse further calls; with wait, wait for the jobs, else until they are submitted."""
        self.is_open = False
        if cancel:
            self._watcher.cancel_waiting()
        self._watcher.close(wait=wait)

    def kill(self, *, wait: bool = True, grace_s: float = 0.0) -> None:
        """Refuse further calls, and cancel the jobs."""
        self.is_open = False
        self._watcher.cancel_all()
        self._watcher.close(wait=wait)

    def __repr__(self) -> str:
        state = "open" if self.is_open else "shut down"
        return (
            f"<Executor backend={self._scheduler.name!r}, detached; {self.waiting_count()} calls wait or run, {state}>"
        )

    def _repr_html_(self) -> str:
        return f"<code>{repr(self)[1:-1]}</code>"


def _with_cwd(resources: Resources) -> Resources:
    """Return what a call needs, with the working directory of now: the script may change it before the job is submitted."""
    if resources.cwd is not None:
        return resources
    try:
        return replace(resources, cwd=os.getcwd())
    except FileNotFoundError:
        raise FileNotFoundError(
            "the working directory of the script was removed, and is that of detached calls, too: change to another one by"
            " os.chdir, or give resource_dict={'cwd': ...}"
        ) from None


def _at_once(options: Options) -> int | None:
    """Return how many tasks the user wants to run at a time; None if no number was given."""
    if options.max_workers is None and options.max_cores is None:
        return None
    return options.count_workers(lambda: 1)[0]


def _describe(args: tuple[Any, ...], kwargs: dict[str, Any], resources: Resources) -> str:
    if resources.cache_key is not None:
        return resources.cache_key
    texts = [*map(safe_repr, args), *(f"{name}={safe_repr(value)}" for name, value in kwargs.items())]
    return ", ".join(texts)[:DESCRIPTION_MAX].encode("utf-8", "backslashreplace").decode()
