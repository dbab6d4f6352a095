from concurrent.futures import Future as StandardFuture
from typing import TypeVar

T = TypeVar("T")

class Future(StandardFuture[T]):
    function_name: str | None
    @property
    def run_ns(self) -> int: ...
