"""Calls that are tried again when they have failed.

    a call fails ─► the dispatcher hands it over, its future stays pending ─► continuation thread: is it one of retry_on?
                       ▲                                                        │ no: the future ends with the exception
                       └── submitted again ◄── retry_delay, in the supervisor ◄──┘ yes

Between two attempts a call has neither worker nor cores, and can be cancelled like one that waits. Its arguments stay as they were
pickled when it was submitted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pympipool.serialization.tracebacks import without_frames

if TYPE_CHECKING:
    from pympipool._core.calls import FunctionHandle
    from pympipool._core.dispatcher import Dispatcher
    from pympipool._core.future import Future
    from pympipool.execution.interfaces import Pool
    from pympipool.resources import Resources


class Retry:
    """A call that may be tried again.

    Attributes:
        future: Its future.
        resources: What it needs, and when it is tried again.
        call: The function, if that is sent only once, and the parts of the call.
        end_attempt: Has the pool forget the last attempt; None if there is nothing to forget.
    """

    __slots__ = ("call", "end_attempt", "future", "is_begun", "is_followed", "left", "resources")

    def __init__(self, future: Future[Any], resources: Resources) -> None:
        self.future = future
        self.resources = resources
        self.left = resources.retries
        self.call: tuple[FunctionHandle | None, list[Any]] = (None, [])
        self.end_attempt: Callable[[], object] | None = None
        self.is_followed = False  # `Retries._on_end` is told of its end
        self.is_begun = False  # its next attempt is noted, and must be submitted


class Retries:
    """The calls of one engine that may be tried again.

    Args:
        dispatcher: Its continuation thread handles failures.
        pool: Runs the calls.
    """

    def __init__(self, dispatcher: Dispatcher, pool: Pool) -> None:
        self._dispatcher = dispatcher
        self._pool = pool
        self._waiting: dict[Retry, None] = {}
        self._is_closed = False

    # ---- for any thread ----

    def prepare(self, future: Future[Any], resources: Resources) -> None:
        """Have a call tried again that is about to be submitted, if it fails."""
        retry = future.retry = Retry(future, resources)
        self._dispatcher.may_retry(future, partial(self._on_failed, retry))

    def count(self) -> int:
        """Return the number of calls that wait for their next attempt."""
        return sum(not retry.future.done() for retry in list(self._waiting))

    def futures(self) -> list[Future[Any]]:
        """Return the futures of the calls that wait for their next attempt."""
        return [retry.future for retry in list(self._waiting)]

    def close(self) -> None:
        """Try no call again that fails from now on."""
        self._is_closed = True

    def cancel(self) -> None:
        """Cancel the calls that wait for their next attempt. Those that fail from now on are not tried again."""
        self.close()
        for future in self.futures():
            self._dispatcher.cancel(future)

    # ---- in the continuation thread ----

    def _on_failed(self, retry: Retry) -> None:
        """Try a call again that has failed, or end its future."""
        future = retry.future
        if not retry.is_followed:
            future._post_when_done(self._dispatcher.continuations, partial(self._on_end, retry))
            retry.is_followed = True
        if future.done():  # the user has cancelled it
            return
        if not retry.is_begun:
            error = None if self._is_closed else self._expected_error(retry)
            if error is None:
                self._dispatcher.accept_failure(future)
                return
            if retry.end_attempt is not None:
                retry.end_attempt()
            self._waiting[retry] = None
            again = partial(self._on_failed, retry) if retry.left > 1 else None
            self._dispatcher.begin_attempt(future, error, again)
            retry.left -= 1
            retry.is_begun = True
        self._submit_later(retry)
        retry.is_begun = False

    def _expected_error(self, retry: Retry) -> BaseException | None:
        """Return the exception of the last attempt; None if the call is not to be tried again."""
        try:
            error = retry.future.failure()
            return error if isinstance(error, retry.resources.retry_on) else None
        except BaseException:  # unpickling an exception may raise anything; so it does for the thread that reads it
            return None

    def _submit_later(self, retry: Retry) -> None:
        delay_s = retry.resources.retry_delay
        if delay_s > 0:
            post = partial(self._dispatcher.continuations.post, partial(self._submit, retry))
            self._pool.call_later(delay_s, post)
        else:
            self._submit(retry)

    def _submit(self, retry: Retry) -> None:
        self._waiting.pop(retry, None)
        if retry.future.done():  # cancelled meanwhile
            return
        try:
            self._pool.submit(retry.future, *retry.call, retry.resources, True)
        except Exception as error:  # the pool has become too small for it, or there is no memory
            self._dispatcher.fail(retry.future, without_frames(error))

    def _on_end(self, retry: Retry) -> None:
        self._waiting.pop(retry, None)
        self._dispatcher.end_retries(retry.future)
        retry.call = (None, [])  # a timer may refer to the call for long
