"""serialization, raised, words: everything arrives as it was, by whichever pickler; what cannot, says so.

What is right can only be seen in another process: there `__main__` is another module. `Elsewhere` is such a process.
"""

from __future__ import annotations

import collections
import contextlib
import copyreg
import dataclasses
import enum
import fractions
import gc
import io
import os
import pickle
import subprocess
import sys
import threading
import traceback
import types
import weakref

import cloudpickle
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pympipool._util.reprs import callable_name
from pympipool.errors import RemoteError, RemoteTraceback, SerializationError
from pympipool.serialization import by_value, exceptions, payload
from pympipool.serialization.exceptions import dump_exception, format_exception, load_exception
from pympipool.serialization.payload import (
    IN_BAND_BELOW_BYTES,
    OUT_OF_BAND_MAX,
    RUN_BYTES,
    Pickled,
    dump,
    dump_call,
    load,
)

ELSEWHERE = """
import pickle, sys
from pympipool.serialization.exceptions import dump_exception
from pympipool.serialization.payload import dump, load
source, sink = sys.stdin.buffer, sys.stdout.buffer
while True:
    try:
        parts = pickle.load(source)
    except EOFError:
        break
    try:
        function, args, kwargs = load(parts)
        answer = ("result", dump(function(*args, **kwargs)))
    except BaseException as error:
        answer = ("error", dump_exception(error, "elsewhere"))
    word, parts = answer
    pickle.dump((word, [bytes(part) for part in parts]), sink)
    sink.flush()
"""


class Elsewhere:
    """Another Python process, which runs calls as a worker does."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def run(self, function, *args, **kwargs):
        parts = [bytes(part) for part in dump_call(0, function, args, kwargs)]
        pickle.dump(parts, self.process.stdin)
        self.process.stdin.flush()
        word, parts = pickle.load(self.process.stdout)
        if word == "error":
            raise load_exception(parts)
        return load(parts)

    def close(self) -> None:
        with self.process:
            self.process.stdin.close()
        assert self.process.returncode == 0


@pytest.fixture(scope="module")
def elsewhere():
    process = Elsewhere()
    yield process
    process.close()


def in_main(source: str) -> dict:
    """Runs source as if it were typed into a script: what it defines belongs to `__main__`, and is not importable."""
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(source, names)
    return names


def travel(value):
    """The value as the other side gets it, its buffers in memory of their own."""
    parts = dump(value)
    assert type(parts[0]) is bytes
    return load([parts[0], *(bytearray(part) for part in parts[1:])])


# ---- values ----

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    scalars | st.fractions() | st.decimals(allow_nan=False) | st.dates() | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(scalars, inner)
        | st.sets(scalars)
        | st.frozensets(scalars)
        | st.lists(inner).map(collections.deque)
    ),
)


@given(values)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_arrives_equal_and_of_its_type(value):
    arrived = travel(value)
    assert arrived == value
    assert type(arrived) is type(value)


@given(values, st.dictionaries(st.text(), values, max_size=2))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_any_call_arrives_with_its_arguments(value, kwargs):
    assert load(dump_call(7, max, (value, 1), kwargs)) == ((value, 1), kwargs)
    assert load(dump_call(0, max, (value, 1), kwargs)) == (max, (value, 1), kwargs)


def test_identity_and_circles_inside_a_value_are_kept():
    shared = [1]
    circle = [shared, shared]
    circle.append(circle)
    arrived = travel(circle)
    assert arrived[0] is arrived[1]
    assert arrived[2] is arrived


def test_a_class_of_main_arrives_by_value_and_comes_back_as_the_same_class(elsewhere):
    names = in_main(
        "import dataclasses, enum\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int\n    def twice(self): return Point(2 * self.x)\n"
        "class Colour(enum.Enum):\n    RED = 1\n"
        "def f(p, *more): return p.twice()\n"
        "def g(c): return c, type(c)\n"
    )
    point, red = names["Point"](3), names["Colour"].RED
    arrived = elsewhere.run(names["f"], point, [point], {"a": (point,)})
    assert arrived == names["Point"](6)
    assert type(arrived) is names["Point"]
    assert elsewhere.run(names["g"], red) == (red, names["Colour"])


@pytest.mark.parametrize("depth", range(6))
def test_what_belongs_to_main_is_found_at_any_depth_of_a_container(elsewhere, depth):
    value = in_main("def f(): return 'of main'")["f"]
    for _ in range(depth):
        value = {"deeper": [1, (value,)]}
    dump(value)  # without a function beside it that needs the slow way anyway; by reference it would fail here
    dump_call(1, max, (value,), {"k": value})

    def dig(value):
        while isinstance(value, dict):
            value = value["deeper"][1][0]
        return value()

    assert elsewhere.run(dig, value) == "of main"


def test_what_belongs_to_main_is_found_inside_arrays_and_long_lists(elsewhere):
    names = in_main("class Thing:\n    word = 'of main'\n")
    array = np.array([names["Thing"]()], dtype=object)
    assert travel(array)[0].word == "of main"
    long = [0] * 10_000 + [names["Thing"]()]
    assert elsewhere.run(lambda a, b: (a[0].word, b[-1].word), array, long) == ("of main", "of main")


def test_a_class_that_main_really_has_arrives_by_value(elsewhere, monkeypatch):
    kind = in_main("class OfMain:\n    word = 'of main'\n")["OfMain"]
    monkeypatch.setattr(sys.modules["__main__"], "OfMain", kind, raising=False)
    assert elsewhere.run(lambda one: one.word, kind()) == "of main"


def test_lambdas_closures_and_their_globals_arrive(elsewhere):
    names = in_main("N = 5\nhelper = lambda x: x * N\ndef outer(y):\n    return lambda x: helper(x) + y\n")
    assert elsewhere.run(names["outer"](2), 3) == 17


def test_modules_and_functions_by_reference_arrive(elsewhere):
    assert elsewhere.run(lambda module, function: function(module.pi), __import__("math"), str) == "3.141592653589793"


def test_functions_registered_to_travel_by_value_do(elsewhere, tmp_path, monkeypatch):
    (tmp_path / "travels_by_value.py").write_text("class Thing:\n    word = 'sent along'\ndef f(t): return t.word\n")
    monkeypatch.syspath_prepend(tmp_path)
    import travels_by_value

    with pytest.raises(SerializationError, match="No module named 'travels_by_value'"):
        elsewhere.run(travels_by_value.f, travels_by_value.Thing())
    cloudpickle.register_pickle_by_value(travels_by_value)
    try:
        assert elsewhere.run(travels_by_value.f, travels_by_value.Thing()) == "sent along"
    finally:
        cloudpickle.unregister_pickle_by_value(travels_by_value)


def test_reducers_registered_late_are_heeded(monkeypatch):
    @dataclasses.dataclass
    class Odd:
        lock: object

    monkeypatch.setitem(copyreg.dispatch_table, Odd, lambda odd: (Odd, ("by copyreg",)))
    assert travel(Odd(threading.Lock())).lock == "by copyreg"
    monkeypatch.setitem(copyreg.dispatch_table, Odd, lambda odd: (Odd, ("by another",)))
    assert travel(Odd(threading.Lock())).lock == "by another"
    monkeypatch.setitem(cloudpickle.Pickler.dispatch_table.maps[0], Odd, lambda odd: (Odd, ("by cloudpickle",)))
    assert travel(Odd(threading.Lock())).lock == "by cloudpickle"


def test_plain_values_do_not_take_the_slow_way(monkeypatch):
    monkeypatch.setattr(by_value, "dump", None)
    for value in (
        1,
        "a",
        [1, 2],
        {"a": (1, [2.5])},
        np.arange(3),
        {"x": np.zeros((2, 2))},
        np.float64(2),
        [np.int8(1)],
    ):
        dump(value)
        dump_call(1, max, (value,), {"k": value})


@pytest.mark.parametrize("name", ["str", "int", "dict", "list", "tuple", "float", "frozenset"])
def test_instances_of_subclasses_of_builtins_are_not_taken_for_plain(elsewhere, name):
    mine = in_main(f"class Mine({name}):\n    word = 'of main'\n")["Mine"]()
    assert elsewhere.run(lambda one: one.word, mine) == "of main"
    if name not in ("dict", "list"):
        assert elsewhere.run(lambda some: next(iter(some)).word, {mine: 1}) == "of main"


# ---- arrays and buffers ----


@pytest.mark.parametrize("count", [0, 1, 10, IN_BAND_BELOW_BYTES // 8 - 1, IN_BAND_BELOW_BYTES // 8, 100_000])
@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: {"a": [a]}, lambda a: (a, fractions.Fraction(1, 3))])
def test_arrays_of_all_sizes_arrive_writable_and_private(count, wrap):
    array = np.arange(count, dtype=float)
    arrived = find_array(travel(wrap(array)))
    assert np.array_equal(arrived, array)
    assert arrived.flags.writeable
    arrived += 1
    assert np.array_equal(array, np.arange(count))


def find_array(value):
    while not isinstance(value, np.ndarray):
        value = value["a"] if isinstance(value, dict) else value[0]
    return value


KINDS_OF_ARRAYS = pytest.mark.parametrize(
    "array",
    [
        *(np.arange(6).astype(kind).reshape(2, 3) for kind in "?bhilqBHILQefdgFDG"),
        np.arange(7.0),
        np.zeros(3, np.dtype(float, metadata={"unit": "eV"})),
        np.asfortranarray(np.arange(30_000.0).reshape(100, 300)),
        np.arange(60_000.0)[::2],
        np.arange(60_000.0).reshape(200, 300).T[::-1],
        np.array([["a", "bc"]] * 9000),
        np.zeros(9000, dtype=[("x", float), ("y", np.int8, 3)]),
        np.arange(20_000, dtype=">i4"),
        np.array(["2020-01-01"], dtype="datetime64[s]").repeat(9000),
        np.array([{1: 2}, None, "x"] * 5, dtype=object),
        np.array(3.5),
        np.zeros((0, 7)),
        np.ma.masked_array(np.arange(9000.0), mask=np.arange(9000) % 2 == 0),
        np.rec.array([(1, 2.0)], dtype=[("x", int), ("y", float)]),
    ],
    ids=lambda a: f"{type(a).__name__}-{a.dtype.char}-{a.shape}",
)


@KINDS_OF_ARRAYS
def test_arrays_of_every_kind_arrive_as_they_were(array):
    assert_same_array(travel(array), array)
    assert_same_array(travel((1, array))[1], array)
    assert_same_array(travel([array])[0], array)


@KINDS_OF_ARRAYS
def test_arrays_of_every_kind_arrive_as_they_were_as_arguments(array):
    for number in (0, 1):
        parts = dump_call(number, print, (array, 2, array), {})
        args, _ = load([bytearray(part) for part in parts])[-2:]
        assert_same_array(args[0], array)
        assert args[1] == 2
        assert args[2] is args[0]


def test_an_array_that_is_met_twice_in_a_call_arrives_as_one():
    array = np.arange(5.0)
    args, kwargs = load(dump_call(1, print, (array, [array], {"a": (array,)}), {"b": array}))
    assert args[0] is args[1][0] is args[2]["a"][0] is kwargs["b"]
    first, second = travel((array, array))
    assert first is second
    first += 1
    assert second[0] == 1
    assert array[0] == 0


def assert_same_array(arrived, array):
    assert type(arrived) is type(array)
    assert arrived.flags.writeable
    # numpy 2.2 makes {} of None where it unpickles datetimes
    assert dict(arrived.dtype.metadata or {}) == dict(array.dtype.metadata or {})
    assert arrived.dtype == array.dtype
    assert arrived.shape == array.shape
    assert arrived.flags.f_contiguous == array.flags.f_contiguous or not array.flags.contiguous
    np.testing.assert_array_equal(arrived, array)


def test_small_arrays_stay_inside_the_pickle():
    assert len(dump([np.zeros(IN_BAND_BELOW_BYTES // 8 - 1)] * 3)) == 1
    assert len(dump([np.zeros(IN_BAND_BELOW_BYTES // 8) for _ in range(3)])) == 4


@pytest.mark.parametrize("size", [0, 1, RUN_BYTES - 1, RUN_BYTES, 10 * RUN_BYTES])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_of_any_size_arrive_as_they_were(kind, size):
    value = kind(b"abcdefg" * (size // 7 + 1))[:size]
    for arrived in (travel(value), travel([value])[0]):
        assert type(arrived) is kind
        assert arrived == value
    (args, kwargs) = load(dump_call(1, print, (value, 1), {"end": value}))
    assert (args, kwargs) == ((value, 1), {"end": value})
    assert type(args[0]) is kind


def test_large_bytes_travel_as_views_of_their_own_memory():
    value = bytes(RUN_BYTES)
    pickled, view = dump(value)
    assert len(pickled) < 100
    assert np.shares_memory(np.frombuffer(view, "u1"), np.frombuffer(value, "u1"))
    assert len(dump_call(1, print, (1, value), {})) == 2
    assert len(dump(value[:-1])) == 1


def test_large_bytes_that_are_met_twice_travel_once():
    value = bytes(RUN_BYTES)
    for parts in (dump((value, 1, value)), dump_call(1, print, (value, 1, value), {})):
        assert len(parts) == 2
        arrived = load([bytearray(part) for part in parts])
        first, _, second = arrived if len(arrived) == 3 else arrived[0]
        assert first is second
        assert first == value


def test_a_bytearray_may_be_changed_once_it_is_pickled():
    value = bytearray(10 * RUN_BYTES)
    parts = dump(value)
    value[0] = 1
    assert load(parts)[0] == 0


def test_large_arrays_travel_as_views_of_their_own_memory():
    array = np.zeros(100_000)
    pickled, view = dump(array)
    array[3] = 7  # before it is sent
    assert len(pickled) < 1000
    assert np.frombuffer(view)[3] == 7
    assert (view.ndim, view.format, view.nbytes) == (1, "B", array.nbytes)


def test_an_array_uses_the_memory_it_is_given_unless_that_is_read_only():
    pickled, view = dump(np.arange(100_000.0))
    memory = bytearray(view)
    assert np.shares_memory(load([pickled, memory]), np.frombuffer(memory))
    arrived = load([pickled, bytes(view)])
    assert arrived.flags.writeable


def test_a_read_only_array_arrives_read_only():
    for count in (10, 100_000):
        array = np.zeros(count)
        array.flags.writeable = False
        assert not travel(array).flags.writeable


def test_no_more_buffers_leave_the_pickle_than_a_message_has_parts():
    arrays = [np.full(IN_BAND_BELOW_BYTES // 8, number, dtype=float) for number in range(OUT_OF_BAND_MAX + 50)]
    parts = dump(arrays)
    assert len(parts) == 1 + OUT_OF_BAND_MAX
    arrived = load([parts[0], *map(bytearray, parts[1:])])
    assert [array[0] for array in arrived] == list(range(len(arrays)))
    assert all(array.flags.writeable for array in arrived)


def test_numpy_is_not_imported_for_the_sake_of_pickling():
    code = "import sys; from pympipool.serialization.payload import *; load(dump([1, print])); print('numpy' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "False"


def test_numpy_imported_late_is_noticed(monkeypatch):
    monkeypatch.setattr(payload, "_array_type", None)
    monkeypatch.setattr(payload, "_scalars", {int})
    monkeypatch.setattr(by_value, "dump", None)
    assert travel(np.float64(2)) == 2
    assert travel(np.arange(2)).tolist() == [0, 1]


@pytest.mark.parametrize("value", [5, "text", [np.arange(50_000.0), np.arange(5.0)]])
def test_a_packed_value_becomes_the_value_where_it_is_loaded(value):
    packed = Pickled([bytearray(part) for part in dump(value)])
    (arrived,), kwargs = travel(((packed,), {}))
    assert repr(arrived) == repr(value)
    assert kwargs == {}


# ---- what cannot travel ----


def test_an_argument_that_cannot_be_pickled_is_named_with_type_value_reason_and_remedy():
    with pytest.raises(SerializationError) as caught:
        dump_call(0, divmod, (1, threading.Lock()), {})
    text = str(caught.value)
    for words in ("argument 2 of divmod()", "_thread.lock", "<unlocked", "TypeError", "inside the function"):
        assert words in text
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_keyword_argument_that_cannot_be_pickled_is_named():
    with pytest.raises(SerializationError, match=r"argument 'file' of print\(\)"):
        dump_call(3, print, (1,), {"file": [sys.stdout, threading.Lock()]})


def test_a_function_that_cannot_be_pickled_is_named():
    lock = threading.Lock()

    def hold():
        return lock

    with pytest.raises(SerializationError, match=r"the function .*hold\(\)"):
        dump_call(0, hold, (), {})


def test_a_value_whose_repr_fails_is_shown_all_the_same():
    class Bad:
        def __repr__(self):
            raise ValueError("no repr")

        def __reduce__(self):
            raise KeyError("no pickle")

    with pytest.raises(SerializationError, match=r"Bad.*KeyError: 'no pickle'"):
        dump(Bad(), "the result of f()")


def test_values_too_deep_to_pickle_say_so():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for attempt in (lambda: dump(deep), lambda: dump_call(1, max, (deep,), {})):
        with pytest.raises(SerializationError, match=r"[Rr]ecursion"):
            attempt()
    while deep:  # taken apart here: its destruction recurses too
        deep = deep[0]


def test_what_cannot_be_unpickled_says_what_and_why():
    with pytest.raises(
        SerializationError, match=r"cannot unpickle the result of f\(\).*ModuleNotFoundError.*no_such_m"
    ):
        load([pickle.dumps(1).replace(b"K\x01", b"cno_such_module\nx\n")], "the result of f()")
    with pytest.raises(SerializationError, match="buffer size"):
        load([dump(np.zeros(100_000))[0], bytearray(1)])
    with pytest.raises(SerializationError):
        load([b"garbage"])


def test_ctrl_c_while_pickling_stays_what_it_is():
    class Slow:
        def __reduce__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dump(Slow())


# ---- exceptions ----


class OwnInit(Exception):
    def __init__(self, code, *, unit):
        super().__init__(f"code {code} {unit}")
        self.code = code


class Twisted(Exception):
    """Pickles well, unpickles without complaint, and says something else then."""

    def __init__(self, word):
        super().__init__(f"<{word}>")


class WithLock(Exception):
    def __init__(self):
        super().__init__("held")
        self.lock = threading.Lock()
        self.answer = 42


class LockInArgs(Exception):
    pass


class Disguised(Exception):
    def __reduce__(self):
        return ValueError, self.args


class Unshowable(Exception):
    def __str__(self):
        raise ValueError("cannot say it")


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as raised:
        return raised


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong", 3),
        KeyError("key"),
        OSError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        StopIteration(4),
        SystemExit(3),
        KeyboardInterrupt(),
        OwnInit(3, unit="mm"),
        Twisted("word"),
        Disguised("no ValueError"),
        np.linalg.LinAlgError("singular"),
        RecursionError("deep"),
        subprocess.CalledProcessError(3, ["ls"], b"out", b"err"),
        KeyError(object()),
        Unshowable(),
        ImportError("no", name="n", path="p"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_arrive_with_type_message_and_attributes(error, any_registration):
    any_registration(type(error))
    arrived = load_exception(dump_exception(caught(error), "worker 3 on node1"))
    if isinstance(error, Unshowable):  # nobody can tell whether it is the same
        assert isinstance(arrived, RemoteError)
        return
    assert type(arrived) is type(error)
    strip = exceptions._without_addresses
    assert strip(str(arrived)) == strip(str(error))
    assert vars(arrived).keys() == vars(error).keys()
    assert isinstance(arrived.__cause__, RemoteTraceback)
    assert "worker 3 on node1" in str(arrived.__cause__)
    assert "in caught" in str(arrived.__cause__)


def test_an_exception_of_main_arrives_as_the_masters_own_class(elsewhere):
    names = in_main("class Mine(Exception): pass\ndef f(): raise Mine('own')\n")
    with pytest.raises(names["Mine"], match="own") as caught_there:
        elsewhere.run(names["f"])
    assert "in f" in str(caught_there.value.__cause__)


def test_notes_causes_and_contexts_arrive_in_the_traceback():
    def fail():
        try:
            try:
                {}["first"]
            except KeyError as error:
                raise ValueError("second") from error
        except ValueError:
            raise RuntimeError("third")  # noqa: B904

    try:
        fail()
    except RuntimeError as error:
        error.__notes__ = ["a note"]
        arrived = load_exception(dump_exception(error))
    text = str(arrived.__cause__)
    for words in ("'first'", "direct cause", "second", "During handling", "third"):
        assert words in text
    assert arrived.__notes__ == ["a note"]
    shown = "".join(traceback.format_exception(type(arrived), arrived, None))
    assert "in fail" in shown


def test_attributes_that_cannot_travel_are_left_out_and_named():
    arrived = load_exception(dump_exception(caught(WithLock())))
    assert type(arrived) is WithLock
    assert arrived.answer == 42
    assert not hasattr(arrived, "lock")
    assert "left out: lock" in str(arrived.__cause__)


def test_an_exception_that_cannot_travel_at_all_is_told_by_name_message_and_reason():
    arrived = load_exception(dump_exception(caught(LockInArgs("why", threading.Lock()))))
    assert isinstance(arrived, RemoteError)
    assert arrived.type_name.endswith("LockInArgs")
    assert "why" in arrived.message
    assert "pickle" in arrived.reason
    assert "in caught" in str(arrived.__cause__)


def test_an_exception_class_that_only_the_worker_has_is_told_by_name(elsewhere, tmp_path):
    (tmp_path / "theirs_only.py").write_text("class Theirs(Exception): pass\n")

    def fail(folder):
        import sys

        sys.path.insert(0, folder)
        import theirs_only

        raise theirs_only.Theirs("from there")

    with pytest.raises(RemoteError, match=r"theirs_only.Theirs: from there") as caught_here:
        elsewhere.run(fail, str(tmp_path))
    assert "No module named 'theirs_only'" in caught_here.value.reason
    assert "raise theirs_only.Theirs" in str(caught_here.value.__cause__) or "in fail" in str(
        caught_here.value.__cause__
    )


def test_tracebacks_of_other_ranks_are_shown_too():
    other = format_exception(caught(KeyError("other")), "rank 1")
    arrived = load_exception(dump_exception(caught(ValueError("mine")), "rank 0", also=[other]))
    text = str(arrived.__cause__)
    assert text.index("rank 0") < text.index("mine") < text.index("rank 1") < text.index("other")


def test_the_traceback_begins_with_the_users_code():
    try:
        load([b"", b""], "what")  # raises inside pympipool
    except SerializationError as error:
        text = format_exception(error)
        own = format_exception(error.__cause__)  # all its frames are pympipool's
    assert "in test_the_traceback" in text
    assert "in load" in own  # at least these

    module = types.ModuleType("inside")
    code = compile("def serve(f): f()", os.path.join(os.path.dirname(payload.__file__), "worker.py"), "exec")
    exec(code, module.__dict__)
    with contextlib.suppress(ZeroDivisionError):
        try:
            module.serve(lambda: 1 / 0)
        except ZeroDivisionError as error:
            text = format_exception(error.with_traceback(error.__traceback__.tb_next))
            assert "in serve" not in text
            assert "<lambda>" in text


def test_dumping_an_exception_keeps_nothing_of_its_frames_alive():
    class Thing:
        pass

    def fail():
        thing = Thing()
        watched.append(weakref.ref(thing))
        raise LockInArgs(threading.Lock(), "x")

    watched: list = []
    gc.disable()
    try:
        try:
            fail()
        except LockInArgs as error:
            dump_exception(error)
        assert watched[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("hook", ["__str__", "__reduce_ex__", "__getattribute__"])
def test_dumping_never_raises_whatever_the_exception_does(hook):
    def explode(*_):
        raise SystemError("explodes")

    kind = type("Mean", (Exception,), {hook: explode})
    parts = dump_exception(kind("x"), "here")
    assert isinstance(load_exception(parts), (RemoteError, kind))


def test_parts_that_hold_no_exception_are_refused():
    for parts in ([b"garbage"], dump(1), dump("text")):
        with pytest.raises(SerializationError, match="no exception"):
            load_exception(parts)


# ---- names ----


def test_everything_that_can_be_called_has_a_name():
    class Called:
        def __call__(self):
            pass

        def method(self):
            pass

    import functools

    assert callable_name(Called()).endswith("Called")
    assert callable_name(Called().method).endswith("Called.method")
    assert callable_name(functools.partial(functools.partial(max, 1), 2)) == "max"
    assert callable_name(np.sin) == "sin"
    assert callable_name(lambda: 0).endswith("<lambda>")
    assert callable_name(io.StringIO) == "StringIO"
    assert callable_name(enum.Enum) == "Enum"
