"""Lists of hosts as SLURM abbreviates them."""

from __future__ import annotations

import re

_PARTS = re.compile(r"(?:[^,\[]|\[[^\]]*\])+")
"""Those between the commas outside of brackets."""


def expand_hosts(text: str) -> list[str]:
    """Return the names of hosts in a list of SLURM; none if it is not one.

    Examples:
        >>> expand_hosts("login,node[1-3,08-10]")
        ['login', 'node1', 'node2', 'node3', 'node08', 'node09', 'node10']
        >>> expand_hosts("rack[1-2]n[0-1]")
        ['rack1n0', 'rack1n1', 'rack2n0', 'rack2n1']
        >>> expand_hosts("node[a-b]"), expand_hosts("")
        ([], [])
    """
    try:
        return [name for part in _PARTS.findall(text) for name in _expand(part)]
    except ValueError:  # another notation
        return []


def _expand(part: str) -> list[str]:
    """Return the names of one part.

    Raises:
        ValueError: Brackets contain something else than numbers and ranges.
    """
    before, bracket, rest = part.partition("[")
    if not bracket:
        return [part]
    ranges, _, after = rest.partition("]")
    return [before + number + end for number in _numbers(ranges) for end in _expand(after)]


def _numbers(ranges: str) -> list[str]:
    numbers = []
    for one in ranges.split(","):
        first, _, last = one.partition("-")
        numbers += [f"{number:0{len(first)}}" for number in range(int(first), int(last or first) + 1)]
    return numbers
