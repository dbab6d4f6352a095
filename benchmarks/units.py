"""Quantities, and how they are printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pympipool._util.formatting import format_bytes, format_number, format_rate, format_seconds


@dataclass(frozen=True)
class Unit:
    higher_is_better: bool
    text: Callable[[float], str]


@dataclass(frozen=True)
class Quantity:
    name: str
    unit: Unit


def format_ratio(times: float) -> str:
    """Return a ratio as text, below a tenth as a fraction."""
    return f"1/{format_number(1 / times)}" if times < 0.1 else format_number(times)


SECONDS = Unit(False, format_seconds)
RATE = Unit(True, format_rate)
BYTES = Unit(False, format_bytes)
TIMES = Unit(True, lambda value: f"{value:.1f} ×")
TIMES_AS_LONG = Unit(False, TIMES.text)
SHARE = Unit(True, lambda value: f"{value:.3f}")
CORES = Unit(False, lambda value: f"{100 * value:.3g} %")

TIME = (Quantity("time", SECONDS),)
TRIPS = (Quantity("p50", SECONDS), Quantity("p99", SECONDS))
