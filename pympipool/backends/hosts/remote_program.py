"""What is started on another host: its command, which all users there can read, and its input, which only this one can."""

from __future__ import annotations

import inspect
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pympipool
from pympipool._util.devices import DEVICE_VARIABLES
from pympipool.backends.hosts import remote_start
from pympipool.backends.program import interpreter_command
from pympipool.transport.fork_requests import memory_file

HOST_VARIABLES = frozenset(
    {
        *DEVICE_VARIABLES,
        "DBUS_SESSION_BUS_ADDRESS",
        "DISPLAY",
        "HOST",
        "HOSTNAME",
        "SSH_AGENT_PID",
        "SSH_AUTH_SOCK",
        "SSH_CLIENT",
        "SSH_CONNECTION",
        "SSH_TTY",
        "TMPDIR",
        "WAYLAND_DISPLAY",
        "XAUTHORITY",
        "XDG_RUNTIME_DIR",
        "XDG_SESSION_ID",
    }
)
"""Variables that belong to a host: each keeps its own."""

_AT_START = ("LD_", "DYLD_", "PYTHON", "LANG", "LC_", "MALLOC_", "GLIBC_TUNABLES")
"""Prefixes of variables that take effect when a process starts, and so must be in its command."""

_READ_PROGRAM = (
    "import sys; sys.path[:] = filter(None, sys.path); i = sys.stdin.buffer; n = i.readline().strip();"
    f" exec(i.read(int(n)) if n.isdigit() else 'sys.exit({remote_start.INPUT_TAKEN})')"
)


def command(environment: Mapping[str, str]) -> list[str]:
    """Return the command that reads its program from stdin (see `program_input`)."""
    early = [f"{name}={value}" for name, value in environment.items() if name.startswith(_AT_START)]
    return ["env", *early, *interpreter_command(), "-c", _READ_PROGRAM, "pympipool_agent"]


def program_input(
    environment: Mapping[str, str],
    *,
    name: str,
    slots: int | None,
    is_question: bool = False,
    in_child: bool = False,
) -> BinaryIO:
    """Return a file in memory with what the program reads: its source, and its settings with the key.

    Args:
        environment: The environment of the agent.
        name: The name by which the master knows the host.
        slots: The number of cores for workers; None: those that the agent may use.
        is_question: True: there is to be no agent, only an answer what the host has.
        in_child: True: the agent is a child of the process that is started.
    """
    own = {"name": name, "slots": slots, "is_question": is_question, "in_child": in_child}
    return with_source({**settings(environment), **own})


def settings(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that are the same for the agents of all hosts.

    Args:
        environment: The environment of an agent.
    """
    return {
        "environment": {key: value for key, value in environment.items() if key not in HOST_VARIABLES},
        "kept": sorted(HOST_VARIABLES),
        "module": "pympipool.worker.agent",
        "cwd": os.getcwd(),
        "path": environment.get("PYMPIPOOL_PATH") or str(Path(pympipool.__file__).parents[1]),
        "python": platform.python_version(),
        "version": pympipool.__version__,
        "name": "",
        "slots": None,
        "is_question": False,
        "in_child": False,
        "is_joining": False,
    }


def with_source(settings: Mapping[str, Any]) -> BinaryIO:
    """Return a file in memory with the source of the program, and its settings."""
    source = inspect.getsource(remote_start).encode()
    file = memory_file()
    file.write(b"%d\n%b%b\n" % (len(source), source, json.dumps(settings).encode()))
    file.seek(0)
    return file
