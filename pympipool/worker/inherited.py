"""Descriptors that a worker inherits: parts of objects of multiprocessing among the initargs (see `pool/inheritance.py`)."""

from __future__ import annotations


class InheritedDescriptor:
    """A descriptor as objects of multiprocessing have it in their pickles.

    Attributes:
        received: The descriptors that this process has got, by their numbers.
    """

    received: list[int] = []  # noqa: RUF012  a process gets them once

    def __init__(self, number: int) -> None:
        self._number = number

    def detach(self) -> int:
        """Return the descriptor. It belongs to the caller, which is multiprocessing."""
        return self.received[self._number]
