"""Hosts that the user names, with the cores that workers may use on each of them.

hosts=["a", "b:8"]  ─► checked_hosts ─► (Host("a", None), Host("b", 8))
hosts="hosts.txt"   ─► a file with a line for each of them
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

SLOTS_MAX = 1_000_000
"""Slots that a host may have at most: no machine has as many cores."""


class Host(NamedTuple):
    """A host.

    Attributes:
        name: The name by which the user, or the scheduler, knows it.
        slots: The number of cores for workers; None: all that a process of the user may use there.
    """

    name: str
    slots: int | None = None


def checked_hosts(name: str, value: Any) -> tuple[Host, ...] | None:
    """Check the hosts that the user gave, as a sequence of names or the path of a host file. None is allowed.

    Raises:
        TypeError: The value is neither.
        ValueError: A name cannot be one, or comes twice; there is no such file, or it has no hosts.

    Examples:
        >>> checked_hosts("hosts", ["a", "b:8"])
        (Host(name='a', slots=None), Host(name='b', slots=8))
        >>> checked_hosts("hosts", ["a", "a"])
        Traceback (most recent call last):
            ...
        ValueError: hosts is ['a', 'a'], with 'a' twice; the number of its cores is written as 'a:2'
    """
    if value is None:
        return None
    if isinstance(value, (str, os.PathLike)):
        return read_host_file(os.fspath(value), name)
    try:
        entries = [*value]
    except TypeError:
        raise TypeError(
            f"{name} is {value!r}; it must be a list of names, such as ['a', 'b:8'], or the path of a host file"
        ) from None
    if not entries:
        raise ValueError(f"{name} is {value!r}; name at least one host, or leave it out")
    place = f"{name} is {value!r}"
    hosts = [_host(place, entry) for entry in entries]
    names = [host.name for host in hosts]
    for one in names:
        if names.count(one) > 1:
            raise ValueError(
                f"{place}, with {one!r} twice; the number of its cores is written as '{one}:{names.count(one)}'"
            )
    return tuple(hosts)


def read_host_file(path: str, name: str = "hosts") -> tuple[Host, ...]:
    """Return the hosts of a file: a line for each, as of mpiexec: `a`, `a:8`, `a 8` or `a slots=8`. Lines of a host add up.

    Args:
        path: The path of the file.
        name: The parameter that named it, for messages.

    Raises:
        ValueError: There is no such file, or a line is no host.
    """
    try:
        lines = read_lines(name, path)
    except ValueError as error:
        raise ValueError(f"{error}; names of hosts are given as a list: [{path!r}]") from error
    hosts = [_host(f"{name} is {path!r}", line) for line in lines]
    if not hosts:
        raise ValueError(f"{name} is {path!r}, a file without hosts; it needs a line for each, such as 'a' or 'a:8'")
    return merged(hosts)


def read_lines(name: str, path: str) -> list[str]:
    """Return the lines of a host file, without comments and empty ones.

    Raises:
        ValueError: It cannot be read. The message names what has named the file.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:  # editors of other systems begin a file with a mark
            lines = [line.partition("#")[0].strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{name} is {path!r}, which is no host file ({reason})") from error
    return [line for line in lines if line]


def merged(hosts: Iterable[Host]) -> tuple[Host, ...]:
    """Return each host once, with the sum of its slots. An entry without a number is one slot if its host has others.

    Examples:
        >>> merged([Host("a", 2), Host("b"), Host("a", 3)])
        (Host(name='a', slots=5), Host(name='b', slots=None))
    """
    found: dict[str, int | None] = {}
    for name, slots in hosts:
        found[name] = (found[name] or 1) + (slots or 1) if name in found else slots
    return tuple(Host(*one) for one in found.items())


def _host(place: str, entry: Any) -> Host:
    """Return the host that an entry means. Messages begin with where it was found."""
    if not isinstance(entry, str):
        raise TypeError(
            f"{place}, with {entry!r}, of type {type(entry).__name__}; a host must be a str, such as 'a' or 'a:8'"
        )
    host, slots = _split(entry)
    is_name = host and host.isprintable() and not host.startswith("-") and not set(host) & set(":,;/\"'\\$`&|<>()")
    if not is_name:
        raise ValueError(f"{place}, with {entry!r}, which is no name of a host: write 'a', or 'a:8' for 8 cores of it")
    if slots is None:
        return Host(host)
    if not slots.isdecimal() or len(slots) > len(str(SLOTS_MAX)) or not 1 <= int(slots) <= SLOTS_MAX:
        raise ValueError(
            f"{place}, with {entry!r}; the number of cores must be at least 1 and at most {SLOTS_MAX}: '{host}:8'"
        )
    return Host(host, int(slots))


def _split(entry: str) -> tuple[str, str | None]:
    """Return the name of an entry, and what it has for the number of slots: `a`, `a:8`, `a 8` or `a slots=8`."""
    word, *options = re.sub(r"\s*=\s*", "=", entry).split() or [""]
    for option in options:
        key, equals, value = option.rpartition("=")
        if key == "slots" or not equals:
            return word, value
    name, colon, slots = word.partition(":")
    return name, slots if colon else None
