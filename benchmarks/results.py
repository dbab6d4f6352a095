"""Stores measurements, in a file for each case.

An interrupted run can be resumed, and the page is made from all stored files. Each case has its own date.
"""

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
"""Name of the file for the measurement of the ring alone, beside the names of the cases."""


@dataclass(frozen=True)
class Conditions:
    """The conditions of one measurement. The names of the fields are keys in the files.

    Args:
        date: start of the measurement, UTC, ISO 8601.
        duration_s: duration of the measurement.
        busy: share of all cores that other programs used before the measurement began: 0 to 1.
        effort: effort of the measurement; None in files that do not record it.
        machine: the result of `machine.description`.
    """

    date: str
    duration_s: float
    busy: float
    effort: Effort | None
    machine: dict[str, str]

    @property
    def age_h(self) -> float:
        start = dt.datetime.fromisoformat(self.date)
        return (dt.datetime.now(dt.timezone.utc) - start).total_seconds() / 3600


class Results:
    """A folder of stored measurements.

    Args:
        folder: path of the folder; it is created when a measurement is saved.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, comparison: Comparison, conditions: Conditions) -> None:
        self._write(
            comparison.case.name,
            conditions,
            samples=comparison.samples,
            absent=comparison.not_measured,  # this key is a part of the file format
            failed=comparison.failed,
        )

    def save_ring(self, table: RingTable, conditions: Conditions) -> None:
        self._write(RING, conditions, table=table)

    def comparisons(self) -> Iterator[tuple[Comparison, Conditions]]:
        """Yield the stored comparisons, in the order of the cases."""
        for case in CASES:
            stored = self._read(case.name)
            if stored is not None:
                yield _comparison(case, stored), _conditions(stored)

    def ring(self) -> tuple[RingTable, Conditions] | None:
        stored = self._read(RING)
        return stored and ([tuple(row) for row in stored["table"]], _conditions(stored))

    def was_measured_within(self, name: str, hours: float) -> bool:
        """Return True if a case, or the ring, was measured within the last so many hours."""
        stored = self._read(name)
        return stored is not None and _conditions(stored).age_h < hours

    def _write(self, name: str, conditions: Conditions, **measured: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**asdict(conditions), **measured}, indent=1, ensure_ascii=False)
        part = self._path(name).with_suffix(".part")
        part.write_text(_numbers_in_one_line(text) + "\n")
        part.replace(self._path(name))  # a run that is interrupted before this leaves the old file intact

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            stored: dict[str, Any] = json.loads(self._path(name).read_text())
        except FileNotFoundError:
            return None
        return stored

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _numbers_in_one_line(text: str) -> str:
    """Put each list of numbers on one line, for readability."""
    return re.sub(r"\[\s+([-\d.,\seE]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def _conditions(stored: dict[str, Any]) -> Conditions:
    effort = stored["effort"] and Effort(**stored["effort"])
    return Conditions(stored["date"], stored["duration_s"], stored["busy"], effort, stored["machine"])


def _comparison(case: Case, stored: dict[str, Any]) -> Comparison:
    samples = {peer: [tuple(sample) for sample in of_peer] for peer, of_peer in stored["samples"].items()}
    return Comparison(case, samples, stored["absent"], stored["failed"])
