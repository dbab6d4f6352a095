"""Asks the flux broker if flux can be used here, and how large the instance is.

Three things are needed: flux's Python bindings, a broker that answers, and the services of the broker. A broker that
has just started does not know its services yet.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import json
import os
import socket
import sys
import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pympipool.errors import WorkerStartError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pympipool.backends.flux.duration import DurationLimits

T = TypeVar("T")

BROKER_TIMEOUT_S = 10.0
"""Seconds that the broker may take to answer. A broker that has just started does not know all of its services at
first."""

RETRY_DELAY_S = 0.05
"""Pause before a service is asked again that the broker does not know yet."""

BYPASS = "alloc-bypass.so"
"""The plugin of flux-core with which a job names its resources itself, and the scheduler is not asked."""

INSTALL_HINT = "flux-core brings them: conda install -c conda-forge flux-core, or spack install flux-core"

REMEDY = (
    "start the script with `flux start python script.py` (in a job of SLURM: `srun flux start python script.py`), or use"
    " backend='mpi' for this machine alone"
)


class Size(NamedTuple):
    """The resources of a flux instance, without the hosts that are down.

    Attributes:
        hosts: The names of the hosts in flux's notation, such as "node[1-3]".
        durations: The times that its queues allow.
        names: The names of the hosts, in the order of their ranks.
        resources: What each rank has (flux RFC 20).
    """

    cores: int
    gpus: int
    hosts: str
    durations: DurationLimits
    names: tuple[str, ...]
    resources: dict[str, Any]


def unavailable_reason(timeout_s: float = BROKER_TIMEOUT_S) -> str | None:
    """Return why flux cannot be used here, or None if its bindings can be imported and a broker takes jobs."""
    size = _probe(timeout_s)
    return size if isinstance(size, str) else None


def size_of_instance() -> Size:
    """Return the size of the flux instance that can be reached.

    Raises:
        WorkerStartError: flux cannot be used; tells why, and what to do.
    """
    size = _probe(BROKER_TIMEOUT_S)
    if isinstance(size, str):
        raise WorkerStartError(f"backend 'flux' cannot be used: {size}; {REMEDY}")
    return size


def _probe(timeout_s: float) -> Size | str:
    """Return the size of the instance, or why flux cannot be used here."""
    return _missing_bindings_reason() or _ask_broker(timeout_s)


def _missing_bindings_reason() -> str | None:
    if importlib.util.find_spec("flux") is None:
        return f"flux's Python bindings are not installed for {sys.executable}; {INSTALL_HINT}"
    try:
        importlib.import_module("flux.job")
    except ModuleNotFoundError as error:
        name = error.name or ""
        if name.partition(".")[0] in ("flux", "_flux"):
            return f"the module flux that {sys.executable} finds is not that of flux-core ({error}); {INSTALL_HINT}"
        return f"flux's Python bindings need the module {name!r}, which is not installed: pip install {name}"
    except ImportError as error:
        return (
            f"flux's Python bindings are installed, but not the flux-core that they belong to ({error}); {INSTALL_HINT}"
        )
    return None


def _ask_broker(timeout_s: float) -> Size | str:
    """Return the size of the instance, or why there is none."""
    answers = _in_thread(_ask, timeout_s)
    return answers[0] if answers else f"the flux broker does not answer within {timeout_s:g} s"


def _in_thread(ask: Callable[[float], T], timeout_s: float) -> list[T]:
    """Return what ask(deadline) returns, alone in a list; an empty list if it does not return in time.

    A thread asks, and is abandoned when the broker does not answer.
    """
    answers: list[T] = []
    deadline = monotonic() + timeout_s
    thread = threading.Thread(target=lambda: answers.append(ask(deadline)), name="pympipool_flux_probe", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answers[:1]


def _ask(deadline: float) -> Size | str:
    import flux
    from flux.resource import resource_list

    from pympipool.backends.flux.duration import DurationLimits  # only here, as most machines have no flux

    try:
        handle = flux.Flux()
        _wait_for_service(handle, "job-ingest", deadline)
        _wait_for_service(handle, "job-info", deadline)
        resources = resource_list(handle).get()
        durations = DurationLimits(_configuration(handle), float(resources.all.expiration))
        up = resources.up
        names, of_ranks = tuple(map(str, up.nodelist)), json.loads(up.encode())
        return Size(int(up.ncores), int(up.ngpus), str(up.nodelist), durations, names, of_ranks)
    except OSError as error:
        return f"no flux instance can be reached ({error.strerror or error})"


def _configuration(handle: Any) -> dict[str, Any]:
    """Return the configuration of the instance; an empty one if flux does not tell."""
    try:
        configuration: dict[str, Any] = handle.rpc("config.get").get()
    except OSError:
        return {}
    return configuration


def _wait_for_service(handle: Any, name: str, deadline: float) -> None:
    """Wait until a broker that has just started knows this service."""
    while True:
        try:
            handle.rpc(f"{name}.ping", {"seq": 0, "pad": ""}).get()
            return
        except OSError as error:
            if error.errno != errno.ENOSYS:
                return  # the service exists, and refuses to be asked
            if monotonic() + RETRY_DELAY_S > deadline:
                raise
        sleep(RETRY_DELAY_S)


def is_on_one_host() -> bool:
    """Return True if the whole instance is one broker on this host, in this process's network.

    Then no worker can be on another host. On another host, a process of this one may have the number of the broker.
    """
    import flux

    try:
        handle = flux.Flux()
        if handle.attr_get("size") != "1" or handle.attr_get("hostname") != socket.gethostname():
            return False
        return os.path.samefile("/proc/self/ns/net", f"/proc/{handle.attr_get('broker.pid')}/ns/net")
    except OSError:
        return False


def can_bypass_scheduler(timeout_s: float = BROKER_TIMEOUT_S) -> bool:
    """Return True if this process may start jobs that take no cores from others.

    A plugin of flux allows that to the owner of an instance; it is loaded here. A process that is itself a job of the
    instance shares it with others, and leaves the counting to flux.
    """
    return "FLUX_JOB_ID" not in os.environ and _in_thread(_load_bypass, timeout_s) == [True]


def _load_bypass(_deadline: float) -> bool:
    import flux

    try:
        handle = flux.Flux()
        if handle.attr_get("security.owner") != str(os.getuid()):
            return False
        handle.rpc("job-manager.jobtap", {"load": BYPASS}).get()
    except FileExistsError:
        pass  # it is loaded already
    except OSError:
        return False
    return True
