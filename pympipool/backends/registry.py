"""The registry of backends: a factory for each name, and the choice that "auto" makes.

    choose(name, executor) --> Choice: the name of a backend, and why "auto" skipped those before it
    make_backend(name) ------> Backend: makes the spawners of one executor
    unavailable_reasons() ---> for each backend why it cannot be used here, or None

A backend is imported when it is asked for. To add one, see the docstring of `pympipool.backends`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pympipool._util.platform import need_unix
from pympipool._util.reprs import did_you_mean
from pympipool.backends.base import Backend
from pympipool.backends.local.backend import LocalBackend

if TYPE_CHECKING:
    from pympipool.resources import Host

__all__ = ["AUTO_ORDER", "BACKENDS", "Choice", "choose", "make_backend", "unavailable_reasons"]


JOB_BACKENDS = ("pbs", "lsf", "gridengine")
"""The backends of jobs whose hosts the environment tells (see `hosts/schedulers.py`)."""


def _flux_backend() -> Backend:
    from pympipool.backends.flux.backend import FluxBackend

    return FluxBackend()


def _slurm_backend() -> Backend:
    from pympipool.backends.slurm.backend import SlurmBackend

    return SlurmBackend()


def _serial_backend() -> Backend:
    from pympipool.backends.serial import SerialBackend

    return SerialBackend()


def _ssh_backend(hosts: Sequence[Host] | None = None, arguments: Sequence[str] = ()) -> Backend:
    from pympipool.backends.hosts.backend import ssh_backend

    return ssh_backend(hosts, arguments)


def _job_backend(name: str) -> Backend:
    from pympipool.backends.hosts.backend import job_backend
    from pympipool.backends.hosts.schedulers import SCHEDULERS

    return job_backend(SCHEDULERS[name])


def _why_not_job(name: str) -> str | None:
    from pympipool.backends.hosts.schedulers import SCHEDULERS

    return SCHEDULERS[name].unavailable_reason(os.environ)


def _why_not_flux() -> str | None:
    from pympipool.backends.flux.backend import unavailable_reason

    return unavailable_reason()


def _why_not_slurm() -> str | None:
    from pympipool.backends.slurm.backend import unavailable_reason

    return unavailable_reason()


BACKENDS: dict[str, Callable[[], Backend]] = {
    "flux": _flux_backend,
    "slurm": _slurm_backend,
    **{name: partial(_job_backend, name) for name in JOB_BACKENDS},
    "ssh": _ssh_backend,
    "mpi": LocalBackend,
    "serial": _serial_backend,
}

AUTO_ORDER: dict[str, Callable[[], str | None]] = {
    "flux": _why_not_flux,
    "slurm": _why_not_slurm,
    **{name: partial(_why_not_job, name) for name in JOB_BACKENDS},
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


_OF_WINDOWS = ("mpi", "serial")
"""Backends that need neither other hosts nor descriptors that travel over sockets."""


def choose(name: str, executor: Any = None, hosts: Sequence[Host] | None = None) -> Choice:
    """Return the backend that a name stands for.

    Args:
        name: The name of a backend, or "auto".
        executor: The FluxExecutor that the user has given, or None. With one, "auto" takes flux.
        hosts: The hosts that the user has named, or None. With them, "auto" takes ssh.

    Raises:
        TypeError: name is not a string, or executor is not a FluxExecutor.
        ValueError: There is no such backend.
    """
    known = ["auto", *BACKENDS]
    if not isinstance(name, str):
        raise TypeError(f"backend is {name!r}; it must be one of {', '.join(map(repr, known))}")
    if hosts is not None and (executor is not None or name not in ("auto", "ssh")):
        other = "executor is a FluxExecutor" if executor is not None else f"backend is {name!r}"
        raise ValueError(
            f"hosts is {[host.name for host in hosts]}, and {other}; only backend 'ssh' takes hosts: leave one of the two out"
        )
    if name == "auto":
        if hosts is not None:
            need_unix(f"hosts is {[host.name for host in hosts]}")
            return Choice("ssh", {})
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
    if name in BACKENDS and name not in _OF_WINDOWS:
        need_unix(f"backend is {name!r}")
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


def make_backend(name: str, hosts: Sequence[Host] | None = None, arguments: Sequence[str] = ()) -> Backend:
    """Return a new backend for a name (see `choose`).

    Args:
        name: The name.
        hosts: The hosts of backend "ssh".
        arguments: The options of its ssh.

    Raises:
        TypeError: name is not a string.
        ValueError: There is no such backend.
        WorkerStartError: Software that the backend needs is not available.
    """
    name = choose(name, hosts=hosts).name
    return _ssh_backend(hosts, arguments) if hosts is not None else BACKENDS[name]()
