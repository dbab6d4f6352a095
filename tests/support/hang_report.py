"""Reports of processes that hang: states, Python stacks and C stacks of a process and of its descendants.

    python hang_report.py PID

The report is taken from outside, so it also shows a process that holds the interpreter lock, that is stopped, or that
runs no Python code. The kernel tells the states. The stacks need gdb and the permission to trace the process: gdb
stops all its threads, lets one of them write the Python stacks of all into a memory file, and reads the C stacks.

This module needs nothing but the standard library and /proc, because it also runs as a program (see `hang_watch`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROC = Path("/proc")

MOST_PROCESSES = 12
"""Number of processes whose stacks are shown. The states of all are shown."""

GDB_S = 40
"""Seconds that gdb may take for one process."""

STACKS_S = 90
"""Seconds that the stacks of all processes may take. Those of further processes are left out."""

FRAMES = 40
"""Number of C frames of each thread that are looked at, the innermost first. Those of the interpreter are left out."""

LINE = 220
"""Number of characters of a line that are shown."""

_PYTHON_STACKS = [
    # The name of the memory file is a string that the process has anyway: gdb would call its malloc for a new one.
    "set $file = ((int (*)(const char *, unsigned)) memfd_create)(((const char *(*)(void)) Py_GetVersion)(), 0)",
    "call (void) ((const char *(*)(int, void *, void *)) _Py_DumpTracebackThreads)($file, 0, 0)",
    'eval "shell echo && echo PYTHON STACKS && cat /proc/{pid}/fd/%d", $file',
    "call (void) ((int (*)(int)) close)($file)",
]
"""Commands of gdb. The function is the one of faulthandler: it needs no lock and no memory."""

_OF_INTERPRETER = re.compile(
    r" at (\./|\S*/)?(Python|Objects|Include|Modules)/|_PyEval_|Vectorcall| in (start_thread|clone3) |/(_pytest|pluggy)/"
)
"""Lines of stacks that every Python function has, or every test."""


def report(*pids: int) -> str:
    """Return the report of these processes and of their descendants."""
    family = list(dict.fromkeys(member for pid in pids for member in _with_descendants(pid)))
    parts = [_state(pid) for pid in family]
    if shutil.which("gdb") is None:
        parts.append("no stacks of these processes: there is no gdb here (apt-get install gdb)")
    else:
        deadline_s = time.monotonic() + STACKS_S
        for pid in family[:MOST_PROCESSES]:
            left_s = deadline_s - time.monotonic()
            parts.append(_stacks(pid, min(left_s, GDB_S)) if left_s > 1 else f"---- process {pid}: no time is left")
    return "\n".join(parts)


def _with_descendants(pid: int) -> list[int]:
    """Return the process and its descendants, each parent before its children."""
    children: dict[int, list[int]] = {}
    for folder in PROC.glob("[0-9]*"):
        parent = _fields(folder).get("PPid")
        if parent is not None:
            children.setdefault(int(parent), []).append(int(folder.name))
    family = [pid]
    for member in family:
        family += [child for child in sorted(children.get(member, [])) if child != os.getpid()]
    return family


def _fields(folder: Path) -> dict[str, str]:
    """Return the lines "name: value" of the file `status` of a process or thread."""
    lines = [line.partition(":") for line in _read(folder / "status").splitlines()]
    return {name: value.strip() for name, _, value in lines}


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


def _state(pid: int) -> str:
    """Describe a process and its threads in a line each."""
    folder = PROC / str(pid)
    fields = _fields(folder)
    if not fields:
        return f"process {pid} has ended"
    command = _read(folder / "cmdline").replace("\0", " ").strip() or fields["Name"]
    signals = {name: fields.get(name, "0").lstrip("0") for name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn")}
    told = "".join(f", {name} {value}" for name, value in signals.items() if value)
    about = f"{fields['State']}, {fields.get('VmRSS', 'no memory')}{told}"
    lines = [f"process {pid}, parent {fields['PPid']}, {about}: {command[:300]}"]
    for task in sorted(folder.glob("task/[0-9]*"), key=lambda path: int(path.name)):
        state = _fields(task)
        if state:
            waits_in = _read(task / "wchan")
            lines.append(f"    thread {task.name} {state['Name']}: {state['State']}, in kernel function {waits_in}")
    return "\n".join(lines)


def _stacks(pid: int, limit_s: float) -> str:
    """Return the Python stacks and the C stacks of a process, as gdb shows them."""
    if _fields(PROC / str(pid)).get("State", "Z").startswith(("Z", "X")):
        return f"---- process {pid} has ended"
    commands = ["set pagination off", "set confirm off", "set width 0", "set scheduler-locking on"]
    if "python" in _read(PROC / str(pid) / "maps"):
        commands += [command.replace("{pid}", str(pid)) for command in _PYTHON_STACKS]
    commands += [r"echo \nC STACKS\n", f"thread apply all backtrace {FRAMES}"]
    arguments = [argument for command in commands for argument in ("-ex", command)]
    with tempfile.TemporaryFile() as output:
        # Not into a pipe: the process that reads it may be the one that gdb stops.
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                ["gdb", "-nx", "-batch", "-p", str(pid), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=limit_s,
                check=False,
            )
        output.seek(0)
        text = output.read().decode(errors="replace")
    said, found, stacks = text.partition("\nPYTHON STACKS\n")
    if not found:
        said, found, stacks = text.partition("\nC STACKS\n")
    stacks = f"{found}{stacks}" if found else f"gdb has shown no stacks:\n{said}"
    lines = [line[:LINE] for line in stacks.splitlines() if line.strip() and not _OF_INTERPRETER.search(line)]
    return "\n".join([f"---- process {pid}", *lines])


if __name__ == "__main__":
    print(report(*map(int, sys.argv[1:])))
