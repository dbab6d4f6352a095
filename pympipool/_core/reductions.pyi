from collections.abc import Callable, Mapping
from typing import Any

class Reductions:
    def __init__(
        self,
        tables: tuple[Mapping[Any, Callable[[Any], Any]], ...],
        find_reducer: Callable[[type, Any], Any],
        by_value: set[str],
        specs: dict[str, Any] | None,
    ) -> None: ...
    def is_importable(self, value: Any) -> bool: ...
    def is_inert(self, kind: type) -> bool: ...

def reducer_override(self: Any, value: Any) -> Any: ...
