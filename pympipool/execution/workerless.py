"""What engines without workers have in common: one draws calls instead of running them, one runs them in the calling thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pympipool.execution.dependencies import check_resolves


class WorkerlessEngine:
    """The parts of an engine that concern workers, for one that has none.

    Attributes:
        is_open: True while calls can be submitted.
        resolve_dependencies: False: futures among the arguments are an error.
        has_workers: Calls run elsewhere.
    """

    has_workers = False

    is_open = True
    resolve_dependencies = True

    def check_resolves(self, name: str) -> None:
        """Raise TypeError if a future must not be among the arguments of a function, with this name."""
        check_resolves(self.resolve_dependencies, name)

    def check_usable(self, fn: Callable[..., Any]) -> None:
        """Raise RuntimeError after `close`, TypeError if fn is not callable."""
        self.check_open()
        if not callable(fn):
            raise TypeError(f"fn is {fn!r}; it must be callable")

    def check_open(self) -> None:
        """Raise RuntimeError after `close`."""
        if not self.is_open:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def resize(self, workers: int, cores: int) -> None:
        """Do nothing: there are no workers."""
        self.check_open()

    def hosts(self) -> list[dict[str, Any]]:
        """Return no hosts: there are no workers."""
        return []

    def drain(self) -> None:
        """Refuse further calls: none waits here."""
        self.is_open = False

    def kill(self, *, wait: bool = True, grace_s: float = 0.0) -> None:
        """Refuse further calls. Nothing else is to be ended."""
        self.is_open = False
