"""Memory of the master for each pending call: python -m benchmarks.pending PEER

Prints bytes per call. `samples.pending_memory` runs it in a separate process and gives the reason.
"""

from __future__ import annotations

import gc
import sys

from benchmarks.calls import noop, sleep
from benchmarks.idle import psutil
from benchmarks.peers import Request, find_peer

CALLS = 4_000
WORKER_BUSY_S = 1.0


def resident_bytes() -> int:
    gc.collect()
    return int(psutil().Process().memory_info().rss)


def bytes_per_call(peer_name: str) -> float:
    with find_peer(peer_name).opened(Request()) as pool:
        for handle in [pool.submit(noop, 1) for _ in range(200)]:
            handle.result()
        first = pool.submit(sleep, WORKER_BUSY_S)
        before = resident_bytes()
        handles = [pool.submit(noop, 1) for _ in range(CALLS)]
        taken = resident_bytes() - before
        for handle in [first, *handles]:
            handle.result()
    return taken / CALLS


if __name__ == "__main__":
    print(bytes_per_call(sys.argv[1]))
