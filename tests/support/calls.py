"""Functions that the tests submit: importable, so that they travel to workers of any executor by name."""

import functools
import os
import socket
import sys
import threading
import time
import weakref
from pathlib import Path

RUN = []
"""Numbers of the calls that ran in this worker, in order."""


def square(x):
    return x * x


@functools.lru_cache
def cached_square(x):
    return x * x


def add(x, y=0):
    return x + y


def keywords(**kwargs):
    return kwargs


def echo(value):
    return value


def pid(_=None):
    return os.getpid()


def way_of_calls():
    """Return how this rank of several gets its calls: on the "ring", or from rank 0 by "MPI"."""
    return "MPI" if "pympipool.worker.shared_calls" in sys.modules else "ring"


def sleep_and_return(seconds, value=None):
    time.sleep(seconds)
    return value


def sleep_and_tell(seconds):
    time.sleep(seconds)
    return os.getpid()


def touch(path):
    Path(path).touch()
    return path


def fail(message="this call fails"):
    raise ValueError(message)


def divide(x, y):
    return x / y


def record(number):
    RUN.append(number)
    return number


def recorded():
    return list(RUN)


def hold(gate, value=None):
    """Report that the call has begun, and return when the gate is open. See `support.gate`."""
    if sys.platform == "win32":
        with socket.create_connection(("127.0.0.1", int(Path(gate, "port").read_text()))) as go_on:
            go_on.recv(1)
    else:
        begun = os.open(Path(gate, "begun"), os.O_WRONLY)
        os.write(begun, b"x")
        os.close(begun)
        go_on = os.open(Path(gate, "open"), os.O_RDONLY)
        os.read(go_on, 1)
        os.close(go_on)
    return os.getpid() if value is None else value


def hold_or_square(gate, number, held):
    return hold(gate, number * number) if number == held else number * number


def do(what, with_what):
    """Do one of several things, so that a single map can do all of them."""
    return {"fail": fail, "hold": hold, "touch": touch}[what](with_what)


class Base:
    """A callable class with methods of all kinds."""

    def __init__(self, factor=2):
        self.factor = factor

    def times(self, x):
        return self.factor * x

    @classmethod
    def made(cls, factor):
        return cls(factor).factor

    @staticmethod
    def plain(x):
        return x + 1

    def __call__(self, x):
        return self.factor * x

    def __eq__(self, other):
        return type(other) is type(self) and other.factor == self.factor

    __hash__ = None


class NoConvergence(Exception):
    """An exception with an attribute besides its message."""

    def __init__(self, message, steps):
        super().__init__(message, steps)
        self.steps = steps


class Stubborn(Exception):
    """An exception that pickle cannot rebuild, because its arguments are not those of its constructor."""

    def __init__(self, step, *, residual):
        super().__init__(f"step {step}: residual {residual}")
        self.step = step
        self.residual = residual


class HoldsALock(Exception):
    """An exception that cannot be pickled as it is."""

    def __init__(self, message):
        super().__init__(message)
        self.lock = threading.Lock()


class Mute(Exception):
    """An exception whose str() fails."""

    def __str__(self):
        raise RuntimeError("no words")


class FailsToUnpickle:
    """An object that can be pickled but never unpickled."""

    def __reduce__(self):
        return fail, ("this object cannot be rebuilt",)


class FailsToPickle:
    """An object that refuses to be pickled."""

    def __reduce__(self):
        raise TypeError("this object stays where it is")


class Tracked:
    """An object with weak references, which tell when it is gone."""

    def __init__(self, load=None):
        self.load = load


KEPT = []
"""Weak references to arguments and results of calls in this worker."""


def track(value):
    result = Tracked()
    KEPT.extend([weakref.ref(value), weakref.ref(result)])
    return result


def track_and_fail(value):
    KEPT.append(weakref.ref(value))
    raise ValueError("with a traceback that refers to value")


def tracked_alive():
    return [reference() is not None for reference in KEPT]
