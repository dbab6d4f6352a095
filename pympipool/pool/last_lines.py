"""The last lines of what a worker prints, for error messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import deque

LINE_CHARS_MAX = 2000
"""Characters of a line that an error message quotes."""


class LastLines:
    """The last lines of a text that arrives in pieces, as a terminal would show them.

    Args:
        lines: Gets the lines that are not empty, without the end of a line that is too long.
    """

    def __init__(self, lines: deque[str]) -> None:
        self._lines = lines
        self._unfinished = ""  # the beginning of a line whose end has not arrived

    def add(self, text: str) -> None:
        """Add a piece of the text. The time that this takes does not depend on what was added before."""
        *whole, rest = (self._unfinished + text).split("\n")
        for line in whole:
            self._keep(line)
        visible = _after_carriage_return(rest)
        if len(visible) > LINE_CHARS_MAX:  # one character more tells that the line is longer
            visible = visible[: LINE_CHARS_MAX + 1] + "\r" * visible.endswith("\r")
        self._unfinished = visible

    def finish(self) -> None:
        """Take what has arrived of the last line as a whole line."""
        self._keep(self._unfinished)
        self._unfinished = ""

    def _keep(self, line: str) -> None:
        visible = _after_carriage_return(line).rstrip("\r")
        if len(visible) > LINE_CHARS_MAX:
            visible = visible[:LINE_CHARS_MAX] + "..."
        if visible.strip():
            self._lines.append(visible)


def _after_carriage_return(line: str) -> str:
    """Return what a terminal shows of a line: the text after the last carriage return that text follows."""
    return line[line.rstrip("\r").rfind("\r") + 1 :]
