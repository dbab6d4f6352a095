from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from pympipool._core.channel import Channel

Answer: TypeAlias = tuple[int, int, Sequence[Any]]

class KeptFunction:
    number: int
    function: Callable[..., Any]
    script: dict[str, Any]
    is_current: Callable[[], bool]
    pickled: bytes
    has_classes: bool

class FunctionSlots:
    functions: list[Any]
    script: Any
    arrived: dict[str, Any]

class SmallCalls:
    def __init__(
        self,
        channel: Channel,
        functions: FunctionSlots,
        kinds: set[type],
        returned: Callable[[Any], Answer],
        raised: Callable[[int, BaseException], Answer],
        has_result: bool = ...,
    ) -> None: ...
    def receive(self) -> tuple[int, int, int, list[Any]] | None: ...
