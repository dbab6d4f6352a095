from __future__ import annotations

import enum
import functools
import io

import numpy as np

from pympipool._util.reprs import callable_name


def test_every_callable_has_a_name():
    class Called:
        def __call__(self):
            pass

        def method(self):
            pass

    assert callable_name(Called()).endswith("Called")
    assert callable_name(Called().method).endswith("Called.method")
    assert callable_name(functools.partial(functools.partial(max, 1), 2)) == "max"
    assert callable_name(np.sin) == "sin"
    assert callable_name(lambda: 0).endswith("<lambda>")
    assert callable_name(io.StringIO) == "StringIO"
    assert callable_name(enum.Enum) == "Enum"
