"""The jobspecs of workers. They are made without flux; tests/flux_framework submits them to a real flux."""

from __future__ import annotations

import json

import pytest

from pympipool.backends.flux import jobspec
from pympipool.backends.flux.jobspec import make_jobspec, pmi_of
from pympipool.backends.mpi_library import Kind, Library
from pympipool.resources import Resources


def jobspec_for(resources, **parameters):
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
    pytest.param({"restart_limit": 2, "retries": 1}, golden(1, [CORE], {}), id="parameters that flux ignores"),
]


@pytest.mark.parametrize(("parameters", "expected"), GOLDEN)
def test_resources_make_expected_jobspec(parameters, expected):
    assert jobspec_for(Resources(**parameters)) == expected


@pytest.mark.parametrize(
    ("parameters", "node", "slots", "tasks"),
    [
        ({"cores": 4, "num_nodes": 2}, {"count": 2}, 2, {"per_slot": 1}),
        ({"cores": 5, "num_nodes": 2}, {"count": 2}, 3, {"total": 5}),
        ({"cores": 2, "exclusive": True}, {"count": 1, "exclusive": True}, 2, {"per_slot": 1}),
    ],
)
def test_nodes_contain_the_slots(parameters, node, slots, tasks):
    made = jobspec_for(Resources(**parameters))
    slot = {"type": "slot", "count": slots, "with": [CORE], "label": "task"}
    assert made["resources"] == [{"type": "node", "with": [slot], **node}]
    assert made["tasks"][0]["count"] == tasks


def test_queue_and_bank_are_those_of_user():
    system = jobspec_for(Resources(partition="debug", account="physics"))["attributes"]["system"]
    assert (system["queue"], system["bank"]) == ("debug", "physics")


def test_pmi_is_a_shell_option():
    options = jobspec_for(Resources(cores=2), pmi="pmix")["attributes"]["system"]["shell"]["options"]
    assert options["pmi"] == "pmix"


def test_variables_that_are_not_utf8_are_left_out():
    environment = {"A": "\udcff", "\udcff": "b", "C": "ƒ"}
    made = jobspec_for(Resources(), environment=environment)
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
def test_pmi_fits_the_library_unless_user_chooses(monkeypatch, resources, kind, pmi):
    version = "Open MPI v5" if kind is Kind.OPEN_MPI else "MPICH Version: 5"
    monkeypatch.setattr(jobspec, "loaded_library", lambda: Library(version, ""))
    assert pmi_of(Resources(**resources)) == pmi
