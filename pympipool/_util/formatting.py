"""Format numbers for people: times, rates, sizes, shares, counts.

Everything that is printed or drawn goes through here.
"""

from __future__ import annotations

Scale = tuple[tuple[float, str], ...]
"""Factors with their units, largest first."""

TIMES: Scale = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns"))
RATES: Scale = ((1e6, "M/s"), (1e3, "k/s"), (1, "/s"))
SIZES: Scale = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))

MINUTES_FROM_NS = 600e9
"""Times from ten minutes on are formatted in minutes."""


def format_number(value: float) -> str:
    """Format a number with three significant digits, without an exponent.

    Examples:
        >>> format_number(0.12345), format_number(1234.5)
        ('0.123', '1234')
    """
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def format_two_digits(value: float) -> str:
    """Format a number with two significant digits, without an exponent: for values that are not known more precisely.

    Examples:
        >>> [format_two_digits(value) for value in (0, 0.25, 3.14159, 42.4, 123456.7)]
        ['0', '0.25', '3.1', '42', '120000']
    """
    rounded = float(f"{value:.2g}")
    return f"{rounded:g}" if value < 1e5 else f"{rounded:.0f}"


def format_seconds(seconds: float) -> str:
    """Format a time that is given in seconds.

    Examples:
        >>> format_seconds(0.00123), format_seconds(0.99999), format_seconds(0.0)
        ('1.23 ms', '1 s', '0 s')
    """
    return format_duration(seconds * 1e9)


def format_duration(time_ns: float) -> str:
    """Format a time that is given in nanoseconds.

    Examples:
        >>> [format_duration(time_ns) for time_ns in (0, 12, 4_560, 7_890_000, 1_230_000_000, 4_000_000_000_000)]
        ['0 s', '12 ns', '4.56 µs', '7.89 ms', '1.23 s', '1 h 7 min']
    """
    if time_ns <= 0:
        return "0 s"
    if time_ns < MINUTES_FROM_NS:
        return _scaled(time_ns, TIMES)
    minutes = round(time_ns / 60e9)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_rate(per_second: float) -> str:
    """Format a rate that is given per second.

    Examples:
        >>> format_rate(123456)
        '123 k/s'
    """
    return _scaled(per_second, RATES)


def format_bytes(size_bytes: float) -> str:
    """Format the size of data; the units are powers of 1000.

    Examples:
        >>> format_bytes(8_000_000)
        '8 MB'
    """
    return _scaled(size_bytes, SIZES)


def format_memory(size_bytes: int) -> str:
    """Format the size of a memory or a file system.

    The units are powers of 1024, as in the output of the system's tools.

    Examples:
        >>> format_memory(64 << 20), format_memory(24 << 30)
        ('64 MB', '24.0 GB')
    """
    return f"{size_bytes / (1 << 30):.1f} GB" if size_bytes >= 1 << 30 else f"{size_bytes >> 20} MB"


def format_share(share: float) -> str:
    """Format a part of a whole, 0 to 1, in percent.

    Examples:
        >>> [format_share(share) for share in (0, 0.001, 0.056, 1)]
        ['0 %', '<1 %', '6 %', '100 %']
    """
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def format_count(count: int, noun: str) -> str:
    """Format a number of things, with the noun in the singular or plural.

    Examples:
        >>> format_count(1, "call"), format_count(12_345, "call")
        ('1 call', '12 345 calls')
    """
    return f"{count:,}".replace(",", " ") + f" {noun}" + ("" if count == 1 else "s")


def _scaled(value: float, scale: Scale) -> str:
    # Rounding to three digits may reach the next unit: 999.9 µs is 1 ms.
    factor, unit = next((step for step in scale if value >= 0.9995 * step[0]), scale[-1])
    return f"{format_number(value / factor)} {unit}"
