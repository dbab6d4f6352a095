"""Format text for the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator

from pympipool.diagnostics.environment import Issue

WIDEST = 120
"""Maximum width of a line; longer lines are hard to read."""


def wrap(begin: str, text: str) -> str:
    """Wrap text to the width of the terminal. Its line breaks are kept.

    Args:
        begin: Start of the first line. The other lines are indented by its length.
        text: The text after it.

    Examples:
        >>> wrap("  cores  ", "2 that this process may use")
        '  cores  2 that this process may use'
    """
    width = min(shutil.get_terminal_size().columns, WIDEST)
    indent = " " * len(begin)
    first, *more = text.splitlines() or [""]
    return "\n".join(
        textwrap.fill(
            line,
            max(width, len(begin) + 20),
            initial_indent=start,
            subsequent_indent=indent,
            break_long_words=False,  # paths can be copied
            break_on_hyphens=False,
        )
        for start, line in [(begin, first), *((indent, line) for line in more)]
    )


def format_issues(issues: Iterable[Issue]) -> Iterator[str]:
    """Yield lines with the messages and remedies of issues."""
    for issue in issues:
        yield wrap("  * ", issue.message)
        if issue.remedy:
            yield wrap("    -> ", issue.remedy)
