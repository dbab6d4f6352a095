"""The master's memory, descriptors and threads once a second: a table, small curves as text, and whether they stay.

Memory goes up and down with the calls. What must not rise is the floor, the smallest value of a part of the run.

memory_mb     without what the buffer pool has offered to the system (MADV_FREE)
heap_mb       without the memory of large arrays and messages: the buffer pool keeps up to 8 of them
resident_mb   all of it, as `ps` shows it

What malloc keeps of freed memory is in none of them: the master gives it back each second (`master.give_memory_back`).
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
import statistics
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

WARM_UP_S = 120.0
"""Time in which memory still grows: modules are imported, caches fill, workers of all kinds start for the first time."""

FLOOR_S = 15.0
"""Length of the parts of a run whose floors show whether memory creeps."""

FLOORS_MIN = 10
"""Number of floors below which that is not judged."""

MOST_CREEP_MB = 4.0
"""How much the floor may rise from the end of the warm-up to the end, along the line through all floors."""


@dataclass
class Sample:
    """The state of the master at one moment, and the number of living processes of the run."""

    seconds: float
    memory_mb: float
    heap_mb: float
    resident_mb: float
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
            memory_kb, heap_kb = self._memory_kb()
            self.samples.append(
                Sample(
                    round(time.monotonic() - self._begin_s, 1),
                    round(memory_kb / 1024, 1),
                    round(heap_kb / 1024, 1),
                    round(int(status["VmRSS"].split(maxsplit=1)[0]) / 1024, 1),
                    len(os.listdir(self._folder / "fd")),
                    int(status["Threads"]),
                    processes,
                )
            )
            return self.samples[-1]
        return None

    def _memory_kb(self) -> tuple[int, int]:
        """Return the memory of all mappings, and of those for which no huge pages were requested."""
        memory_kb = heap_kb = mapping_kb = 0
        for line in (self._folder / "smaps").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "Rss":
                mapping_kb = int(rest.split(maxsplit=1)[0])
            elif name == "LazyFree":
                mapping_kb -= int(rest.split(maxsplit=1)[0])
            elif name == "VmFlags":  # the last line of a mapping
                memory_kb += mapping_kb
                heap_kb += 0 if "hg" in rest.split() else mapping_kb
        return memory_kb, heap_kb

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
        creep_mb = self.creep_mb()
        if creep_mb is not None and creep_mb > MOST_CREEP_MB:
            complaints.append(
                f"GROWN: memory creeps: its floor has risen by {creep_mb:.1f} MB after the first {WARM_UP_S:g} s"
            )
        return complaints

    def creep_mb(self) -> float | None:
        """Return by how much the floor of the heap has risen since the warm-up; None if the run was too short for that.

        The slope is the median of the slopes between all pairs of floors: single large arrays do not change it.
        """
        floors: dict[int, float] = {}
        for sample in self.samples:
            part = int((sample.seconds - WARM_UP_S) // FLOOR_S)
            if part >= 0:
                floors[part] = min(sample.heap_mb, floors.get(part, sample.heap_mb))
        if len(floors) < FLOORS_MIN:
            return None
        slopes = [(floors[b] - floors[a]) / (b - a) for a, b in itertools.combinations(sorted(floors), 2)]
        return statistics.median(slopes) * (max(floors) - min(floors))

    def floors(self, name: str) -> tuple[float, float]:
        """Return the smallest value of the second quarter and of the last one."""
        values = self._values(name)
        quarter = max(len(values) // 4, 1)
        return min(values[quarter : 2 * quarter] or values), min(values[-quarter:])

    def _values(self, name: str) -> list[float]:
        return [getattr(sample, name) for sample in self.samples]
