"""What was measured, kept as a file for each case: a run that was cut off goes on where it was, and the page is made
from what there is, each case with its own date."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, Case
from benchmarks.limits import RingTable
from benchmarks.rounds import Comparison
from benchmarks.samples import Effort

RING = "ring"
"""The name of what is measured of the ring alone, beside those of the cases."""


@dataclass(frozen=True)
class Circumstances:
    """Of one measurement.

    Args:
        date: of its beginning, UTC, ISO 8601.
        duration_s: what it took.
        busy: the share of all cores that something else used before it began: 0 to 1.
        effort: what was spent; None for the ring.
        machine: as from `machine.description`.
    """

    date: str
    duration_s: float
    busy: float
    effort: Effort | None
    machine: dict[str, str]

    @property
    def age_h(self) -> float:
        begun = dt.datetime.fromisoformat(self.date)
        return (dt.datetime.now(dt.timezone.utc) - begun).total_seconds() / 3600


class Results:
    """A folder of results.

    Args:
        folder: is made when something is saved.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, comparison: Comparison, circumstances: Circumstances) -> None:
        self._write(
            comparison.case.name,
            circumstances,
            samples=comparison.samples,
            absent=comparison.absent,
            failed=comparison.failed,
        )

    def save_ring(self, table: RingTable, circumstances: Circumstances) -> None:
        self._write(RING, circumstances, table=table)

    def comparisons(self) -> Iterator[tuple[Comparison, Circumstances]]:
        """Those that are there, in the order of the cases."""
        for case in CASES:
            kept = self._read(case.name)
            if kept is not None:
                yield _comparison(case, kept), _circumstances(kept)

    def ring(self) -> tuple[RingTable, Circumstances] | None:
        kept = self._read(RING)
        return kept and ([tuple(row) for row in kept["table"]], _circumstances(kept))

    def is_younger(self, name: str, hours: float) -> bool:
        """Whether a case, or the ring, was measured within so many hours."""
        kept = self._read(name)
        return kept is not None and _circumstances(kept).age_h < hours

    def _write(self, name: str, circumstances: Circumstances, **measured: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**asdict(circumstances), **measured}, indent=1, ensure_ascii=False)
        part = self._path(name).with_suffix(".part")
        part.write_text(_numbers_in_one_line(text) + "\n")
        part.replace(self._path(name))  # a run that ends here leaves the old one whole

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            kept: dict[str, Any] = json.loads(self._path(name).read_text())
        except FileNotFoundError:
            return None
        return kept

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _numbers_in_one_line(text: str) -> str:
    """Lists of numbers are for one look."""
    return re.sub(r"\[\s+([-\d.,\seE]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def _circumstances(kept: dict[str, Any]) -> Circumstances:
    effort = kept["effort"] and Effort(**kept["effort"])
    return Circumstances(kept["date"], kept["duration_s"], kept["busy"], effort, kept["machine"])


def _comparison(case: Case, kept: dict[str, Any]) -> Comparison:
    samples = {peer: [tuple(sample) for sample in of_peer] for peer, of_peer in kept["samples"].items()}
    return Comparison(case, samples, kept["absent"], kept["failed"])
