"""Modules that tests write, and the keys of calls that use them."""

import importlib

from pympipool.caching.keys import Keys

__all__ = ["function_in", "key", "write"]


def write(path, text):
    """Write a module."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    importlib.invalidate_caches()


def key(function, keys=None):
    """Return the key of a call; with new keys, as of a new executor, if none are given."""
    return (keys or Keys()).of_call(function, (1,), {}, 1, "all")


def function_in(namespace, body):
    """Return a function of a script."""
    exec(f"def f(x):\n    {body}", namespace)
    return namespace["f"]
