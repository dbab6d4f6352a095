"""Show the traceback of an exception as text: without frames, which cannot be sent, and without frames of pympipool."""

from __future__ import annotations

import builtins
import os

from pympipool._util.reprs import type_name
from pympipool.serialization.exception_forms import BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from typing import Any

__all__ = ["add_source_lines", "describe_place", "format_exception", "without_frames"]


def format_exception(error: BaseException, where: str = "") -> str:
    """Return an exception's traceback as text, with its causes, contexts and notes, from the user's first frame on."""
    try:
        import traceback

        lines = traceback.format_exception(type(error), error, _user_traceback(BASE["__traceback__"].__get__(error)))
    except BaseException as problem:  # even formatting the exception raises
        lines = [f"{type_name(type(error))} (its traceback cannot be shown: {type_name(type(problem))})\n"]
    return "".join([f"In {where}:\n" if where else "", *lines]).rstrip()


def add_source_lines(text: str) -> str:
    """Add the source lines that a traceback from a worker lacks, where this process knows them.

    The worker does not know the source of notebook cells and of the interactive prompt, and it may be on a host without
    the script. Lines that the worker has shown are left as they are.
    """
    import linecache
    import re

    lines = text.split("\n")
    shown: list[str] = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        shown.append(line)
        frame = re.fullmatch(r'([ |+-]*)File "(/.*|<.*>)", line (\d+), in .*', line)
        if frame is not None and not following.startswith(frame[1].replace("+", " ").replace("-", " ") + "  "):
            source = linecache.getline(frame[2], int(frame[3])).strip()
            if source:
                shown.append(f"{frame[1]}  {source}")
    return "\n".join(shown)


def without_frames(error: BaseException) -> BaseException:
    """Return the exception with the traceback of its cause as text. Frames would keep the call's arguments alive."""
    from pympipool.errors import RemoteTraceback

    cause = BASE["__cause__"].__get__(error)
    if cause is not None and not isinstance(cause, RemoteTraceback):
        BASE["__cause__"].__set__(error, RemoteTraceback(format_exception(cause)))
    BASE["__context__"].__set__(error, None)
    BASE["__traceback__"].__set__(error, None)
    return error


def describe_place(error: BaseException) -> bytes:
    """Return where an exception was raised: its type and stack, and those of its causes, contexts and members.

    Two processes that run the same code get the same bytes if they have raised at the same place.
    """
    places: list[tuple[str, list[tuple[str, int, int]]]] = []
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    for raised in waiting:  # the loop appends to the list
        if raised is None or id(raised) in seen:
            continue
        seen.add(id(raised))
        frames = []
        frame = raised.__traceback__
        while frame is not None:
            name = frame.tb_frame.f_code.co_filename
            if not name.startswith(_WORKER_FILES):  # one rank may have run the call in C, and another one not
                frames.append((name, frame.tb_lineno, frame.tb_lasti))
            frame = frame.tb_next
        places.append((type_name(type(raised)), frames))
        waiting += (raised.__cause__, raised.__context__)
        if isinstance(raised, _GROUPS):
            waiting += raised.exceptions
    return repr(places).encode(errors="backslashreplace")


def _user_traceback(trace: types.TracebackType | None) -> types.TracebackType | None:
    """Return the traceback from the first frame that is not pympipool's; all of it if every frame is pympipool's.

    Nothing of it if the function has no frame: it is compiled, or was called with a wrong number of arguments.
    """
    first, last = trace, ""
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        last = first.tb_frame.f_code.co_filename
        first = first.tb_next
    return None if first is None and last.replace(os.sep, "/").endswith(_CALLERS) else first or trace


_OWN_FILES = (
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
    "pympipool/_core/",  # frames of compiled modules have the path that the compiler was given, relative to the source
)
"""Beginnings of the file names of pympipool's own frames."""

_WORKER_FILES = (_OWN_FILES[0] + "worker" + os.sep, _OWN_FILES[1])
"""The same for those through which a worker runs a call."""

_CALLERS = ("/worker/call_runner.py", "/worker/batches.py", "/_core/copies.pyx", "/_core/worker_calls.pyx")
"""Ends of the names of the files that call functions of the user."""

_GROUPS: Any = getattr(builtins, "BaseExceptionGroup", ())
"""The class of all exception groups; Python 3.10 has none."""
