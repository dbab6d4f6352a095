"""Futures as arguments: a call waits for them, and gets their results instead of them.

    submit ─► find_futures: none (nearly always) ─► send the call now
                            some ─► InputWaiter ─► all have results ─► resolve ─► send the call
                                                   one has failed  ─► fail the call with its InputError, immediately
                                                   one is cancelled ─► cancel the call, immediately

Futures are searched for among the arguments and, to any depth, in lists, tuples (also named tuples), sets, frozensets
and dicts (values and keys), `OrderedDict` and `defaultdict`. Other objects, including dataclasses and subclasses of
containers, are not searched: only they know what their contents mean. Futures of any executor count, if they are
instances of `concurrent.futures.Future`; asyncio's futures are not.

Nothing polls. The end of a future posts a function to the mailbox of the continuation thread, which looks at the calls
that wait for this future, one after the other. So a chain may have any length, and nothing of this happens in the threads
of users: what Ctrl-C interrupts there leaves no call half done.

A call whose input failed fails with a copy of the input's exception: `except` clauses written for the function that
raises it work for everything that is computed from it, as they would if the functions called each other. The
`__cause__` of the copy is the exception that was raised first, however long the chain. The copy is made by the thread that
reads it: unpickling the input's exception may run any code of the user.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeAlias

from pympipool._core.plain_values import consists_of
from pympipool._core.sequences import all_types_in
from pympipool.errors import DependencyError
from pympipool.serialization.exception_forms import copy_exception
from pympipool.serialization.exceptions import add_note
from pympipool.serialization.plain import CALL_SCALARS

if TYPE_CHECKING:
    from pympipool._core.mailbox import Mailbox

__all__ = [
    "InputError",
    "InputWaiter",
    "check_resolves",
    "copy_error",
    "find_futures",
    "has_result",
    "is_cancelled",
    "resolve",
    "result_of",
]

Callback: TypeAlias = "Callable[[Future[Any] | None], object]"


_MAPPINGS = (dict, OrderedDict, defaultdict)
_COLLECTIONS = (list, tuple, set, frozenset)
_SEARCHED = (Future, list, tuple, set, frozenset, dict)


def find_futures(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Future[Any]]:
    """Return the futures among the arguments of a call, each once.

    Examples:
        >>> future = Future()
        >>> find_futures((1, [future]), {"x": {"y": future}}) == [future]
        True
        >>> find_futures((1, "two"), {})
        []
    """
    if consists_of(args, CALL_SCALARS) and (not kwargs or consists_of(kwargs, CALL_SCALARS)):
        return []
    values = [*args, *kwargs.values()]
    for value in values:
        if type(value) not in CALL_SCALARS and isinstance(value, _SEARCHED):
            return _FutureSearch(values).futures
    return []


def resolve(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    result_of: Callable[[Future[Any]], Any] = Future.result,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with each future replaced by its result.

    Containers that hold a future, however deep, are copied; all others stay the same objects. A container that appears
    several times, or contains itself, does so in the returned arguments too.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        result_of: Returns the replacement of a future that is done.

    Raises:
        TypeError: A result replaces a key of a dict or an item of a set, and cannot be hashed.

    Examples:
        >>> future = Future()
        >>> future.set_result(3)
        >>> resolve((1, [future]), {"x": {"y": future}})
        ((1, [3]), {'x': {'y': 3}})
    """
    search = _FutureSearch([*args, *kwargs.values()])
    replacement = _Replacement(search.holders(), result_of)
    return tuple(map(replacement.of, args)), {name: replacement.of(value) for name, value in kwargs.items()}


def check_resolves(resolves: bool, name: str) -> None:
    """Raise TypeError if futures must not be among the arguments of a function, with this name."""
    if not resolves:
        raise TypeError(
            f"a future is among the arguments of {name}(), and disable_dependencies=True: pass its result(), or make the"
            " executor with disable_dependencies=False"
        )


# ---- waiting ----


class InputWaiter:
    """Waits for the inputs of one call. Its state belongs to the thread that reads the mailbox.

    The thread that submits the call makes the waiter, calls `watch`, and at last posts `accept`. An exception before that
    leaves a waiter that never calls back.

    Args:
        futures: At least one future.
        callback: Called once, in the mailbox's thread, as soon as all futures have results or one of them failed or was
            cancelled. Gets None if all have results, else the future that failed or was cancelled.
        mailbox: The mailbox of the thread that calls back.
    """

    def __init__(self, futures: list[Future[Any]], callback: Callback, mailbox: Mailbox) -> None:
        self._pending = {id(future): future for future in futures}  # not known to be done
        self._callback: Callback | None = callback
        self._mailbox = mailbox
        self._failed: Future[Any] | None = None  # the first one that has no result
        self._is_accepted = False

    def watch(self) -> None:
        """Have the mailbox's thread told of the end of each future."""
        for future in list(self._pending.values()):
            on_done = functools.partial(self._on_done, future)
            post = getattr(future, "_post_when_done", None)
            if post is not None:
                post(self._mailbox, on_done)
            else:
                future.add_done_callback(self._mailbox.prepare(on_done).send)

    def pending(self) -> list[Future[Any]]:
        """Return the futures that are not known to be done."""
        return list(self._pending.values())

    # ---- in the mailbox's thread ----

    def accept(self) -> None:
        """Call back from now on, at once if the inputs are done already: the call was submitted."""
        self._is_accepted = True
        self._call_back()

    def recheck(self) -> None:
        """Look again at futures of other classes: an exception may have kept one of them from calling back."""
        for future in list(self._pending.values()):
            if not hasattr(future, "_post_when_done") and _is_done(future):
                self._on_done(future)

    def _on_done(self, future: Future[Any]) -> None:
        """Note that a future is done. The second time, as after MemoryError, that makes no difference."""
        if self._failed is None and self._callback is not None and not has_result(future):
            self._failed = future
        self._pending.pop(id(future), None)
        self._call_back()

    def _call_back(self) -> None:
        callback, failed = self._callback, self._failed
        if callback is None or not self._is_accepted or (self._pending and failed is None):
            return
        self._callback = self._failed = None  # call it once; the other futures keep nothing of the call alive
        try:
            callback(failed)
        except MemoryError:  # it could not even be called; it will be when this method is called again
            self._callback, self._failed = callback, failed
            raise
        self._pending.clear()


def has_result(future: Future[Any]) -> bool:
    """Return True if a future, which is done, has neither failed nor was it cancelled."""
    known: bool | None = getattr(future, "has_result", None)
    if known is not None:
        return known  # our own futures know that without unpickling the result
    try:
        return not is_cancelled(future) and _exception_of(future) is None
    except BaseException:  # a future of another class may raise anything
        return False


def is_cancelled(future: Future[Any]) -> bool:
    """Return True if a future, which is done, was cancelled."""
    if _is_standard(future):
        return future._state in _DONE and future._state != "FINISHED"
    return future.cancelled()


def result_of(future: Future[Any]) -> Any:
    """Return the result of a future that is known to have one."""
    return future._result if _is_standard(future) else future.result()


def _is_done(future: Future[Any]) -> bool:
    return future._state in _DONE if _is_standard(future) else future.done()


def _exception_of(future: Future[Any]) -> BaseException | None:
    return future._exception if _is_standard(future) else future.exception()


_DONE = frozenset({"CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED"})


def _is_standard(future: Future[Any]) -> bool:
    """Return True for futures of the standard library.

    Their methods wait for the future's condition, which an exception of a signal handler may have left locked in the thread
    of a user. So their attributes are read instead: once a future is done, they do not change any more.
    """
    kind = type(future)
    return kind.result is Future.result and kind.exception is Future.exception


_IS_COPY = "_pympipool_copy"
"""Attribute that marks an exception as a copy made by `InputError`."""


class InputError:
    """The error of a call whose input has failed. A call returns a new copy of the input's exception.

    Args:
        future: The input. It has ended with an exception, or its result cannot be unpickled.
    """

    __slots__ = ("_future",)

    def __init__(self, future: Future[Any]) -> None:
        error_of_input = getattr(future, "pending_error", None)
        # Along a chain, refer to the call that failed first: else a long one would be followed by recursion.
        self._future: Future[Any] = error_of_input._future if type(error_of_input) is InputError else future

    def __call__(self) -> BaseException:
        """Return a copy of the input's exception, whose `__cause__` is the exception that was raised first."""
        return copy_error(self._future, "This is the error of an input; the call itself did not run.")


def copy_error(future: Future[Any], note: str) -> BaseException:
    """Return a copy of the exception of a future, with a note. Its `__cause__` is the exception that was raised first."""
    try:
        error = _exception_of(future)
    except Exception as problem:  # a future of another class may raise here
        error = problem
    return _copy_with_cause(error or DependencyError("an input of the call failed"), note)


def _copy_with_cause(error: BaseException, note: str) -> BaseException:
    origin = error
    cause = BaseException.__dict__["__cause__"].__get__(error)
    if cause is not None and _IS_COPY in BaseException.__dict__["__dict__"].__get__(error):
        origin = cause
    try:
        copy = copy_exception(origin)
    except Exception:  # the exception cannot be copied, whatever its class has done to that
        copy = DependencyError(f"an input of the call failed: {type(origin).__name__}")
    BaseException.__dict__["__dict__"].__get__(copy)[_IS_COPY] = True
    BaseException.__dict__["__cause__"].__set__(copy, origin)
    add_note(copy, note)
    return copy


# ---- finding and replacing ----


def _is_container(value: object) -> bool:
    kind = type(value)
    return kind in _COLLECTIONS or kind in _MAPPINGS or (isinstance(value, tuple) and hasattr(kind, "_make"))


class _FutureSearch:
    """All futures and containers inside some values. Searches by loops, so that depth and cycles do no harm.

    Attributes:
        futures: The futures, each once.
    """

    def __init__(self, values: list[Any]) -> None:
        self.futures: list[Future[Any]] = []
        self._seen: dict[int, Any] = {}  # containers and futures by id; kept alive, so that no id is reused
        self._parents: dict[int, list[int]] = {}  # for each container or future, the containers that hold it
        self._unvisited: list[Any] = []
        for value in values:
            self._add(value, 0)
        while self._unvisited:
            self._visit(self._unvisited.pop())

    def _visit(self, container: Any) -> None:
        self._visit_items(container, id(container))
        if type(container) in _MAPPINGS:
            self._visit_items(container.values(), id(container))

    def _visit_items(self, values: Collection[Any], parent: int) -> None:
        if all_types_in(values, CALL_SCALARS):
            return
        for value in values:
            if type(value) not in CALL_SCALARS:
                self._add(value, parent)

    def _add(self, value: Any, parent: int) -> None:
        is_future = isinstance(value, Future)
        if not is_future and not _is_container(value):
            return
        self._parents.setdefault(id(value), []).append(parent)
        if id(value) not in self._seen:
            self._seen[id(value)] = value
            (self.futures if is_future else self._unvisited).append(value)

    def holders(self) -> set[int]:
        """Return the ids of the futures, and of the containers from which a future can be reached."""
        reached: set[int] = set()
        unvisited = [id(future) for future in self.futures]
        while unvisited:
            key = unvisited.pop()
            if key not in reached:
                reached.add(key)
                unvisited += self._parents.get(key, ())
        return reached


class _Replacement:
    """Rebuilds the containers that hold futures. The same object is always replaced by the same object."""

    def __init__(self, holders: set[int], result_of: Callable[[Future[Any]], Any]) -> None:
        self._holders = holders
        self._result_of = result_of
        self._replacements: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        key = id(value)
        if key not in self._holders:
            return value
        if key not in self._replacements:
            self._replace(key, value)
        return self._replacements[key]

    def _replace(self, key: int, value: Any) -> None:
        if isinstance(value, Future):
            self._replacements[key] = self._result_of(value)
            return
        if isinstance(value, (tuple, frozenset)):
            items = [self.of(item) for item in value]
            if key not in self._replacements:  # else a list that holds it was replaced first, and with it this one
                self._replacements[key] = type(value)._make(items) if hasattr(value, "_make") else type(value)(items)
            return
        # A mutable container may contain itself, so its copy is registered before it is filled.
        self._replacements[key] = empty = copy.copy(value)
        empty.clear()
        if isinstance(value, dict):
            empty.update((self.of(name), self.of(item)) for name, item in value.items())
        elif isinstance(value, set):
            empty.update(map(self.of, value))
        else:
            empty.extend(map(self.of, value))
