"""Lets a worker's `__main__` have the classes and functions of the script.

    pickle.load(file)  ──► __main__.State ──► __getattr__ ──► control connection ──► the master pickles its State
    pickle.dump(State(3), file)  ──► the same: pickle looks for State in `__main__`, and finds the class that it has

Functions and classes of the script travel by value, so the worker's `__main__` does not contain them. But pickle, and so
multiprocessing, store them by name. The master is asked when such a name is looked up. A class is not kept under its name:
the script may define it anew.
"""

from __future__ import annotations

import builtins
import os
import sys
from types import ModuleType

from pympipool.serialization import WORKER_MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
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

    sys.modules["__main__"] = _ScriptModule(find, received)


class _ScriptModule(ModuleType):
    """The stand-in for the script's module. What is evaluated in its namespace finds the script's names, too.

    `typing.get_type_hints`, for one, evaluates the annotations of a class in the `__dict__` of its module.

    Args:
        find: Returns an object of the script by its name, or raises AttributeError.
        received: The classes of the script that the worker has received, by name.
    """

    def __init__(self, find: Callable[[str], Any], received: dict[str, type]) -> None:
        names = _Names(find)
        names.update(__name__="__main__", __doc__=None, __builtins__=_Builtins(find))
        names[WORKER_MARK] = received, {}, {}
        object.__setattr__(self, "_names", names)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        names: dict[str, Any] = self._names
        return names

    def __getattribute__(self, name: str) -> Any:
        names = object.__getattribute__(self, "_names")
        if dict.__contains__(names, name):
            return names[name]
        try:
            return object.__getattribute__(self, name)
        except AttributeError:
            return names.find(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._names[name] = value

    def __delattr__(self, name: str) -> None:
        if not dict.__contains__(self._names, name):
            raise AttributeError(name)
        del self._names[name]


class _Names(dict):  # type: ignore[type-arg]  # generic for type checkers only
    """A namespace in which the names of the script are found, too."""

    def __init__(self, find: Callable[[str], Any], *args: Any) -> None:
        super().__init__(*args)
        self.find = find

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        try:
            return self.find(name)
        except AttributeError:
            raise KeyError(name) from None

    def __contains__(self, name: object) -> bool:
        """Return True for names of the script, too: since Python 3.14 `typing.get_type_hints` looks them up like this."""
        if dict.__contains__(self, name):
            return True
        try:
            self[name]
        except KeyError:
            return False
        return True


class _Builtins(_Names):
    """The builtins, and the names of the script.

    A copy of the builtins would have 150 references, each of which copies the page of its object in a process that was forked.
    """

    def __init__(self, find: Callable[[str], Any]) -> None:
        super().__init__(find, {"__import__": builtins.__import__})  # import statements look for it without __missing__

    def __missing__(self, name: str) -> Any:
        try:
            return getattr(builtins, name)
        except AttributeError:
            return super().__missing__(name)
