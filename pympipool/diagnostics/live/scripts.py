"""Find the scripts of this user that run executors on this host, and ask them for their status."""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pympipool._util.platform import HAS_ABSTRACT_SOCKETS, IS_WINDOWS
from pympipool.diagnostics.live.report import add_memory
from pympipool.transport.frames import VIEWER_MAGIC

if not IS_WINDOWS:
    from pympipool.transport.local_unix import peer_pid, peer_uid

ANSWER_LIMIT_S = 0.5
"""Time that an executor has to answer: one whose script is stopped does not."""

PATIENT_LIMIT_S = 10.0
"""The same for executors of a script that is asked for by its process id: a busy one may be late."""

ANSWER_MAX = 4 << 20
"""Bytes of an answer that are read at most."""

ADDRESS = re.compile(r"@(pympipool-[0-9a-f]{32})$")
"""The address of a control socket, as the system lists it (see `Listener`)."""

LISTENING = "00010000"
"""Flags of a listening socket in /proc/net/unix."""


@dataclass(frozen=True)
class Script:
    """A process that runs executors.

    Attributes:
        pid: Its process id.
        name: The path of its script; "" in an interactive session.
        executors: The status of each executor (see `live_status`), with the memory of its workers.
    """

    pid: int
    name: str
    executors: tuple[dict[str, Any], ...]


def find_scripts(pid: int | None = None) -> list[Script]:
    """Return the scripts that answer, sorted by process id.

    Args:
        pid: Only this process. Others are not asked, where the system tells whose a socket is.
    """
    found: dict[int, list[dict[str, Any]]] = {}
    for address in _addresses():
        status = _ask(address, pid)
        if status is not None and pid in (None, status["pid"]):
            found.setdefault(status["pid"], []).append(status)
    return [Script(one, statuses[0]["script"], tuple(statuses)) for one, statuses in sorted(found.items())]


def _addresses() -> list[str]:
    if not HAS_ABSTRACT_SOCKETS:
        folders = {tempfile.gettempdir(), "/tmp"}  # see `local_unix.bind`
        return [str(path) for folder in folders for path in Path(folder).glob("pympipool-*/control")]
    lines = [line.split() for line in Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()]
    names = (ADDRESS.match(fields[7]) for fields in lines if len(fields) == 8 and fields[3] == LISTENING)
    return [f"\0{name[1]}" for name in names if name]


def _ask(address: str, pid: int | None) -> dict[str, Any] | None:
    """Return what an executor answers; None if it is not one of this user, or of another process, has ended, or is silent."""
    with suppress(OSError, ValueError, KeyError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_LIMIT_S)
        connection.connect(address)
        if peer_uid(connection) != os.geteuid():
            return None
        if pid is not None and (peer := peer_pid(connection)) is not None:
            if peer != pid:
                return None
            connection.settimeout(PATIENT_LIMIT_S)
        connection.sendall(VIEWER_MAGIC)
        answer = bytearray()
        while len(answer) < ANSWER_MAX and (data := connection.recv(1 << 16)):
            answer += data
        status = json.loads(answer)
        return add_memory(status) if isinstance(status, dict) and isinstance(status["pid"], int) else None
    return None
