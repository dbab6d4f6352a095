from collections.abc import Callable
from typing import Any

from pympipool._core.snapshot import Snapshot

class FunctionHandle:
    number: int
    payload: bytes
    callable: Callable[..., Any]
    name: str
    def __init__(
        self,
        number: int,
        payload: bytes,
        function: Callable[..., Any] | None = None,
        snapshot: Snapshot | None = None,
        name: str | None = None,
    ) -> None: ...
    def is_current(self) -> bool: ...
