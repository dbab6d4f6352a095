"""Which trace records now, and whose calls: the meeting point of engines and `pympipool.diagnostics.tracing`.

    Engine ── join, leave ──► the engines there are ──► begin(session): session.take_in(engine), for each of them
                                                        and for those that join until end(session)

An engine needs to know nothing of traces but this, and pays for them only when it is made.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pympipool._core.trace_buffer import Recorder


class Source(Protocol):
    """An engine, as a session sees it.

    Attributes:
        about: What its executor was made with.
    """

    about: dict[str, Any]

    def record(self, recorder: Recorder | None) -> None:
        """Has its calls recorded there from now on; None: no more."""


class Session(Protocol):
    """A trace that records."""

    def take_in(self, source: Source) -> None:
        """Records its calls too."""


_sources: weakref.WeakValueDictionary[int, Source] = weakref.WeakValueDictionary()
_numbers = itertools.count()  # in the order in which they were made
_session: Session | None = None
_lock = threading.RLock()


def join(source: Source) -> None:
    """Makes an engine known to the trace that records now, and to later ones."""
    with _lock:
        _sources[next(_numbers)] = source
        if _session is not None:
            _session.take_in(source)


def leave(source: Source) -> None:
    """Says that an engine takes no more calls: later traces do without it."""
    with _lock:
        for number in [number for number, other in _sources.items() if other is source]:
            del _sources[number]


def begin(session: Session) -> Session | None:
    """Has a session take in all engines, unless another one records: then that one is returned."""
    global _session
    with _lock:
        if _session is not None:
            return _session
        _session = session
        for _, source in sorted(_sources.items()):
            session.take_in(source)
        return None


def end(session: Session) -> None:
    """Lets a session take in no more."""
    global _session
    with _lock:
        if _session is session:
            _session = None


def _forget_in_child() -> None:
    """A fork records nothing: its parent does."""
    global _session, _lock
    _session = None
    _lock = threading.RLock()  # another thread of the parent's may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
