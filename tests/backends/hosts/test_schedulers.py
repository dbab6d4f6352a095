"""Jobs of PBS, LSF and Grid Engine, recognized by their environment."""

from __future__ import annotations

import socket

import pytest

from pympipool import Executor
from pympipool.backends import registry
from pympipool.backends.hosts import shells
from pympipool.backends.hosts.schedulers import SCHEDULERS
from pympipool.backends.mpi_library import Kind, Launcher
from pympipool.errors import WorkerStartError
from pympipool.resources import Host

VARIABLES = [name for scheduler in SCHEDULERS.values() for name in scheduler.variables]


@pytest.fixture(autouse=True)
def in_no_job(monkeypatch):
    for name in (*VARIABLES, "NCPUS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def host_file(tmp_path):
    def make(text):
        (tmp_path / "hosts").write_text(text)
        return str(tmp_path / "hosts")

    return make


TWO = (Host("a", 2), Host("b", 1))


def test_pbs_names_a_host_for_each_slot(host_file):
    assert SCHEDULERS["pbs"].hosts_of_job({"PBS_NODEFILE": host_file("a\na\nb\n")}) == TWO


def test_chunks_of_pbs_may_have_several_cores(host_file):
    environ = {"PBS_NODEFILE": host_file("a\nb\n"), "NCPUS": "4"}
    assert SCHEDULERS["pbs"].hosts_of_job(environ) == (Host("a", 4), Host("b", 4))
    environ = {"PBS_NODEFILE": host_file("a\na\nb\n"), "NCPUS": "4"}
    assert SCHEDULERS["pbs"].hosts_of_job(environ) == TWO


def test_lsf_lists_slots_or_numbers(host_file):
    assert SCHEDULERS["lsf"].hosts_of_job({"LSB_DJOB_HOSTFILE": host_file("a\na\nb\n")}) == TWO
    assert SCHEDULERS["lsf"].hosts_of_job({"LSB_MCPU_HOSTS": "a 2 b 1"}) == TWO


def test_grid_engine_lists_hosts_with_slots(host_file):
    text = "a 2 all.q@a UNDEFINED\nb 1 all.q@b <NULL>\n"
    assert SCHEDULERS["gridengine"].hosts_of_job({"PE_HOSTFILE": host_file(text)}) == TWO


@pytest.mark.parametrize(
    ("name", "variable", "text"),
    [("gridengine", "PE_HOSTFILE", "a x\n"), ("pbs", "PBS_NODEFILE", None), ("lsf", "LSB_DJOB_HOSTFILE", None)],
)
def test_unreadable_host_file_is_told(host_file, monkeypatch, name, variable, text):
    path = host_file(text) if text else "/no/such/file"
    monkeypatch.setenv(variable, path)
    with pytest.raises(WorkerStartError, match=path):
        Executor(backend=name)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_outside_of_a_job_the_remedy_is_told(name):
    with pytest.raises(WorkerStartError, match=rf"backend '{name}' cannot be used: .* has no .*backend='mpi'"):
        Executor(backend=name)


@pytest.mark.parametrize(
    ("name", "variable", "text"),
    [
        ("pbs", "PBS_NODEFILE", "{0}\n{0}\n{0}\n"),
        ("lsf", "LSB_DJOB_HOSTFILE", "{0}\n{0}\n{0}\n"),
        ("gridengine", "PE_HOSTFILE", "{0} 3 all.q UNDEFINED\n"),
    ],
)
def test_auto_takes_the_job_on_this_host(host_file, monkeypatch, name, variable, text):
    monkeypatch.setitem(registry.AUTO_ORDER, "flux", lambda: "not here")
    monkeypatch.setitem(registry.AUTO_ORDER, "slurm", lambda: "not here")
    monkeypatch.setenv(variable, host_file(text.format(socket.gethostname())))
    with Executor(block_allocation=True) as exe:
        assert (exe.info["backend"], exe.info["max_workers"]) == (name, 3)
        assert exe.submit(socket.gethostname).result() == socket.gethostname()


def test_hosts_are_for_ssh_alone():
    for name in ("mpi", "slurm", "pbs", "serial"):
        with pytest.raises(ValueError, match=rf"hosts is \['a'\], and backend is '{name}'; only backend 'ssh'"):
            Executor(hosts=["a"], backend=name)
    with pytest.raises(ValueError, match="backend is 'ssh' without hosts"):
        Executor(backend="ssh")


def test_worker_larger_than_a_host_is_refused(host_file, monkeypatch):
    monkeypatch.setenv("PBS_NODEFILE", host_file(f"{socket.gethostname()}\n" * 2))
    with pytest.raises(
        ValueError, match=r"needs 3 cores, those of each rank on one host; the hosts have 2, and .*, has 2"
    ):
        Executor(backend="pbs", cores_per_worker=3, max_cores=3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Kind.HYDRA, ["-hosts", "a"]), (Kind.OPEN_MPI, ["--host", "a", "--bind-to", "none"])],
)
def test_mpiexec_starts_one_program_on_one_host(monkeypatch, kind, options):
    monkeypatch.setattr(shells, "find_any_launcher", lambda: Launcher("/opt/mpiexec", kind))
    monkeypatch.setattr(shells.os, "geteuid", lambda: 1000)
    assert shells.Mpiexec().command("a", ["python", "-c", "x"]) == [
        *("/opt/mpiexec", *options, "-n", "1"),
        *("python", "-c", "x"),
    ]
