import pickle
from typing import Any

from pympipool._core.snapshot import Snapshot

IN_BAND_BELOW_BYTES: int
OUT_OF_BAND_MAX: int
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

class Buffers:
    def __init__(self, parts: list[memoryview]) -> None: ...
    def __call__(self, buffer: pickle.PickleBuffer) -> bool: ...

def dump(value: object, pickler_type: type[pickle.Pickler], is_result: bool, out_of_band: bool) -> list[Any]: ...
