"""How commands print figures."""

from __future__ import annotations


def three_digits(value: float) -> str:
    """Three significant digits, without an exponent.

    Examples:
        >>> three_digits(0.12345), three_digits(1234.5)
        ('0.123', '1234')
    """
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def show_seconds(seconds: float) -> str:
    """A time with its unit.

    Examples:
        >>> show_seconds(0.00123), show_seconds(0.99999), show_seconds(0.0)
        ('1.23 ms', '1 s', '0 ns')
    """
    return _scaled(seconds, ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")))


def show_rate(per_second: float) -> str:
    """A rate with its unit.

    Examples:
        >>> show_rate(123456)
        '123 k/s'
    """
    return _scaled(per_second, ((1e6, "M/s"), (1e3, "k/s"), (1, "/s")))


def show_bytes(size_bytes: float) -> str:
    """A size with its unit, powers of 1000.

    Examples:
        >>> show_bytes(8_000_000)
        '8 MB'
    """
    return _scaled(size_bytes, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")))


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    # Three digits may round up to the next step: 999.9 µs is 1 ms.
    factor, unit = next((step for step in steps if value >= 0.9995 * step[0]), steps[-1])
    return f"{three_digits(value / factor)} {unit}"
