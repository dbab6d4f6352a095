"""Small helpers without a subject of their own: C parts of standard modules, reprs, subprocesses, number formats, former names."""

import sys


def undo_monkey_patches() -> None:
    """Let pympipool use the standard library as it was before gevent or eventlet have patched it.

    Raises:
        RuntimeError: Threads are patched in a way that pympipool cannot use.
    """
    if "gevent" in sys.modules or "eventlet" in sys.modules:
        from pympipool._util.monkey_patches import undo

        undo()
