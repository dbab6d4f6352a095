"""The registry of backends: a factory for each name, and the choice that "auto" makes.

    choose(name, executor) --> Choice: the name of a backend, and why "auto" skipped those before it
    make_backend(name) ------> Backend: makes the spawners of one executor
    unavailable_reasons() ---> for each backend why it cannot be used here, or None

A backend is imported when it is asked for. To add one, see the docstring of `pympipool.backends`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from pympipool._util.reprs import did_you_mean
from pympipool.backends.base import Backend
from pympipool.backends.local.backend import LocalBackend

__all__ = ["AUTO_ORDER", "BACKENDS", "Choice", "choose", "make_backend", "unavailable_reasons"]


def _flux_backend() -> Backend:
    from pympipool.backends.flux.backend import FluxBackend

    return FluxBackend()


def _slurm_backend() -> Backend:
    from pympipool.backends.slurm.backend import SlurmBackend

    return SlurmBackend()


def _serial_backend() -> Backend:
    from pympipool.backends.serial import SerialBackend

    return SerialBackend()


def _why_not_flux() -> str | None:
    from pympipool.backends.flux.backend import unavailable_reason

    return unavailable_reason()


def _why_not_slurm() -> str | None:
    from pympipool.backends.slurm.backend import unavailable_reason

    return unavailable_reason()


BACKENDS: dict[str, Callable[[], Backend]] = {
    "flux": _flux_backend,
    "slurm": _slurm_backend,
    "mpi": LocalBackend,
    "serial": _serial_backend,
}

AUTO_ORDER: dict[str, Callable[[], str | None]] = {
    "flux": _why_not_flux,
    "slurm": _why_not_slurm,
    "mpi": lambda: None,
}
"""The backends that "auto" tries, in this order, each with the function that returns why it cannot be used here."""


def unavailable_reasons() -> dict[str, str | None]:
    """Return for each backend that "auto" tries, in its order, why it cannot be used here. None: it can be used.

    Examples:
        >>> unavailable_reasons()["mpi"] is None
        True
    """
    return {name: unavailable_reason() for name, unavailable_reason in AUTO_ORDER.items()}


class Choice(NamedTuple):
    """A backend that was chosen.

    Attributes:
        name: The name of the backend.
        skipped: Why "auto" skipped each backend that it would have preferred, by name. Empty if it skipped none.
    """

    name: str
    skipped: dict[str, str]


def choose(name: str, executor: Any = None) -> Choice:
    """Return the backend that a name stands for.

    Args:
        name: The name of a backend, or "auto".
        executor: The FluxExecutor that the user has given, or None. With one, "auto" takes flux.

    Raises:
        TypeError: name is not a string, or executor is not a FluxExecutor.
        ValueError: There is no such backend.
    """
    known = ["auto", *BACKENDS]
    if not isinstance(name, str):
        raise TypeError(f"backend is {name!r}; it must be one of {', '.join(map(repr, known))}")
    if name == "auto":
        if executor is None:
            return _choose_automatically()
        from pympipool.backends.flux.backend import check_executor

        check_executor(executor)
        name = "flux"
    if name == "local":
        warnings.warn(
            "backend='local' is a name of pympipool 0.8; write backend='mpi'", DeprecationWarning, stacklevel=4
        )
        name = "mpi"
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; it can be {', '.join(map(repr, known))}{did_you_mean(name, known)}")
    return Choice(name, {})


def _choose_automatically() -> Choice:
    skipped: dict[str, str] = {}
    for name, unavailable_reason in AUTO_ORDER.items():
        reason = unavailable_reason()
        if reason is None:
            return Choice(name, skipped)
        skipped[name] = reason
    raise AssertionError("the backend of this machine is always available")


def make_backend(name: str) -> Backend:
    """Return a new backend for a name (see `choose`).

    Raises:
        TypeError: name is not a string.
        ValueError: There is no such backend.
        WorkerStartError: Software that the backend needs is not available.
    """
    return BACKENDS[choose(name).name]()
