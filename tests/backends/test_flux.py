"""What can be told of backend "flux" without flux: the jobspecs that requests make, and what is said where something is missing.

With a real flux: tests/flux_framework.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pympipool
from pympipool import Executor
from pympipool.backends.flux import spawner
from pympipool.backends.flux.spawner import make_jobspec, pmi_of, why_no_flux
from pympipool.backends.mpi_library import Kind, Library
from pympipool.backends.registry import choose
from pympipool.errors import WorkerStartError
from pympipool.flux import PyFluxExecutor
from pympipool.resources import Resources

SOURCE = str(Path(pympipool.__file__).parents[1])


def jobspec(resources, **parameters):
    options = {"name": "pympipool-1", "environment": {"HOME": "/home/me"}, "cwd": "/work", **parameters}
    return make_jobspec(resources, ["python", "-c", "pass"], **options)


def golden(count, needs, options):
    return {
        "version": 1,
        "resources": [{"type": "slot", "count": count, "with": needs, "label": "task"}],
        "tasks": [{"command": ["python", "-c", "pass"], "slot": "task", "count": {"per_slot": 1}}],
        "attributes": {
            "system": {
                "duration": 0,
                "cwd": "/work",
                "environment": {"HOME": "/home/me"},
                "job": {"name": "pympipool-1"},
                "shell": {"options": {"input": {"stdin": {"type": "file", "path": "/dev/null"}}, **options}},
            }
        },
    }


CORE = {"type": "core", "count": 1}

GOLDEN = [
    pytest.param({}, golden(1, [CORE], {}), id="one core"),
    pytest.param({"cores": 4}, golden(4, [CORE], {"exit-on-error": 1}), id="ranks"),
    pytest.param({"threads_per_core": 3}, golden(1, [{"type": "core", "count": 3}], {}), id="threads"),
    pytest.param(
        {"gpus_per_core": 2},
        golden(1, [CORE, {"type": "gpu", "count": 2}], {"gpu-affinity": "per-task"}),
        id="devices",
    ),
    pytest.param(
        {"cores": 2, "threads_per_core": 4, "gpus_per_core": 1},
        golden(
            2,
            [{"type": "core", "count": 4}, {"type": "gpu", "count": 1}],
            {"gpu-affinity": "per-task", "exit-on-error": 1},
        ),
        id="all at once",
    ),
    pytest.param({"run_time_max": 5.0, "restart_limit": 2}, golden(1, [CORE], {}), id="what is not flux's business"),
]


@pytest.mark.parametrize(("parameters", "expected"), GOLDEN)
def test_a_request_makes_this_jobspec(parameters, expected):
    assert jobspec(Resources(**parameters)) == expected


def test_the_pmi_is_an_option_of_the_shell():
    options = jobspec(Resources(cores=2), pmi="pmix")["attributes"]["system"]["shell"]["options"]
    assert options["pmi"] == "pmix"


def test_what_is_not_utf_8_in_the_environment_is_left_out():
    environment = {"A": "\udcff", "\udcff": "b", "C": "ƒ"}
    made = jobspec(Resources(), environment=environment)
    assert made["attributes"]["system"]["environment"] == {"C": "ƒ"}
    json.dumps(made).encode()


@pytest.mark.parametrize(
    ("resources", "kind", "pmi"),
    [
        ({"cores": 1}, Kind.OPEN_MPI, None),
        ({"cores": 2}, Kind.HYDRA, None),
        ({"cores": 2}, Kind.OPEN_MPI, "pmix"),
        ({"cores": 2, "pmi_mode": "cray-pals"}, Kind.HYDRA, "cray-pals"),
        ({"cores": 1, "pmi_mode": "simple"}, Kind.HYDRA, "simple"),
    ],
)
def test_the_pmi_fits_the_library_unless_the_user_says_another(monkeypatch, resources, kind, pmi):
    version = "Open MPI v5" if kind is Kind.OPEN_MPI else "MPICH Version: 5"
    monkeypatch.setattr(spawner, "loaded_library", lambda: Library(version, ""))
    assert pmi_of(Resources(**resources)) == pmi


# ---- what is missing ----


def test_without_bindings_the_user_learns_where_to_get_them(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "conda-forge flux-core" in why_no_flux()
    for make in (lambda: Executor(max_cores=1, backend="flux"), PyFluxExecutor):
        with pytest.raises(
            WorkerStartError, match=r"backend 'flux' cannot be used: flux's Python bindings are not inst"
        ):
            make()


BROKEN = [
    ("import ply_that_nobody_has", "need the module 'ply_that_nobody_has'.*pip install ply_that_nobody_has"),
    ("raise ImportError('libflux-core.so.2: cannot open')", "not the flux-core that they belong to .libflux-core.so.2"),
    ("import flux.no_such_thing", "is not that of flux-core"),
]


@pytest.mark.parametrize(("line", "says"), BROKEN)
def test_what_the_bindings_lack_is_named(tmp_path, line, says):
    package = tmp_path / "flux"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "job.py").write_text(line)
    source = f"import sys; sys.path[:0] = {[str(tmp_path), SOURCE]!r}\nfrom pympipool.backends.flux.spawner import why_no_flux\n"
    answer = run(source + "print(why_no_flux())")
    assert re.search(says, answer), answer


def test_importing_pympipool_imports_no_flux(tmp_path):
    (tmp_path / "flux.py").write_text("raise AssertionError('imported')")
    source = f"import sys; sys.path[:0] = {[str(tmp_path), SOURCE]!r}\n"
    source += "import pympipool, pympipool.flux, pympipool.backends.registry, pympipool.backends.flux.spawner\n"
    source += "exe = pympipool.Executor(max_cores=1, backend='mpi')\n"
    source += "print(exe.submit(sum, [1, 1]).result(), 'flux' in sys.modules)\nexe.shutdown()"
    assert run(source) == "2 False\n"


def run(source):
    command = [sys.executable, "-c", source]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=True).stdout


# ---- the choice ----


def test_a_flux_executor_chooses_flux_without_a_name():
    class_of_flux = type("FluxExecutor", (), {"__module__": "flux.job.executor"})
    assert choose("auto", class_of_flux()) == ("flux", {})


def test_something_else_than_a_flux_executor_is_an_error_at_once():
    with pytest.raises(TypeError, match=r"executor is 'fast'; it must be a flux.job.FluxExecutor"):
        Executor(max_cores=1, executor="fast")


def test_what_auto_passes_over_is_known(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    name, passed_over = choose("auto")
    assert name == "mpi"
    assert list(passed_over) == ["flux", "slurm"]
    assert "bindings are not installed" in passed_over["flux"]
    with Executor(max_cores=1) as exe:
        assert exe.info["passed_over"] == passed_over
