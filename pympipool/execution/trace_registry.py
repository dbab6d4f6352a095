"""The meeting point of engines and traces: which engines exist, and which trace records now.

    Engine ── register, unregister ──► the open engines ──► start(session): session.add_engine(engine), for each of them
                                                            and for those that register until stop(session)

This is all that an engine knows of traces (see `pympipool.diagnostics.tracing`). It costs time only when an engine is
made and closed.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from pympipool._util.platform import on_fork

if TYPE_CHECKING:
    from pympipool._core.trace_buffer import Recorder


class TracedEngine(Protocol):
    """An engine as a trace sees it.

    Attributes:
        executor_info: Options of its executor.
    """

    executor_info: dict[str, Any]

    def record(self, recorder: Recorder | None) -> None:
        """Record the calls that are submitted from now on; None stops recording."""


class Session(Protocol):
    """A trace that records."""

    def add_engine(self, engine: TracedEngine) -> None:
        """Record the calls of this engine too."""


_engines: weakref.WeakValueDictionary[int, TracedEngine] = (
    weakref.WeakValueDictionary()
)  # in the order of their creation
_numbers = itertools.count()
_session: Session | None = None
_lock = threading.RLock()


def register(engine: TracedEngine) -> None:
    """Make an engine known to the trace that records now, and to later traces."""
    with _lock:
        _engines[next(_numbers)] = engine
        if _session is not None:
            _session.add_engine(engine)


def unregister(engine: TracedEngine) -> None:
    """Remove an engine that accepts no more calls. Later traces do not record it."""
    with _lock:
        for number in [number for number, other in _engines.items() if other is engine]:
            del _engines[number]


def start(session: Session) -> Session | None:
    """Add all engines to a session, now and as they are made, unless another session records.

    Returns:
        The other session that records already; None if there is none.
    """
    global _session
    with _lock:
        if _session is not None:
            return _session
        _session = session
        for _, engine in sorted(_engines.items()):
            session.add_engine(engine)
        return None


def stop(session: Session) -> None:
    """Add no more engines to a session."""
    global _session
    with _lock:
        if _session is session:
            _session = None


def _after_fork_in_child() -> None:
    """Stop recording in a forked child: the trace belongs to its parent."""
    global _session, _lock
    _session = None
    _lock = threading.RLock()  # another thread of the parent may have held it during the fork


on_fork(in_child=_after_fork_in_child)
