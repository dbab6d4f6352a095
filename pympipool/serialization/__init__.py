"""Convert calls, results and exceptions to bytes and back.

    payload.py     calls and results to parts (a pickle and its out-of-band buffers) and back
    arrays.py      arrays that numpy's own pickle copies: subclasses, masked arrays, datetimes, memmaps
    exceptions.py  exceptions with their tracebacks to parts and back
    by_value.py    cloudpickle's pickler, for what plain pickle cannot do; imported when it is first needed
    classes.py     classes by value, which a result never changes
    reducers.py    what a script defines and pickle cannot store: decorated functions, type aliases, locks of classes
    enums.py       enums by value, with aliases, composite flags and attributes of members
    reloads.py     modules that were edited and reloaded

The two loaders below stand here because pickles name them by path: a longer name would make each pickle longer.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _array(buffer: "Any", kind: str, shape: "tuple[int, ...] | None" = None) -> "Any":
    """Return an array in the memory of the buffer (see `payload._ArrayPayload`)."""
    from numpy import frombuffer

    array = frombuffer(buffer, kind)
    return array if shape is None else array.reshape(shape)


def _unpack(*parts: "Any") -> "Any":
    """Unpickle a value that travelled pickled (see `payload.Pickled`)."""
    from pympipool.serialization.payload import load

    return load(parts)
