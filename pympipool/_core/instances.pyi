import pickle
from collections.abc import Callable
from typing import Any

from pympipool._core.snapshot import Snapshot

definitions: dict[int, Definition]

class Definition:
    kind: type
    number: int
    snapshot: Snapshot
    uses: int
    changes: int
    for_call: tuple[Any, ...] | None
    for_result: tuple[Any, ...] | None
    call_opcodes: bytes | None
    result_opcodes: bytes | None
    def __init__(self, kind: type, number: int, snapshot: Snapshot, changes: int) -> None: ...

def find_definition(kind: type, is_result: bool) -> tuple[Any, ...] | None: ...
def dump(
    value: object,
    pickler_type: type[pickle.Pickler],
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None,
    is_result: bool,
) -> bytes: ...
def reducer_override(self: Any, value: Any) -> Any: ...
