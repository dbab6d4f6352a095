from collections.abc import Set
from typing import Any

def register_handles(kind: type, number: int) -> None: ...
def dump_small_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], kinds: Set[type]
) -> list[bytes | memoryview] | None: ...
