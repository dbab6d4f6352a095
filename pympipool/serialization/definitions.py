"""Pickle the definition of a class that travels by value once, and send these bytes from then on.

    make_definition(kind)
      seen for the first time ─► None
      known, and everything that it depends on is still the same object ─► its class id, number and definition
      else Analysis (analysis.py): what does it depend on?
        only what cannot change unseen ─► snapshot, next number, definition
        anything else ─► None

Pickling a class takes a hundred times longer than pickling an instance of it. So each pickle contains the definition of the
class ready-made, and a receiver that has the class with this number does not unpickle it (`classes.py`). No process needs to
know what another one has: a pickle is right for any worker, after a restart too.

A definition contains all classes that it refers to, each with its own number. A class without a definition is pickled anew
each time (`classes.reduce_class`), which is always right.
"""

from __future__ import annotations

import io
import itertools
import pickle
import threading
import weakref
import zlib
from collections.abc import Callable
from typing import Any

from cloudpickle import cloudpickle

from pympipool._core.instances import Definition, definitions
from pympipool._core.snapshot import Snapshot
from pympipool.serialization import CLASSES_MARK
from pympipool.serialization.analysis import Analysis, NotCacheable
from pympipool.serialization.classes import find_class, load_class

__all__ = ["make_definition"]

DEFINITIONS_MAX = 256
"""Number of classes whose definitions are kept. A definition keeps its class alive."""

CHANGES_MAX = 3
"""A class that was changed so often, and was used at most once between two changes, gets no definition any more. Making one
takes longer than pickling the class."""


_numbers = itertools.count(1)

_seen: dict[int, weakref.ref[type]] = {}
"""Classes that were seen once, by id."""

_refused: dict[int, weakref.ref[type]] = {}
"""Classes that get no definition, by id. A class stays refused, which is never wrong."""


def make_definition(kind: type, is_result: bool, *, at_once: bool = False) -> tuple[Any, ...] | None:
    """Make the definition of a class that has none; return as `find_definition`.

    Args:
        at_once: Make it although the class is seen for the first time.
    """
    if _contains(_refused, kind):
        return None
    former = definitions.get(id(kind))
    if former is None and not at_once and not _contains(_seen, kind):
        _remember(_seen, kind)
        return None
    changes = 0
    if former is not None:
        changes = former.changes if former.snapshot.is_current() else former.changes + 1 if former.uses < 2 else 0
    try:
        if changes > CHANGES_MAX:
            raise NotCacheable("it changes all the time")
        return _define(kind, changes, is_result)
    except Exception:  # also if it cannot be pickled: pickling the call raises a better error
        _remember(_refused, kind)
        definitions.pop(id(kind), None)
        return None


def _define(kind: type, changes: int, is_result: bool) -> tuple[Any, ...] | None:
    from pympipool.serialization.by_value import dump_definition

    analysis = Analysis(kind)
    numbered = [_number(one, analysis.snapshot) for one in analysis.classes]
    own = next(one for one in numbered if one.kind is kind)
    own.changes = changes
    own.snapshot = analysis.snapshot  # else that of a class that refers to this one
    numbers = {id(one.kind): one.number for one in numbered}
    pickled = CLASSES_MARK + zlib.compress(
        dump_definition([(one.kind, one.number) for one in numbered], numbers, is_result=is_result), 1
    )
    class_id = cloudpickle._get_or_create_tracker_id(kind)
    if not own.snapshot.is_current():  # another thread is changing something right now
        return None
    if is_result:
        own.for_result = find_class, (class_id, pickled)
        own.result_opcodes = _opcodes(*own.for_result)
        return own.for_result
    own.for_call = load_class, (class_id, own.number, pickled)
    own.call_opcodes = _opcodes(*own.for_call)
    return own.for_call


def _opcodes(function: Callable[..., type], arguments: tuple[Any, ...]) -> bytes:
    """Return opcodes that call a function, put what it returns into the memo of the unpickler, and nothing else into it."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 3)  # the last protocol without frames
    pickler.fast = True  # without the memo
    pickler.dump((function, arguments))
    pickled = file.getvalue()
    return (
        pickled[len(pickle.PROTO) + 1 : -len(pickle.TUPLE2 + pickle.STOP)] + pickle.REDUCE + pickle.MEMOIZE + pickle.POP
    )


def _number(kind: type, snapshot: Snapshot) -> Definition:
    """Return the definition of a class that another one refers to; a new one if it has none that is current."""
    with _lock:
        known = definitions.get(id(kind))
        if known is not None and known.snapshot.is_current():
            return known
        definition = Definition(kind, next(_numbers), snapshot, 0)
        while len(definitions) >= DEFINITIONS_MAX:
            definitions.pop(next(iter(definitions)), None)
        definitions[id(kind)] = definition
    return definition


_lock = threading.RLock()  # reentrant: a comparison may run code of the user, which may pickle


def _remember(classes: dict[int, weakref.ref[type]], kind: type) -> None:
    """Remember a class without keeping it alive."""
    with _lock:
        if len(classes) >= DEFINITIONS_MAX:
            classes.clear()
        classes[id(kind)] = weakref.ref(kind)


def _contains(classes: dict[int, weakref.ref[type]], kind: type) -> bool:
    """Return True if the dict refers to this very class, not to a former one at the same address."""
    reference = classes.get(id(kind))
    return reference is not None and reference() is kind
