"""Text for the terminal is wrapped, and messages keep their own lines."""

from __future__ import annotations

from pympipool.cli.text import format_issues, wrap
from pympipool.diagnostics.environment import Issue


def test_long_lines_are_wrapped(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    assert wrap("  * ", "word " * 8) == "  * word word word word word\n    word word word"


def test_line_breaks_are_kept(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    issue = Issue("it ended with exit code 1; last lines of its stderr:\n  first\n\nsecond", "try again")
    assert list(format_issues([issue])) == [
        "  * it ended with exit code 1; last lines of its stderr:\n      first\n\n    second",
        "    -> try again",
    ]


def test_text_without_lines_is_empty():
    assert wrap("  * ", "") == ""
