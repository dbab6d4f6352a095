"""Quantities and how people read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pympipool._util.formatting import show_bytes, show_rate, show_seconds, three_digits


@dataclass(frozen=True)
class Unit:
    higher_is_better: bool
    text: Callable[[float], str]


@dataclass(frozen=True)
class Quantity:
    name: str
    unit: Unit


def show_ratio(times: float) -> str:
    """How many times better; below a tenth as a fraction."""
    return f"1/{three_digits(1 / times)}" if times < 0.1 else three_digits(times)


SECONDS = Unit(False, show_seconds)
RATE = Unit(True, show_rate)
BYTES = Unit(False, show_bytes)
SHARE = Unit(True, lambda value: f"{value:.3f}")
CORES = Unit(False, lambda value: f"{100 * value:.3g} %")

TIME = (Quantity("time", SECONDS),)
TRIPS = (Quantity("p50", SECONDS), Quantity("p99", SECONDS))
