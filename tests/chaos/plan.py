"""The sequence of blows of a run: a pure function of the seed, the duration and the kinds that are wanted.

Whatever the program under test does meanwhile, the same seed gives the same blows in the same order, at the same times
after the start. Only the process that a blow hits depends on which processes there are: `choice` selects it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

WEIGHTS = {
    "kill": 6.0,
    "stop": 3.0,
    "interrupt": 3.0,
    "interrupt twice": 1.0,
    "suspend script": 0.5,
    "few descriptors": 0.7,
    "little memory": 0.7,
    "reader stalls": 0.7,
}
"""Kinds of blows, with how often each of them comes."""

ROLES = {
    "worker": 4.0,
    "rank": 2.0,
    "forked worker": 2.0,
    "fork server": 1.0,
    "mpiexec": 0.5,
    "proxy": 0.5,
    "relay": 0.5,
}
"""Roles of the processes that are killed or stopped, with how often each of them is hit (see `processes.role_of`)."""

LONGEST_S = {"stop": 6.0, "suspend script": 5.0, "few descriptors": 5.0, "little memory": 3.0, "reader stalls": 5.0}
"""Maximum duration of the blows that last."""


@dataclass(frozen=True)
class Blow:
    """One blow.

    Attributes:
        at_s: Seconds after the start of the run.
        kind: A key of WEIGHTS.
        role: A key of ROLES for "kill" and "stop", otherwise empty.
        choice: Selects one of several possible targets, or the size of a shortage; 0 to 1.
        lasts_s: Seconds until it is undone, or between two interrupts; 0 for a kill.
        spares_young: True to hit only processes that have lived for a while. Otherwise MPI workers would never get old.
    """

    at_s: float
    kind: str
    role: str
    choice: float
    lasts_s: float
    spares_young: bool


def plan(seed: int, seconds: float, pause_s: float, kinds: list[str], roles: list[str]) -> list[Blow]:
    """Return the blows of a run, in order of time.

    Args:
        seed: Any integer.
        seconds: Duration of the run.
        pause_s: Mean time between two blows.
        kinds: Keys of WEIGHTS.
        roles: Keys of ROLES.
    """
    chance = random.Random(seed)
    blows = []
    at_s = 2.0  # the first processes start
    while kinds:
        at_s += chance.expovariate(1 / pause_s)
        if at_s >= seconds:
            break
        kind = _one_of(WEIGHTS, kinds, chance.random())
        role = _one_of(ROLES, roles, chance.random())
        lasts_s = LONGEST_S.get(kind, 0.3) * chance.random() ** 2  # mostly short
        choice, young = chance.random(), chance.random()
        hits_process = kind in {"kill", "stop"}
        blows.append(
            Blow(at_s, kind, role if hits_process else "", choice, 0.0 if kind == "kill" else lasts_s, young < 0.8)
        )
    return blows


def _one_of(weights: dict[str, float], names: list[str], number: float) -> str:
    """Return one of the names, selected by a number from 0 to 1."""
    rest = number * sum(weights[name] for name in names)
    for name in names:
        rest -= weights[name]
        if rest < 0:
            return name
    return names[-1]
