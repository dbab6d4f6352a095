"""The processes of the program under test, and what each of them is."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from support.processes import marked_processes

MASTER = "master"
HELPERS = ("fork server", "mpiexec", "proxy", "relay")
LAUNCHERS = {"mpiexec": "mpiexec", "mpiexec.hydra": "mpiexec", "hydra_pmi_proxy": "proxy"}
MODULES = {
    "from pympipool.transport.tcp.relay_program import main": "relay",
    "from pympipool.worker.forkserver import main": "fork server",
    "from pympipool.worker import main": "worker",
}


def family(mark: str, master: int) -> dict[psutil.Process, str]:
    """Return the living processes of a run with their roles. Orphans belong to it too: the mark tells."""
    roles = {}
    for process in marked_processes(mark):
        with contextlib.suppress(psutil.Error):
            role = role_of(process, master)
            if role:
                roles[process] = role
    return roles


def role_of(process: psutil.Process, master: int) -> str:
    """Return "master", a key of `plan.ROLES`, or "" for what calls have started.

    A worker forked by the fork server has the command line of the fork server. Only the parents differ: that of a
    fork server is the master.
    """
    if process.pid == master:
        return MASTER
    if process.status() == psutil.STATUS_ZOMBIE:
        return ""
    command = process.cmdline()
    launcher = LAUNCHERS.get(Path(command[0]).name if command else "", "")
    if launcher:
        return launcher
    role = next((role for text, role in MODULES.items() if text in " ".join(command)), "")
    parent = process.ppid()
    if role == "fork server" and parent != master:
        return "forked worker"
    if role == "worker" and parent != master:
        return "rank"
    return role
