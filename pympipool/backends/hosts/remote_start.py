"""The first program on another host: it becomes the agent there, or answers what the host has.

    master ── stdin: this source, settings ──> python -c "exec(...)" on the host ──> agent
           <── stdout: cores, GPUs, machine ──  (where it was only asked)

This source travels with the settings, so a host that lacks pympipool, or has another version, can say so. The key and the
environment arrive on stdin too: a command line can be read by every user of the host. Until pympipool is imported, only
modules of Python are used.
"""

import importlib
import json
import os
import platform
import socket
import sys

NOT_USABLE = 78
"""Exit code if the host lacks something (EX_CONFIG of sysexits.h)."""

INPUT_TAKEN = 65
"""Exit code if another program has read the input that was for this one (EX_DATAERR of sysexits.h)."""

ANSWER = "pympipool-host "
"""Word before the answer: what a login prints may come before it, even in the same line."""


def main() -> None:
    """Read the settings from stdin, and do what they say.

    Raises:
        SystemExit: The host cannot be used, and stderr says why; or it has answered.
    """
    line = sys.stdin.buffer.readline()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # workers are not to read what the launcher keeps open
    os.close(null)
    if not line.endswith(b"\n"):
        sys.exit("the connection to the master has ended")
    settings = json.loads(line)
    kept = {name: os.environ[name] for name in settings["kept"] if name in os.environ}
    os.environ.clear()
    os.environ.update(settings["environment"])
    os.environ.update(kept)
    try:
        os.chdir(settings["cwd"])
    except OSError:
        pass  # each worker checks its own folder, and tells what is missing
    if settings["in_child"]:
        go_on_in_child()
    problem = find_problem(settings)
    if problem:
        print(f"{problem}", file=sys.stderr)
        sys.exit(NOT_USABLE)
    from pympipool.resources import available_cores, available_devices

    devices = available_devices()
    if settings["is_question"]:
        answer = {"cores": available_cores(), "gpus": len(devices.names), "machine": machine_id()}
        print(ANSWER + json.dumps(answer), flush=True)
        sys.exit(0)
    if devices.names:
        os.environ[devices.variable] = ",".join(devices.names)
    try:
        importlib.import_module(settings["module"]).main(settings["name"], settings["slots"], settings["is_joining"])
    except ConnectionError as error:  # the master is gone, or cannot be reached from here
        sys.exit(str(error))


def go_on_in_child() -> None:
    """Let a child do the rest. This process waits, and exits with a code even if a signal ends the child."""
    child = os.fork()
    if child == 0:
        os.setsid()
        return
    _, status = os.waitpid(child, 0)
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)


def find_problem(settings: "dict[str, object]") -> "str | None":
    """Return why this host cannot be used; None if pympipool is imported, in the master's version."""
    host, path = socket.gethostname(), str(settings["path"])
    if platform.python_version() != settings["python"]:
        return (
            f"host {host} has Python {platform.python_version()} as {sys.executable}, and the master has"
            f" {settings['python']}: install the same version there"
        )
    sys.path.insert(0, path)
    try:
        import pympipool
        import pympipool._core.ring
    except ImportError as error:
        return (
            f"pympipool cannot be imported from {path} on host {host} ({error}): install it there at the same path, or in a"
            " folder that the hosts share"
        )
    finally:
        sys.path.remove(path)
    found = os.path.dirname(os.path.dirname(str(pympipool.__file__)))
    if os.path.realpath(found) != os.path.realpath(path):
        return (
            f"pympipool cannot be imported from {path} on host {host}, but from {found}: install it there at the same path, or in"
            " a folder that the hosts share"
        )
    if pympipool.__version__ != settings["version"]:
        return (
            f"host {host} has pympipool {pympipool.__version__} in {path}, and the master has {settings['version']}: install"
            " the same version there"
        )
    return None


def machine_id() -> str:
    """Return what this machine differs by from all others, by whatever name it is called: its name, and its last boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:  # not Linux
        boot = ""
    return f"{socket.gethostname()} {boot}"


if __name__ == "__main__":
    main()
