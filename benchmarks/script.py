"""Classes and functions of a user's script.

`peer_process` runs this text in its own `__main__`, so workers cannot import what it defines: an executor has to send
these classes and functions by value, or to fork its workers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass
class Point:
    """A small object, for the time that a class of the script adds to a call."""

    x: float = 1.0
    y: float = 2.0
    name: str = "a"

    def norm(self) -> float:
        return abs(self.x) + abs(self.y)

    def moved(self, by: float) -> Point:
        return Point(self.x + by, self.y + by, self.name)


def x_of(point: Point) -> float:
    return point.x


def point_at(x: float) -> Point:
    return Point(x, x)


@dataclasses.dataclass
class Structure:
    """One input of a workflow, as scripts define it."""

    name: str
    volume: float
    charges: tuple[float, ...] = (1.0, -1.0)
    is_relaxed: bool = False

    def energy(self, strain: float) -> float:
        return self.volume * strain**2 + sum(self.charges)


def relax(structure: Structure) -> Structure:
    """Return a changed copy."""
    return dataclasses.replace(structure, is_relaxed=True)


def volume_of(structure: Structure) -> float:
    return structure.volume


def make_structure(volume: float) -> Structure:
    return Structure("fcc", volume)


def closure_over_array() -> Callable[[float], Any]:
    """Return a function whose closure holds an array of 8 kB."""
    table = np.linspace(0.0, 1.0, 1000)

    def look_up(x: float) -> Any:
        return table.searchsorted(x)

    return look_up
