"""How commands print words."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator

from pympipool.diagnostics.environment import Problem

WIDEST = 120
"""Columns; longer lines are hard to read."""


def wrapped(begin: str, text: str) -> str:
    """Text behind the beginning of its first line, wrapped to the width of the terminal and indented below.

    Examples:
        >>> wrapped("  cores  ", "2 that this process may use")
        '  cores  2 that this process may use'
    """
    width = min(shutil.get_terminal_size().columns, WIDEST)
    return textwrap.fill(
        text,
        max(width, len(begin) + 20),
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,  # paths are there to be copied
        break_on_hyphens=False,
    )


def listed(problems: Iterable[Problem]) -> Iterator[str]:
    """Lines that say what is wrong and what to do."""
    for problem in problems:
        yield wrapped("  * ", problem.what)
        if problem.remedy:
            yield wrapped("    -> ", problem.remedy)
