"""Data that many calls use: pickled once, and one copy in the memory of a host.

    master                                               worker
    share(obj) ─► Shared ─► SharedObject: Mapping.store
    a call with the Shared ── its key ────────────────►  load_value(key) ─► has it? the object
                                                         └► no: asks the master ─► descriptor ─► Mapping.attach ─► unpickled
    no handle and no call is left: Owner ends ── notice ─►  drop_released

    result with a Shared: adopt ◄── descriptor ──────────── Shared.reduce_as_handle
      the call's future owns it until its handle is unpickled

The object's large data are out-of-band buffers of the pickle, which arrays use where they lie. A process keeps what it has mapped
until the owner gives it up, and longer where somebody still has an array of it. Other uses of this memory are in
`memory_copies.py` (copies of arrays that are recognized) and `shared_arrays.py` (arrays that calls write).

This module is imported with the first shared object.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from weakref import WeakValueDictionary

from pympipool import serialization
from pympipool._core.pickle_writer import register_handles
from pympipool._core.shared_memory import Mapping, Owner
from pympipool._util.cgroups import memory_left, read_text
from pympipool._util.cmodules import pickle
from pympipool._util.formatting import format_bytes, format_count
from pympipool._util.platform import HAS_PROC, close_descriptor
from pympipool._util.reprs import safe_repr, summarize_error, type_name
from pympipool.serialization.plain import CALL_IMMUTABLE_TYPES, CALL_SCALARS

if TYPE_CHECKING:
    from pympipool._core.private_copies import Usage

__all__ = ["Shared", "share"]

T = TypeVar("T")

KEY_BYTES = 16

CHECKED_BYTES = 64 << 20
"""Size from which the memory that is available is looked at before. The system would rather kill a process than refuse it."""

_NOT_LOADED: Any = object()


class SharedObject:
    """A shared object in this process: the owner's, or one that was mapped for calls.

    Attributes:
        key: Names it in all processes.
        mapping: Its memory.
        owner: Ends it for all processes. If the process does not own it, None; for an array, one that tells the calls' own workers.
        parts: The shared objects that are part of it; they live as long as it does.
        usage: How much calls use of the memory that they get as their own (see memory_copies.py). None: no call got any.
    """

    __slots__ = ("__weakref__", "_value", "key", "mapping", "owner", "parts", "usage")

    def __init__(
        self, key: bytes, mapping: Mapping, owner: Owner | None = None, parts: tuple[SharedObject, ...] = ()
    ) -> None:
        self.key = key
        self.mapping = mapping
        self.owner = owner
        self.parts = parts
        self.usage: Usage | None = None
        self._value: Any = _NOT_LOADED
        if mapping.is_writable:
            mapping.recognize_arrays(key)
        _objects[key] = self

    def value(self) -> Any:
        """Return the object, which is unpickled once.

        Raises:
            SerializationError: It cannot be unpickled in this process.
        """
        if self._value is _NOT_LOADED:
            parts = self.mapping.parts()
            try:
                self._value = pickle.loads(parts[0], buffers=parts[1:])
            except Exception as error:  # code of the user's classes may raise anything
                from pympipool.errors import SerializationError

                raise SerializationError(
                    f"cannot unpickle shared data in process {os.getpid()}: {summarize_error(error)}. The modules it needs"
                    " must be importable there"
                ) from error
        return self._value


_objects: WeakValueDictionary[bytes, SharedObject] = WeakValueDictionary()
"""All of this process."""

_pickled = threading.local()
"""The list `parts` gets the shared objects that are part of what this thread pickles to share it."""

_mapped: dict[bytes, SharedObject] = {}
"""Those that this process has mapped for calls, until their owner gives them up."""


class Shared(Generic[T]):
    """A handle of an object in shared memory, made by `share`.

    A call that gets it, anywhere among its arguments, gets the object in its place. The memory is released when no handle is left,
    and no call that was submitted with one.

    Attributes:
        nbytes: Bytes of shared memory that the object takes.
    """

    __slots__ = ("_object", "_type_name", "nbytes")

    def __init__(self, shared_object: SharedObject, type_name: str) -> None:
        self._object = shared_object
        self._type_name = type_name
        self.nbytes = shared_object.mapping.size_bytes

    @property
    def value(self) -> T:
        """The object as calls get it: its arrays are read-only views of the shared memory."""
        return cast(T, self._object.value())

    def reduce_as_handle(self) -> tuple[Any, ...]:
        """Reduce it for a result of a call. The master owns the object from now on, if it can; else it gets the data."""
        if serialization.master[0] is None or hand_over(self._object):
            return _load_handle, (self._object.key, self._type_name)
        return share, (self.value,)

    def __reduce__(self) -> tuple[Any, ...]:
        note_part(self._object)
        return load_value, (self._object.key,)

    def __copy__(self) -> Shared[T]:
        return self

    def __deepcopy__(self, _memo: object) -> Shared[T]:
        return self

    def __repr__(self) -> str:
        return f"<Shared {self._type_name}, {format_bytes(self.nbytes)}>"


def note_part(shared_object: SharedObject) -> None:
    """Note that what this thread pickles refers to a shared object, if that is to be shared itself."""
    found = getattr(_pickled, "parts", None)
    if found is not None:
        found.append(shared_object)


CALL_SCALARS.add(Shared)
CALL_IMMUTABLE_TYPES.add(Shared)
register_handles(Shared, serialization.SHARED_NUMBER)


def share(obj: T) -> Shared[T]:
    """Put an object into shared memory, once for all calls, workers and ranks of this host.

    Args:
        obj: Anything that can be pickled: arrays, data frames, dicts of arrays. Its arrays arrive read-only; what calls change in
            lists and dicts of it, later calls on the same worker see.

    Returns:
        A handle. Pass it to calls, also inside of containers, closures and `init_function`; they get the object.

    Raises:
        SerializationError: It cannot be pickled.
        MemoryError: There is not enough memory for it.
        OSError: No file descriptor is free: each shared object takes one.

    Examples:
        >>> from pympipool import Executor, share
        >>> table = share(list(range(100_000)))
        >>> with Executor(max_workers=1) as exe:
        ...     exe.submit(max, table).result()
        99999
    """
    if isinstance(obj, Shared):
        return obj
    from pympipool.serialization.by_value import dump_shared

    outer, _pickled.parts = getattr(_pickled, "parts", None), []
    try:
        parts, inner = dump_shared(obj), tuple(_pickled.parts)
    except MemoryError as error:
        raise MemoryError(
            f"no memory to pickle {safe_repr(obj)} of type {type_name(type(obj))}, which is shared"
        ) from error
    except Exception as error:  # code of the user's classes may raise anything
        from pympipool.errors import SerializationError

        raise SerializationError(
            f"cannot share {safe_repr(obj)} of type {type_name(type(obj))}: {summarize_error(error)}"
        ) from error
    finally:
        _pickled.parts = outer
    try:
        shared_object = store(parts, inner)
    except OSError as error:
        raise no_room(error, f"{safe_repr(obj)} of type {type_name(type(obj))}") from error
    return Shared(shared_object, type_name(type(obj)))


def no_room(error: OSError, what: str) -> OSError | MemoryError:
    """Return the exception for the user if there was no room in shared memory."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return OSError(
            error.errno,
            f"no descriptor is free to share {what}: each shared object takes one. Share a list or dict of many objects, or a"
            " larger array, instead of each, or raise the limit (ulimit -n)",
        )
    return MemoryError(f"no memory to share {what}: {error.strerror}. Drop what is shared and not needed any more")


def store(parts: Sequence[Any], inner: tuple[SharedObject, ...] = ()) -> SharedObject:
    """Write parts into new shared memory, which this process owns.

    Args:
        parts: Contiguous memory.
        inner: As for `SharedObject`.

    Raises:
        MemoryError, OSError: There is not enough memory for them.
    """
    check_memory(sum(memoryview(part).nbytes for part in parts))
    return own(Mapping.store(parts), inner)


def own(mapping: Mapping, inner: tuple[SharedObject, ...] = ()) -> SharedObject:
    """Return new shared memory as a shared object of this process."""
    return SharedObject(os.urandom(KEY_BYTES), mapping, Owner(mapping), inner)


def check_memory(size_bytes: int) -> None:
    """Raise MemoryError if this host, or the limit of this job, has less memory available, and the size is large."""
    if size_bytes < CHECKED_BYTES or not HAS_PROC:
        return
    figures = dict(line.split(":") for line in read_text("/proc/meminfo").splitlines())
    available = [(int(figures["MemAvailable"].split()[0]) << 10, "on this host")]
    if (left := memory_left()) is not None:
        available.append((left, "within the limit of this job or container (its cgroup)"))
    available_bytes, where = min(available)
    if size_bytes > available_bytes:
        raise MemoryError(
            f"no memory to share {format_bytes(size_bytes)}: {format_bytes(available_bytes)} are available {where}"
        )


def find(key: bytes) -> SharedObject | None:
    """Return the object of a key that this process can give to others; None if it has been released."""
    found = _objects.get(key)
    return found if found is not None and found.owner is not None else None


def adopt(key: bytes, descriptor: int, part_keys: Sequence[bytes]) -> SharedObject:
    """Own an object that a call has put into shared memory for its result. Closes the descriptor, or keeps it.

    Args:
        key: Its key.
        descriptor: Of its memory.
        part_keys: The keys of those that are part of it, and that were adopted before.

    Raises:
        OSError: The descriptor is none of shared data, or is missing: there was no room for it.
    """
    found = find(key)
    if found is not None:  # it was part of a result before, or is an array that the call had got
        if descriptor >= 0:
            close_descriptor(descriptor)
        return found
    if descriptor < 0:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    mapping = Mapping.attach(descriptor, keep_descriptor=True)
    return SharedObject(key, mapping, Owner(mapping), tuple(filter(None, map(find, part_keys))))


def hand_over(shared_object: SharedObject) -> bool:
    """Have the master own an object that the running call returns; return False if it cannot: it is on another host.

    Raises:
        OSError: It has no descriptor free.
    """
    control, pid = serialization.master
    request = getattr(control, "hand_over_shared", None)
    owner = shared_object.owner
    if request is None or pid != os.getpid() or owner is None:
        return False
    if not all(map(hand_over, shared_object.parts)):
        return False
    was_handed_over = owner.handed_over
    owner.hand_over()  # first: whatever happens then, two owners never end the same data
    if request(shared_object.key, shared_object.mapping.fileno(), [part.key for part in shared_object.parts]):
        return True
    owner.hand_over(was_handed_over)
    return False


def load_value(key: bytes) -> Any:
    """Return the shared object of a key: a loader, which pickles name by its path.

    Raises:
        SerializationError: It has been released, or this process cannot get it; or it cannot be unpickled here.
    """
    found = _mapped.get(key)
    if found is not None and found._value is not _NOT_LOADED:
        return found._value
    return load(key).value()


def load(key: bytes, keep_descriptor: bool = False) -> SharedObject:
    """Return the shared object of a key, which this process maps if it has not done so.

    Args:
        keep_descriptor: The memory will be mapped again.

    Raises:
        SerializationError: It has been released, or this process cannot get it.
    """
    found = _mapped.get(key) or _objects.get(key)
    if found is None:
        drop_released()
        mapping = Mapping.attach(_request(key), keep_descriptor)
        found = _mapped[key] = SharedObject(key, mapping, Owner(mapping, True) if mapping.is_writable else None)
    return found


def _load_handle(key: bytes, name: str) -> Shared[Any]:
    found = find(key)
    if found is None:
        from pympipool.errors import SerializationError

        raise SerializationError(f"the shared {name} has been released, or belongs to another process")
    return Shared(found, name)


def _request(key: bytes) -> int:
    """Return a descriptor of the memory of a shared object, from the master."""
    control, pid = serialization.master
    request = getattr(control, "request_shared", None)
    if request is None or pid != os.getpid():
        from pympipool.errors import SerializationError

        raise SerializationError(
            f"process {os.getpid()} cannot get shared data: only a worker of the script that shares them can, and a process"
            " that it forks has what the worker had"
        )
    descriptor = request(key)
    if descriptor is None:
        from pympipool.errors import SerializationError

        raise SerializationError(
            "the shared data of this call have been released: keep the handle until the call has ended"
        )
    return cast(int, descriptor)


# ---- the end ----


def drop_released() -> bool:
    """Forget the objects whose owners have given them up. Return True if the memory of one is still used."""
    ended = set(serialization.ended_keys)
    released = [
        _mapped.pop(key).mapping for key, kept in list(_mapped.items()) if kept.mapping.is_released or key in ended
    ]
    serialization.ended_keys.difference_update(ended)
    return any(sys.getrefcount(mapping) > _REFERENCES for mapping in released)


_REFERENCES = 3
"""References to a mapping that is not used: of the list, the variable, and the argument."""


def describe_owned() -> str:
    """Return how many objects this process owns, and their bytes of shared memory, as text; "" if none."""
    objects = filter(None, [reference() for reference in _objects.valuerefs()])
    owned = [one for one in objects if one.owner is not None and not one.owner.handed_over]
    size_bytes = sum(one.mapping.size_bytes for one in owned)
    return f"{format_count(len(owned), 'shared object')}, {format_bytes(size_bytes)}" if owned else ""


_KEYS = re.compile(b"(?=C%c(.{%d}))" % (KEY_BYTES, KEY_BYTES), re.DOTALL)


def objects_in(pickles: Iterable[Any]) -> list[SharedObject]:
    """Return the shared objects of this process to which pickles refer."""
    keys = {key for pickled in pickles for key in _KEYS.findall(pickled)}
    return [found for found in map(_objects.get, keys) if found is not None]
