"""Makes a worker look like a child process of the script to the functions that run in it.

    control  ─────> __main__: classes and functions of the script                when a call looks them up
    settings ──┬──> sys.argv, sys.path                                           at once
               └──> multiprocessing.process            name, parent, authkey     when a call imports it
    control  ─────> multiprocessing.resource_tracker   the master's tracker      when a call needs it

Most calls use no multiprocessing, and importing it would take as long as all other imports of a worker.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock

from pympipool.worker.script_names import make_script_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType
    from typing import Any

    from pympipool.transport.control_client import Control


def apply_script_context(settings: dict[str, Any], control: Control, identity: tuple[int, ...]) -> None:
    """Take over what the master has sent of the context of the script.

    Args:
        settings: The master's settings.
        control: The connection to the master, which stands for the parent process and is asked for the resource tracker.
        identity: Number of the worker, and for one of several ranks the rank + 1: the identity in multiprocessing.
    """
    make_script_module(control)
    if sys.breakpointhook is sys.__breakpointhook__ and not os.environ.get("PYTHONBREAKPOINT"):
        sys.breakpointhook = _refuse_breakpoint
    sys.argv[:] = settings["argv"]
    sys.path[:] = settings["path"]
    actions: dict[str, Callable[[Any], None]] = {
        "multiprocessing.process": lambda process: _become_child(process, settings, control.watched_master(), identity),
        "multiprocessing.resource_tracker": lambda module: _share_tracker(module, control),
    }
    for name in list(actions):
        if name in sys.modules:  # a sitecustomize has imported it
            actions.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, _ImportWatcher(actions))


def _refuse_breakpoint(*_args: Any, **_kwargs: Any) -> None:
    """Raise RuntimeError: a debugger would read from a terminal that a worker has not got."""
    raise RuntimeError(
        'breakpoint() in a worker, which has no terminal: Executor(backend="serial") runs calls in the script\'s own process'
    )


class _ImportWatcher:
    """A finder that lets the others find a module, and runs an action when the module is complete.

    Args:
        actions: What to do with a module, by its name.
    """

    def __init__(self, actions: dict[str, Callable[[Any], None]]) -> None:
        self._actions = actions

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        action = self._actions.get(name)
        if action is None:
            return None
        for finder in sys.meta_path:
            find_spec = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find_spec is None else find_spec(name, path, target)
            if spec is not None:
                _run_after_import(spec.loader, action)
                return spec
        return None


def _run_after_import(loader: Any, action: Callable[[Any], None]) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module
        execute(module)
        action(module)

    loader.exec_module = exec_module


def _become_child(process: Any, settings: dict[str, Any], sentinel: int, identity: tuple[int, ...]) -> None:
    """Make this process a child of the master in the eyes of multiprocessing, as a process is that multiprocessing spawns.

    Args:
        process: The module multiprocessing.process.
        settings: The master's settings.
        sentinel: A descriptor that becomes readable when the master ends.
        identity: The process's identity, from which the names of its own children are made.
    """
    parent_name, parent_pid = settings["parent"]
    current = process.current_process()
    current._name = "PympipoolWorker-" + ":".join(map(str, identity))
    current._identity = identity
    current._parent_pid = parent_pid
    current._parent_name = parent_name
    current.authkey = settings["authkey"]
    process._parent_process = process._ParentProcess(parent_name, parent_pid, sentinel)


def _share_tracker(module: Any, control: Control) -> None:
    """Let this process use the master's resource tracker. The master is asked for it when it is needed first.

    A tracker of its own would remove at the end of this process what the script has created and the process only used.

    Args:
        module: The module multiprocessing.resource_tracker.
        control: The connection to the master. Only a master on this host has a tracker to share.
    """
    request = getattr(control, "request_resource_tracker", None)
    if request is None:
        return
    tracker = module._resource_tracker
    ensure_running, send = tracker.ensure_running, tracker._send
    owner, lock = os.getpid(), allocate_lock()
    asked = False

    def adopt() -> None:
        nonlocal asked
        if asked or os.getpid() != owner:  # a forked child must not read from the connection
            return
        with lock:
            if tracker._fd is None:
                try:
                    tracker._fd = request()
                except (OSError, EOFError):  # this process is ending
                    pass
            asked = True

    def adopt_and_ensure_running() -> None:
        adopt()
        ensure_running()

    def adopt_and_send(*args: Any) -> None:
        adopt()
        send(*args)

    tracker.ensure_running = module.ensure_running = adopt_and_ensure_running
    tracker._send = adopt_and_send
