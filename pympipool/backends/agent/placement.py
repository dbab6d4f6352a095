"""On which hosts the ranks of a worker are, and how these reach each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pympipool.backends.agent.host import AgentHost

_LOOPBACK = "127."


def place(rooms: Sequence[int], ranks: int) -> list[int] | None:
    """Return the number of ranks for each host, on as few hosts as possible; None if there is not enough room.

    Args:
        rooms: How many ranks each host has room for.
        ranks: How many are to be placed.

    Examples:
        >>> place([2, 4, 3], 1), place([2, 4, 3], 4), place([2, 4, 3], 6)
        ([0, 1, 0], [0, 4, 0], [0, 4, 2])
        >>> place([2, 4, 3], 10) is None
        True
    """
    if sum(rooms) < ranks:
        return None
    placed = [0] * len(rooms)
    for host in sorted(range(len(rooms)), key=lambda host: -rooms[host]):
        placed[host] = min(rooms[host], ranks)
        ranks -= placed[host]
    return placed


def addresses(hosts: Sequence[AgentHost]) -> list[str]:
    """Return the addresses at which hosts reach each other: those from which they have reached the master.

    One that has reached it over loopback is its host, so its address is that at which others have reached it.
    """
    others = [host.master_address for host in hosts if not _is_local(host.master_address)]
    of_master = others[0] if others else "127.0.0.1"
    return [of_master if _is_local(host.address) else host.address for host in hosts]


def _is_local(address: str) -> bool:
    return not address or address.startswith(_LOOPBACK)
