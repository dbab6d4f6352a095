"""Annotations of functions and classes by value, which Python evaluates only when they are read since version 3.14."""

from __future__ import annotations

import sys

import pytest

from pympipool.serialization.payload import dump, load
from support.pickling import define_in_main

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="this Python evaluates annotations at once: make test-pythons"
)

KIND = "class Kind:\n    x: Later\n    y: int = 1\ndef look(kind): return kind.y, kind.__annotations__\n"


def test_function_with_undefined_name_in_annotation_travels(other_process):
    names = define_in_main("def function(x: Later, y: int = 1) -> str: return y, function.__annotations__")
    expected = {"x": "Later", "y": "int", "return": "str"}
    assert other_process.run(names["function"], 0) == (1, expected)
    with pytest.raises(NameError):
        names["function"].__annotations__  # noqa: B018  the script's function is as it was


def test_class_with_undefined_name_in_annotation_travels(other_process):
    names = define_in_main(KIND)
    for _ in range(3):
        assert other_process.run(names["look"], names["Kind"]) == (1, {"x": "Later", "y": "int"})


def test_name_defined_later_in_annotation_is_seen(other_process):
    names = define_in_main(KIND)
    other_process.run(names["look"], names["Kind"])
    names["Later"] = float
    assert other_process.run(names["look"], names["Kind"]) == (1, {"x": float, "y": int})


def test_pickling_keeps_annotations_of_the_script_lazy():
    names = define_in_main(KIND)
    load(dump(names["Kind"]))
    names["Later"] = float
    assert names["Kind"].__annotations__ == {"x": float, "y": int}


def test_class_refers_to_itself_in_an_annotation(other_process):
    names = define_in_main(
        "class Kind:\n    next: Kind | None = None\n"
        "def look(kind): return kind.__annotations__['next'] == (kind | None)\n"
    )
    assert other_process.run(names["look"], names["Kind"])
