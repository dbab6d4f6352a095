"""Quantities and how people read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    higher_is_better: bool
    text: Callable[[float], str]


@dataclass(frozen=True)
class Quantity:
    name: str
    unit: Unit


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    # Three digits may round up to the next step: 999.9 µs is 1 ms.
    factor, name = next((step for step in steps if value >= 0.9995 * step[0]), steps[-1])
    return f"{three_digits(value / factor)} {name}"


def three_digits(value: float) -> str:
    """As :.3g, but never with an exponent, and thousands set apart."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}".replace(",", "\u202f")


def show_seconds(value: float) -> str:
    return _scaled(value, ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")))


def show_rate(value: float) -> str:
    return _scaled(value, ((1e6, "M/s"), (1e3, "k/s"), (1, "/s")))


def show_bytes(value: float) -> str:
    return _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")))


def show_ratio(times: float) -> str:
    """How many times better; below a tenth as a fraction."""
    return f"1/{three_digits(1 / times)}" if times < 0.1 else three_digits(times)


SECONDS = Unit(False, show_seconds)
RATE = Unit(True, show_rate)
BYTES = Unit(False, show_bytes)
SHARE = Unit(True, lambda value: f"{value:.3f}")
CORES = Unit(False, lambda value: f"{100 * value:.2f} %")

TIME = (Quantity("time", SECONDS),)
TRIPS = (Quantity("p50", SECONDS), Quantity("p99", SECONDS))
