"""Futures as arguments: a call waits for them, and gets their results instead of them.

    submit ─► find_futures: none (nearly always), or all have results ─► send the call now
                            others ─► InputWaiter ─► all have results ─► send the call
                                                     one has failed  ─► fail the call with its InputError, immediately
                                                     one is cancelled ─► cancel the call, immediately

Nothing polls. The end of a future posts a function to the mailbox of the continuation thread, which looks at the calls
that wait for this future, one after the other. So a chain may have any length, and nothing of this happens in the threads
of users: what Ctrl-C interrupts there leaves no call half done.

A call whose input failed fails with a copy of the input's exception: `except` clauses written for the function that
raises it work for everything that is computed from it, as they would if the functions called each other. The
`__cause__` of the copy is the exception that was raised first, however long the chain. The copy is made by the thread that
reads it: unpickling the input's exception may run any code of the user.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeAlias

from pympipool.errors import DependencyError
from pympipool.serialization.exception_forms import copy_exception
from pympipool.serialization.exceptions import add_note

if TYPE_CHECKING:
    from pympipool._core.mailbox import Mailbox

__all__ = [
    "InputError",
    "InputWaiter",
    "check_resolves",
    "copy_error",
    "has_result",
    "has_result_now",
    "is_cancelled",
    "result_of",
]

Callback: TypeAlias = "Callable[[Future[Any] | None], object]"


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


def has_result_now(future: Future[Any]) -> bool:
    """Return True if a future is done, has not failed and was not cancelled."""
    try:
        return _is_done(future) and has_result(future)
    except Exception:  # a future of another class may raise anything
        return False


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
