"""Exceptions arrive with type, message, attributes and traceback; what cannot be pickled is described."""

from __future__ import annotations

import contextlib
import gc
import linecache
import os
import subprocess
import sys
import threading
import traceback
import types
import weakref

import numpy as np
import pytest

import pympipool
from pympipool._core.copies import Copier
from pympipool._core.separation import NO_COPY
from pympipool.errors import RemoteError, RemoteTraceback, SerializationError
from pympipool.serialization import exception_forms
from pympipool.serialization.exceptions import dump_exception, load_exception
from pympipool.serialization.payload import (
    dump,
    load,
)
from pympipool.serialization.tracebacks import add_source_lines, format_exception
from support.nasty_exceptions import Frozen
from support.pickling import define_in_main


class OwnInit(Exception):
    def __init__(self, code, *, unit):
        super().__init__(f"code {code} {unit}")
        self.code = code


class ChangedByPickling(Exception):
    """Can be pickled and unpickled, but its message is another one afterwards."""

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


class Slots(Exception):
    __slots__ = ("__secret", "code", "unset")

    def __init__(self, code):
        super().__init__("slots")
        self.code = code
        self.__secret = code + 1

    def secret(self):
        return self.__secret


class SlotsAndOwnInit(Slots):
    __slots__ = ("lock",)

    def __init__(self, *, code):
        super().__init__(code)
        self.lock = threading.Lock()


class OwnNew(Exception):
    def __new__(cls, a, b):
        self = super().__new__(cls, a, b)
        self.total = a + b
        return self

    def __init__(self, a, b):
        super().__init__("new")


class OwnOSError(OSError):
    def __init__(self, path, *, why):
        super().__init__(2, "no such folder", path)
        self.why = why


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
        ChangedByPickling("word"),
        Disguised("no ValueError"),
        np.linalg.LinAlgError("singular"),
        RecursionError("deep"),
        subprocess.CalledProcessError(3, ["ls"], b"out", b"err"),
        KeyError(object()),
        Unshowable(),
        ImportError("no", name="n", path="p"),
        Slots(3),
        OwnNew(1, 2),
        OwnOSError("/x", why="typo"),
        Frozen(3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_arrive_with_type_message_and_attributes(error, any_registration):
    any_registration(type(error))
    arrived = load_exception(dump_exception(caught(error), "worker 3 on node1"))
    if isinstance(error, Unshowable):  # its message cannot be compared
        assert isinstance(arrived, RemoteError)
        return
    assert type(arrived) is type(error)
    strip = exception_forms._without_addresses
    assert strip(str(arrived)) == strip(str(error))
    assert vars(arrived).keys() == vars(error).keys()
    assert isinstance(arrived.__cause__, RemoteTraceback)
    assert "worker 3 on node1" in str(arrived.__cause__)
    assert "in caught" in str(arrived.__cause__)


def test_exception_of_main_arrives_as_masters_class(other_process):
    names = define_in_main("class Mine(Exception): pass\ndef f(): raise Mine('own')\n")
    with pytest.raises(names["Mine"], match="own") as caught_there:
        other_process.run(names["f"])
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


def test_unpicklable_attributes_are_dropped_and_named():
    arrived = load_exception(dump_exception(caught(WithLock())))
    assert type(arrived) is WithLock
    assert arrived.answer == 42
    assert not hasattr(arrived, "lock")
    assert "left out: lock" in str(arrived.__cause__)


def test_values_of_slots_arrive():
    arrived = load_exception(dump_exception(caught(Slots(7))))
    assert (arrived.code, arrived.secret(), hasattr(arrived, "unset")) == (7, 8, False)
    arrived = load_exception(dump_exception(caught(SlotsAndOwnInit(code=7))))
    assert (type(arrived), arrived.code, arrived.secret()) == (SlotsAndOwnInit, 7, 8)
    assert "left out: lock" in str(arrived.__cause__)


def test_fields_of_builtin_base_arrive():
    arrived = load_exception(dump_exception(caught(OwnOSError("/x", why="typo"))))
    assert (arrived.errno, arrived.filename, arrived.why) == (2, "/x", "typo")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11 has exception groups")
def test_bad_member_of_group_keeps_the_others():
    class Own(ExceptionGroup):  # noqa: F821
        def __new__(cls, *, errors):
            group = super().__new__(cls, "several", errors)
            group.extra = 1
            return group

        def __init__(self, *, errors):
            pass

    inner = ExceptionGroup("inner", [LockInArgs(threading.Lock()), WithLock()])  # noqa: F821
    arrived = load_exception(dump_exception(caught(Own(errors=[OwnInit(3, unit="mm"), inner]))))
    assert (type(arrived).__name__, arrived.message, arrived.extra) == ("Own", "several", 1)
    first, second = arrived.exceptions
    assert (type(first), first.code) == (OwnInit, 3)
    assert [type(error) for error in second.exceptions] == [RemoteError, WithLock]
    assert second.exceptions[0].type_name.endswith("LockInArgs")
    assert "left out: exceptions[1].exceptions[1].lock" in str(arrived.__cause__)


def test_unpicklable_exception_arrives_as_remote_error():
    arrived = load_exception(dump_exception(caught(LockInArgs("why", threading.Lock()))))
    assert isinstance(arrived, RemoteError)
    assert arrived.type_name.endswith("LockInArgs")
    assert "why" in arrived.message
    assert "pickle" in arrived.reason
    assert "in caught" in str(arrived.__cause__)


def test_unimportable_exception_class_arrives_as_remote_error(other_process, tmp_path):
    (tmp_path / "theirs_only.py").write_text("class Theirs(Exception): pass\n")

    def fail(folder):

        sys.path.insert(0, folder)
        import theirs_only

        raise theirs_only.Theirs("from there")

    with pytest.raises(RemoteError, match=r"theirs_only.Theirs: from there") as caught_here:
        other_process.run(fail, str(tmp_path))
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
    assert "in load" in own  # a traceback without any frame of the user is shown in full

    module = types.ModuleType("inside")
    code = compile("def serve(f): f()", os.path.join(os.path.dirname(pympipool.__file__), "worker", "x.py"), "exec")
    exec(code, module.__dict__)
    with contextlib.suppress(ZeroDivisionError):
        try:
            module.serve(lambda: 1 / 0)
        except ZeroDivisionError as error:
            text = format_exception(error.with_traceback(error.__traceback__.tb_next))
            assert "in serve" not in text
            assert "<lambda>" in text


def test_the_traceback_has_no_frames_of_compiled_modules():
    def fail(value):
        return 1 / value

    with pytest.raises(ZeroDivisionError) as caught_here:
        Copier({int}, lambda kind: NO_COPY, None).freeze_all([], map(fail, [0]), repr)
    own_frame = caught_here.value.__traceback__
    text = format_exception(caught_here.value.with_traceback(own_frame.tb_next))
    assert "copies.pyx" not in text
    assert "in fail" in text


def test_dumping_an_exception_keeps_no_frame_alive():
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
def test_dumping_an_exception_never_raises(hook):
    def explode(*_):
        raise SystemError("explodes")

    kind = type("Mean", (Exception,), {hook: explode})
    parts = dump_exception(kind("x"), "here")
    assert issubclass(type(load_exception(parts)), (RemoteError, kind))  # isinstance may ask the object for its class


def test_parts_without_exception_are_rejected():
    for parts in ([b"garbage"], dump(1), dump("text")):
        with pytest.raises(SerializationError, match="no exception"):
            load_exception(parts)


def test_traceback_shows_source_of_notebook_cell(other_process):
    source = "def invert(x):\n    return 1 / x\n\n\ndef call(x):\n    return invert(x)\n"
    names = {"__name__": "__main__"}
    exec(compile(source, "<cell 1>", "exec"), names)
    linecache.cache["<cell 1>"] = (len(source), None, source.splitlines(keepends=True), "<cell 1>")
    try:
        with pytest.raises(ZeroDivisionError) as caught:
            other_process.run(names["call"], 0)
    finally:
        del linecache.cache["<cell 1>"]
    text = str(caught.value.__cause__)
    assert '  File "<cell 1>", line 6, in call\n    return invert(x)\n' in text
    assert '  File "<cell 1>", line 2, in invert\n    return 1 / x\nZeroDivisionError' in text


def test_known_source_lines_are_kept():
    try:
        try:
            {}["a"]
        except KeyError as cause:
            raise ValueError("b") from cause
    except ValueError as error:
        text = format_exception(error)
    assert 'raise ValueError("b") from cause' in text
    grouped = text.replace("  File", "  |   File").replace("\n    ", "\n  |     ")
    assert add_source_lines(text) == text
    assert add_source_lines(grouped) == grouped


def test_source_lines_of_unknown_files_stay_away():
    text = 'Traceback:\n  File "<nowhere>", line 3, in f\n  File "/nowhere/x.py", line 3, in g\nOSError'
    assert add_source_lines(text) == text
