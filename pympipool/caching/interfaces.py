"""What the cache asks of the engine behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pympipool._core.future import Future
    from pympipool.resources import Resources


class CallEngine(Protocol):
    """The interface between the cache and the engine of an executor (see `pympipool.execution.engine`).

    Attributes:
        resolve_dependencies: Futures among the arguments stand for their results.
    """

    resolve_dependencies: bool

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], resources: Resources | None = None
    ) -> Future[Any]: ...
    def check_usable(self, fn: Callable[..., Any]) -> None: ...
