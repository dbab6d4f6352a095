"""Convert calls, results and exceptions to bytes and back.

    payload.py     calls and results to parts (a pickle and its out-of-band buffers) and back
    plain.py       values for which plain pickle is right
    future_search.py  futures among the arguments of a call; inputs.py: the call is pickled before their results are known
    columns.py     arguments and results of the calls of a batch, which share nothing; column_forms.py: how they travel
    copying.py     what can be copied in place of being pickled one by one
    arrays.py      arrays that numpy's own pickle copies: subclasses, masked arrays, datetimes, memmaps
    exceptions.py  exceptions with their tracebacks to parts and back
    exception_forms.py  the ways to pickle an exception so that it arrives unchanged; tracebacks.py: its traceback as text
    by_value.py    cloudpickle's pickler, for what plain pickle cannot do; imported when it is first needed
    classes.py     classes by value are received: a result never changes one, a call never has an old one
    definitions.py     classes by value are sent: each is pickled once, until it changes
    analysis.py        what the pickle of a function or class depends on; class_analysis.py and code_usage.py are parts of it
    reducers.py    what a script defines and pickle cannot store: decorated functions, type aliases, locks of classes
    skeletons.py   classes by value that are made empty first: slots, hooks of base classes, ctypes, msgspec
    references.py  weak references and context variables
    enums.py       enums by value, with aliases, composite flags and attributes of members
    reloads.py     modules that were edited and reloaded
    shared.py      objects in shared memory, which many calls use; memory_copies.py: copies there of arrays that calls got before
    shared_arrays.py   arrays in shared memory that calls write

The loaders below stand here because pickles name them by path: a longer name would make each pickle longer.
"""

import copyreg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

master: "tuple[Any, int]" = (None, 0)
"""In a worker, its connection to the master, and its pid: from there shared data come (see `shared.py`)."""


ended_keys: "set[bytes]" = set()
"""In a worker on another host, the keys of shared data that have ended, and whose memory there does not say so."""

release_functions: "Any" = None
"""In a worker, a function that forgets the functions that only the last call needed."""


def drop_released() -> None:
    """Forget shared data that have ended. A worker's channel calls it between calls when the master announces that some have."""
    import sys

    shared = sys.modules.get("pympipool.serialization.shared")
    if shared is not None:
        if release_functions is not None:
            release_functions()
        if shared.drop_released():
            import gc

            gc.collect()  # of objects that refer to each other


def shared_objects(pickles: "list[Any]") -> "list[Any]":
    """Return the shared data of this process to which pickles refer."""
    import sys

    shared = sys.modules.get("pympipool.serialization.shared")
    return [] if shared is None else shared.objects_in(pickles)


def describe_shared() -> str:
    """Return how many objects this process shares, and their size, as text; "" if none."""
    import sys

    shared = sys.modules.get("pympipool.serialization.shared")
    return "" if shared is None else str(shared.describe_owned())


def most_shared_bytes(from_now: bool = False) -> int:
    """Return the most bytes that this process has shared at a time; from_now: forget what was before, for the next time."""
    import sys

    memory = sys.modules.get("pympipool._core.shared_memory")
    return 0 if memory is None else int(memory.most_owned_bytes(from_now))


def _unpack(*parts: "Any") -> "Any":
    """Unpickle a value that travelled pickled (see `plain.Pickled`)."""
    from pympipool.serialization.payload import load

    return load(parts)


def _items(array: "Any") -> "list[Any]":
    """Return the numpy scalars or arrays that travelled as one array (see `column_forms.ArrayColumn`)."""
    return list(array) if array.ndim == 1 else [row.copy() for row in array]


def _entries(entries: "list[Any]", prefix: bytes = b"") -> "Any":
    """Return values that are still pickled (see `column_forms.Entries`)."""
    from pympipool.serialization.column_forms import Entries

    return Entries(entries, prefix=prefix)


def _records(form: "Any", count: int) -> "Any":
    """Return values of one shape that travelled as columns of what they consist of (see `column_forms.Records`)."""
    from pympipool.serialization.column_forms import Records

    return Records(form, count)


def _built_records(form: "Any", count: int) -> "list[Any]":
    """Return the same values as a list."""
    from pympipool._core.records import rows_of

    return rows_of(form, count)


def _rows(*parts: "Any") -> "Any":
    """Return the arguments of calls, copies of instances among them (see `column_forms.Rows`)."""
    from pympipool.serialization.column_forms import Rows
    from pympipool.serialization.payload import load

    kinds, columns = load(parts)
    return Rows(columns, kinds)


def empty_cache(wrapper: "Any") -> bool:
    """Empty the cache of a function of `functools.lru_cache` before a call, as if the function had just been sent."""
    wrapper.cache_clear()
    return True


CLASSES_MARK = b"pympipool.serialization.classes"
"""Bytes that each pickle contains that contains a class by value: the name of `classes.py`, or the beginning of a definition."""

HANDLE_MARK = b"pympipool.serialization.shared"
"""Bytes that each pickle of a result contains that has a handle of a shared object: the name of `shared.py`."""

WORKER_MARK = "__pympipool_worker__"
"""The name in a worker's `__main__` of three dicts: the latest classes of the script that the worker has received, by name; the
functions of the script that `__main__` has got for the call that runs; and by module, the globals that the initializer has set."""


def _define_function(function: "Any", state: "Any") -> None:
    """Complete a function that travelled by value. In a worker, a function of the script becomes part of `__main__`.

    There pickle and multiprocessing look for it: they store functions by name.
    """
    import sys

    from cloudpickle.cloudpickle import _function_setstate

    _function_setstate(function, state)
    names = sys.modules["__main__"].__dict__
    _, functions, initialized = names.get(WORKER_MARK, (None, None, None))
    if initialized and function.__module__ in initialized:
        function.__globals__.update(initialized[function.__module__])
    if functions is not None and function.__module__ == "__main__" and function.__qualname__.isidentifier():
        names[function.__qualname__] = functions[function.__qualname__] = function
        functions[""] = None  # tells the worker that one has arrived, also if it had one of this name


def _define_class(kind: type, state: "Any") -> None:
    """Complete a class that travelled by value. A worker notes a class of the script under its name."""
    import sys

    from cloudpickle.cloudpickle import _class_setstate

    _class_setstate(kind, state)
    classes, *_ = sys.modules["__main__"].__dict__.get(WORKER_MARK, (None,))
    if classes is not None and kind.__module__ == "__main__" and kind.__qualname__.isidentifier():
        classes[kind.__qualname__] = kind


_LOADERS = (
    ("pympipool._core.array_opcodes", "load_array"),
    ("pympipool.serialization", "_items"),
    ("pympipool.serialization", "_entries"),
    ("pympipool.serialization", "_rows"),
    ("pympipool.serialization", "_records"),
    ("pympipool.serialization", "_built_records"),
    ("pympipool.serialization.arrays", "_array_of"),
    ("pympipool.serialization.classes", "load_class"),
    ("pympipool.serialization.classes", "find_class"),
    ("pympipool.serialization.shared_arrays", "load_view"),
    ("pympipool.serialization.shared", "load_value"),
    ("pympipool._core.array_opcodes", "load_scalar"),
)
"""Functions for which pickles have a number in place of the name: a name is imported, which takes 1 us. Cached results have these
numbers: further ones belong at the end."""

_FIRST_NUMBER = ARRAY_NUMBER = 0x706D7000

for _number, (_module, _name) in enumerate(_LOADERS, _FIRST_NUMBER):
    copyreg.add_extension(_module, _name, _number)

VIEW_NUMBER, SHARED_NUMBER, SCALAR_NUMBER = range(_number - 2, _number + 1)
"""The numbers of `load_view`, `load_value` and `load_scalar`, the last ones."""

_SHARED_MARKS = [b"\x84" + number.to_bytes(4, "little") for number in (VIEW_NUMBER, SHARED_NUMBER)]
"""Bytes of these loaders in pickles (EXT4)."""


def has_shared(pickled: "Any") -> bool:
    """Return True if a pickle of a call, or of a result, may have something in shared memory.

    Args:
        pickled: An object with the buffer protocol.
    """
    return contains(pickled, (*_SHARED_MARKS, HANDLE_MARK))


def contains(data: "Any", marks: "tuple[bytes, ...]") -> bool:
    """Return True if one of these bytes occurs in an object with the buffer protocol, which is not copied."""
    if type(data) is bytes:
        for mark in marks:
            if mark in data:
                return True
        return False
    from re import escape, search

    return search(b"|".join(map(escape, marks)), data) is not None
