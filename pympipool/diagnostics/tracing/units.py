"""Numbers as one reads them."""

from __future__ import annotations


def time_text(time_ns: float) -> str:
    """A time with three digits and its unit.

    Examples:
        >>> [time_text(time) for time in (0, 12, 4_560, 7_890_000, 1_230_000_000, 4_000_000_000_000)]
        ['0', '12 ns', '4.56 µs', '7.89 ms', '1.23 s', '1 h 7 min']
    """
    if time_ns <= 0:
        return "0"
    minutes = round(time_ns / 60e9)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    if time_ns >= 600e9:
        return f"{minutes} min"
    for size, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")):
        if time_ns >= 0.9995 * size or unit == "ns":
            return f"{_three_digits(time_ns / size)} {unit}"
    raise AssertionError(time_ns)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"


def share_text(share: float) -> str:
    """A part of the whole, in percent.

    Examples:
        >>> [share_text(share) for share in (0, 0.001, 0.056, 1)]
        ['0 %', '<1 %', '6 %', '100 %']
    """
    if 0 < share < 0.005:
        return "<1 %"
    return f"{100 * share:.0f} %"


def count_text(count: int, what: str) -> str:
    """So many of something.

    Examples:
        >>> count_text(1, "call"), count_text(12_345, "call")
        ('1 call', '12 345 calls')
    """
    return f"{count:,}".replace(",", " ") + f" {what}" + ("" if count == 1 else "s")
