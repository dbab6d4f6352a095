from typing import Protocol

class Beginner(Protocol):
    target: object
    def begin(self) -> bool: ...

def bootstrap(thread: Beginner) -> None: ...
