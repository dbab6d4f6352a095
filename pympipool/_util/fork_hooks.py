"""Forks of a process of one thread, without what threading and logging do at each fork.

Their hooks give a child new locks, and forget the threads that it has not got. The fork of a process that has only one thread
needs none of that. But each object that they touch lies on a page that has to be copied: they take a fifth of the time until a
forked worker serves.

    set_aside() in the process that forks ──> fork ──> restore() in the child, which may have threads

The interpreter keeps hooks in lists that only the garbage collector shows. Where it does not, the hooks stay in use.
"""

from __future__ import annotations

import gc
import sys

from pympipool._util.platform import on_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NEEDLESS = ("threading", "logging")
"""Modules whose hooks a fork of a process of one thread does not need."""

_set_aside: list[tuple[list[Any], list[Any]]] = []  # lists of the interpreter, and the hooks that are missing in them


def set_aside() -> None:
    """Have forks of this process not run the hooks of `_NEEDLESS`. To be called once, and before `gc.freeze`.

    What is frozen already is not any more: the garbage collector does not show it.
    """
    gc.unfreeze()

    def mark() -> None: ...

    on_fork(before=mark, in_parent=mark, in_child=mark)
    for hooks in [found for found in gc.get_referrers(mark) if type(found) is list]:
        missing = [hook for hook in hooks if getattr(hook, "__module__", None) in _NEEDLESS]
        hooks[:] = [hook for hook in hooks if hook is not mark and hook not in missing]
        if missing:
            _set_aside.append((hooks, missing))


def restore() -> None:
    """Have the forks of this process, a child, run all hooks again."""
    while _set_aside:
        hooks, missing = _set_aside.pop()
        hooks[:0] = missing
    if sys.version_info >= (3, 14):  # since then a forked child knows the system's id of its thread
        sys.modules["threading"].main_thread()._set_native_id()
