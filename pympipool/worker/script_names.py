"""Lets a worker's `__main__` have the classes and functions of the script.

    pickle.load(file)  ──► __main__.State ──► __getattr__ ──► control connection ──► the master pickles its State
    pickle.dump(State(3), file)  ──► the same: pickle looks for State in `__main__`, and finds the class that it has

Functions and classes of the script travel by value, so the worker's `__main__` does not contain them. But pickle, and so
multiprocessing, store them by name. The master is asked when such a name is looked up. A class is not kept under its name:
the script may define it anew.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

from pympipool.serialization import WORKER_MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pympipool.transport.control_client import Control


def make_script_module(control: Control) -> None:
    """Replace `__main__`, the module of the worker's program, by one that stands for the script.

    Args:
        control: The connection to the master. Only a master on this host can be asked.
    """
    request = getattr(control, "request_script_object", None)
    owner = os.getpid()
    received: dict[str, type] = {}

    def find(name: str) -> Any:
        pickled = None
        if request is not None and not name.startswith("__") and os.getpid() == owner:
            pickled = request(name)
        if pickled is not None:
            from pympipool.serialization.payload import load

            return load([pickled], f"{name} of the script")
        if name in received:  # a forked child, for one: it must not read from the connection
            return received[name]
        raise AttributeError(
            f"this worker cannot get {name} from the script: define it in a module that both can import"
        )

    module = ModuleType("__main__")
    module.__dict__["__builtins__"] = __builtins__
    module.__getattr__ = find  # type: ignore[method-assign]
    module.__dict__[WORKER_MARK] = received
    sys.modules["__main__"] = module
