"""The places where workers can be, and the tests that run with each of them.

Modules marked `anywhere` hold wherever workers are: each of their tests that makes an executor runs once for each
place that is wanted. `only_at` says why a test in such a module runs with some of the places only.

    place              wanted
    this machine       always, with and without block allocation; on Windows no other
    tcp                always: on this machine, but reached as if they were on another host
    slurm              PYMPIPOOL_TEST_SLURM=all
    second host        PYMPIPOOL_TEST_SLURM=part or all: SLURM again, on another host than the master's
    flux one broker    wherever the program `flux` is; likewise the next two
    flux two brokers
    flux over tcp

With `part`, as in `.ci/run`, each test runs with all of its parameters on this machine, with block allocation. With a process
for each call, over tcp and on the second host it runs with the first ones only.

Away from this machine there is block allocation only: a thousand jobs or steps would take a scheduler many minutes.
The tests in tests/slurm and tests/flux_framework have the calls that get one each.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pympipool._util.platform import IS_WINDOWS
from pympipool.backends.registry import BACKENDS
from support.slurm_cluster import WANTED, everything_is_wanted

THIS_MACHINE = "this machine"
SLURM = {"": [], "part": ["second host"], "all": ["slurm", "second host"]}
"""The places with SLURM, by the value of PYMPIPOOL_TEST_SLURM."""
FLUX = ["flux one broker", "flux two brokers", "flux over tcp"]

KINDS = {
    THIS_MACHINE: [THIS_MACHINE],
    "tcp": ["tcp"],
    "slurm": SLURM["all"],
    "flux": FLUX,
}
"""The places that a name in the marker `only_at` stands for."""

SCHEDULER_TIMEOUT_S = 300
MODE_IDS = {True: "block_allocation", False: "process_per_call"}


def wanted_places() -> list[str]:
    """Return the places that tests run with here, this machine first."""
    if IS_WINDOWS:
        return [THIS_MACHINE]
    slurm = os.environ.get(WANTED, "")
    if slurm not in SLURM:
        raise pytest.UsageError(f"{WANTED} is {slurm!r}; it can be {', '.join(filter(None, SLURM))}")
    return [THIS_MACHINE, "tcp", *SLURM[slurm], *(FLUX if shutil.which("flux") else [])]


def parametrize_places(metafunc: pytest.Metafunc) -> None:
    """Let a test of a module marked `anywhere` run with each wanted place.

    Must come before pytest reads the marks of the test.
    """
    anywhere = metafunc.definition.get_closest_marker("anywhere")
    if anywhere is None or "where_workers_are" not in metafunc.fixturenames:
        return
    only_at = metafunc.definition.get_closest_marker("only_at")
    allowed = {place for kind in (only_at.args if only_at else KINDS) for place in KINDS[kind]}
    places = [place for place in wanted_places() if place in allowed]
    if "block_allocation" not in metafunc.fixturenames:
        names = "where_workers_are"
        cases = [pytest.param(place, id=place, marks=marks_of(place)) for place in places]
    else:
        names = "where_workers_are, block_allocation"
        modes = anywhere.kwargs.get("block_allocation", list(MODE_IDS))
        cases = [pytest.param(THIS_MACHINE, mode, id=MODE_IDS[mode]) for mode in modes if THIS_MACHINE in places]
        cases += [
            pytest.param(place, True, id=place, marks=marks_of(place)) for place in places if place != THIS_MACHINE
        ]
    metafunc.definition.add_marker(pytest.mark.parametrize(names, cases, indirect=True, scope="module"))


def repeat_less(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one of the parameter sets of each test for each further place or mode, if only a part is wanted."""
    if os.environ.get(WANTED) != "part":
        return
    seen, kept, repeated = set(), [], []
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        where = parameters.get("where_workers_are"), parameters.get("block_allocation")
        test = item.nodeid.partition("[")[0], where
        is_first_place = where[0] in (None, THIS_MACHINE) and where[1] in (None, True)
        (repeated if test in seen and not is_first_place else kept).append(item)
        seen.add(test)
    if repeated:
        config.hook.pytest_deselected(items=repeated)
        items[:] = kept


def marks_of(place: str) -> list[pytest.MarkDecorator]:
    for kind in ("slurm", "flux"):
        if place in KINDS[kind]:
            return [getattr(pytest.mark, kind), pytest.mark.timeout(SCHEDULER_TIMEOUT_S)]
    return []


@contextmanager
def workers_at(place: str, request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    """Yield the parameters of executors whose workers are at this place."""
    with pytest.MonkeyPatch.context() as patch:
        if place == "tcp":
            from support.loopback_tcp import LoopbackTcpBackend

            patch.setitem(BACKENDS, "tcp", LoopbackTcpBackend)
            yield {"backend": "tcp"}
        elif place in KINDS["slurm"]:
            yield from _workers_of_slurm(place, request.getfixturevalue("running_cluster"), patch)
        elif place in KINDS["flux"]:
            brokers = "one_broker" if place == "flux one broker" else "two_brokers"
            yield from _workers_of_flux(place, request.getfixturevalue(f"running_{brokers}"), patch)
        else:
            yield {}


def _workers_of_slurm(place, cluster, patch):
    patch.setenv("SLURM_CONF", cluster.conf)
    cluster.repair()
    host = cluster.first if place == "slurm" else cluster.second
    if host is None and not everything_is_wanted():
        host = cluster.first  # rather than none of these tests
    if host is None:
        pytest.skip(f"one host only: {cluster.why_no_second}")
    job = cluster.allocate()
    patch.setenv("SLURM_JOB_ID", job)
    yield {"backend": "slurm", "command_line_argument_lst": [f"--nodelist={host}"]}
    cluster.run("scancel", job)
    assert cluster.wait_until_empty() == ""


def _workers_of_flux(place, instance, patch):
    from support.loopback_tcp import FluxOverTcp

    patch.setenv("FLUX_URI", instance.uri)
    patch.setitem(BACKENDS, "flux over tcp", FluxOverTcp)
    yield {"backend": "flux over tcp" if place == "flux over tcp" else "flux"}
    assert instance.wait_until_empty() == []
