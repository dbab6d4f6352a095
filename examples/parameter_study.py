"""A parameter study: when does water find a way through porous rock?

A square lattice whose sites are open with probability p percolates when open sites lead from top to bottom. One call checks
one lattice. `map` distributes thousands of calls over all cores and packs short calls into batches itself, so the loop stays
simple. An infinite lattice percolates at p = 0.592746 (Newman and Ziff, Phys. Rev. Lett. 85, 4104, 2000).

    python examples/parameter_study.py [lattices for each p] [sites of an edge]
"""

import sys
import time

import numpy as np

from pympipool import Executor

LATTICES, EDGE = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else (100, 48)
PROBABILITIES = np.linspace(0.5, 0.7, 21)


def percolates(p, seed):
    """Let water in at the top of a lattice, row by row and back, until it gets no further."""
    is_open = np.random.default_rng(seed).random((EDGE, EDGE)) < p
    wet = np.zeros_like(is_open)
    wet[0] = is_open[0]
    reached = 0
    while reached < wet.sum():
        reached = wet.sum()
        for axis in (0, 1):
            for step in (1, -1):
                flow(wet, is_open, axis, step)
    return bool(wet[-1].any())


def flow(wet, is_open, axis, step):
    """Let water flow in one direction as long as sites are open."""
    lines = np.moveaxis(wet, axis, 0)[::step], np.moveaxis(is_open, axis, 0)[::step]
    for before, here, way in zip(lines[0], lines[0][1:], lines[1][1:], strict=False):
        np.logical_or(here, before & way, out=here)


if __name__ == "__main__":
    start = time.perf_counter()
    with Executor(block_allocation=True) as exe:  # a worker for each core
        calls = [(p, seed) for p in PROBABILITIES for seed in range(LATTICES)]
        results = np.array(list(exe.map(percolates, *zip(*calls, strict=True))))
    shares = results.reshape(len(PROBABILITIES), LATTICES).mean(axis=1)

    for p, share in zip(PROBABILITIES, shares, strict=True):
        print(f"p = {p:.2f}  {share:4.0%}  {'█' * round(50 * share)}")
    threshold = np.interp(0.5, np.maximum.accumulate(shares), PROBABILITIES)
    print(f"\nHalf of {EDGE} x {EDGE} lattices percolate at p = {threshold:.3f}; infinite ones at 0.593")
    print(f"{len(calls)} lattices in {time.perf_counter() - start:.1f} s")
