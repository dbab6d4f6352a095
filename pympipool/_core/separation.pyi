from collections.abc import Callable, Sequence
from typing import Any

NO_COPY: int
COPY_DICT: int
COPY_ARRAY: int

class Separator:
    kinds: set[type]
    def __init__(self, immutable: set[type], find_way: Callable[[type], int]) -> None: ...
    def are_separate(self, columns: Sequence[Sequence[Any]]) -> bool: ...
