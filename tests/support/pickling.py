"""Round trips through serialization, in this process and through another one.

Only another process can show that a value arrives correctly, because `__main__` is another module there. `OtherProcess`
is such a process.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

from pympipool.serialization.exceptions import load_exception
from pympipool.serialization.payload import (
    dump,
    dump_call,
    load,
)

PROGRAM = """
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


class OtherProcess:
    """Another Python process, which runs calls as a worker does."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
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


def define_in_main(source: str) -> dict:
    """Run source as part of a script: what it defines belongs to `__main__`, and cannot be imported."""
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(source, "<script>", "exec", dont_inherit=True), names)
    return names


def round_trip(value):
    """Return the value as the other side receives it, with its buffers in memory of their own."""
    parts = dump(value)
    assert type(parts[0]) is bytes
    return load([parts[0], *(bytearray(part) for part in parts[1:])])
