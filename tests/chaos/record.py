"""The master's memory, descriptors and threads once a second: a table, small curves as text, and whether they stay.

Memory goes up and down with the calls. What must not rise is the floor, the smallest value of a part of the run.
"""

from __future__ import annotations

import contextlib
import csv
import os
import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path

SAMPLE_S = 1.0
BARS = "▁▂▃▄▅▆▇█"
COLUMNS = 72

ALLOWED_GROWTH = {"memory_mb": (1.25, 40.0), "descriptors": (1.0, 16.0), "threads": (1.0, 8.0)}
"""How much higher the floor of the last part may be than that of the first: a factor and a number that is added."""

SHORTEST = 40
"""Number of samples below which growth is not judged."""


@dataclass
class Sample:
    """The state of the master at one moment, and the number of living processes of the run."""

    seconds: float
    memory_mb: float
    descriptors: int
    threads: int
    processes: int


class Record:
    """The samples of a run.

    Args:
        pid: Of the master.
    """

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._begin_s = time.monotonic()
        self._next_s = 0.0
        self.samples: list[Sample] = []

    def is_due(self) -> bool:
        """Return True if a second has passed since the last sample."""
        return time.monotonic() >= self._next_s

    def take(self, processes: int) -> Sample | None:
        """Add a sample and return it; None if the master has ended."""
        self._next_s = time.monotonic() + SAMPLE_S
        with contextlib.suppress(OSError, KeyError, ValueError):
            lines = (self._folder / "status").read_text().splitlines()
            status = dict(line.split(":", 1) for line in lines)
            self.samples.append(
                Sample(
                    round(time.monotonic() - self._begin_s, 1),
                    round(int(status["VmRSS"].split()[0]) / 1024, 1),
                    len(os.listdir(self._folder / "fd")),
                    int(status["Threads"]),
                    processes,
                )
            )
            return self.samples[-1]
        return None

    def write(self, path: Path) -> None:
        """Write all samples as a table."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(field.name for field in fields(Sample))
            writer.writerows(astuple(sample) for sample in self.samples)

    def curves(self) -> str:
        """Return a curve of each column as text."""
        return "\n".join(self._curve(field.name) for field in fields(Sample)[1:]) if self.samples else "no samples"

    def _curve(self, name: str) -> str:
        values = self._values(name)
        columns = min(COLUMNS, len(values))
        parts = [values[len(values) * i // columns : len(values) * (i + 1) // columns] for i in range(columns)]
        means = [sum(part) / len(part) for part in parts]
        top = max(means) or 1.0
        bars = "".join(BARS[min(int(mean / top * len(BARS)), len(BARS) - 1)] for mean in means)
        return f"{name:>12} {min(values):6g} to {max(values):6g}  {bars}"

    def growth(self) -> list[str]:
        """Return a complaint for each column whose floor has risen."""
        if len(self.samples) < SHORTEST:
            return []
        complaints = []
        for name, (factor, addition) in ALLOWED_GROWTH.items():
            first, last = self.floors(name)
            if last > first * factor + addition:
                complaints.append(f"GROWN: {name} was at least {first:g} at first and {last:g} in the end")
        return complaints

    def floors(self, name: str) -> tuple[float, float]:
        """Return the smallest value of the second quarter and of the last one."""
        values = self._values(name)
        quarter = max(len(values) // 4, 1)
        return min(values[quarter : 2 * quarter] or values), min(values[-quarter:])

    def _values(self, name: str) -> list[float]:
        return [getattr(sample, name) for sample in self.samples]
