"""What holds for all values of a call while it is digested, and what its key has seen of modules."""

from __future__ import annotations

import sys
from collections.abc import Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pympipool.caching.entries import Entry

__all__ = ["Scope", "Seen"]


class Seen:
    """What keys have seen of modules.

    Attributes:
        modules: Names of those whose content they tell, with all that these import.
        unimported: As of `Scope`.
    """

    __slots__ = ("modules", "unimported")

    def __init__(self) -> None:
        self.modules: frozenset[str] = frozenset()
        self.unimported: set[str] = set()

    def add(self, modules: Set[str]) -> None:
        """Add modules. Calls of one function share their set."""
        if not modules <= self.modules:
            self.modules = frozenset(modules) | self.modules if self.modules else frozenset(modules)


@dataclass
class Scope:
    """What holds for all values of a call.

    Attributes:
        takes_futures: Futures stand for their results; else they have no digest.
        version: Modules whose files have changed later have no digest; see `modules.version_of_files`.
        runs_here: The call runs in this process, with the modules that this has imported, whatever their files have become.
        saw_memory: These modules, as they are now, are part of the digest.
        modules: As of `Seen`.
        unimported: Modules of the user's that the call may import, and that this process has not imported yet. What they will see
            of other modules is no part of the digest.
        inputs: The entries of the calls of futures.
        in_sets: How many objects were met so deep in sets in sets that their number is limited (`IN_SETS_MAX`).
        of_function: How many objects the function has: their numbers are the first ones.
        meets_function: One of these is among the arguments, too; classes and what code refers to do not count.
    """

    takes_futures: bool = True
    version: int = sys.maxsize
    runs_here: bool = False
    saw_memory: bool = False
    modules: set[str] = field(default_factory=set)
    unimported: set[str] = field(default_factory=set)
    inputs: list[Entry] = field(default_factory=list)
    in_sets: int = 0
    of_function: int = 0
    meets_function: bool = False
