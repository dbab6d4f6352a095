"""Parallel tempering: MPI functions whose ranks communicate, and a plain loop that coordinates them.

Each replica of an Ising magnet has a temperature of its own. Its lattice is cut into strips, one for each MPI rank. The ranks
exchange the edges of their strips while they flip spins. Between the rounds the script, a single process started without mpiexec,
lets neighbours in temperature exchange their lattices, so that cold replicas do not get stuck. The output compares the
magnetizations with Onsager's exact ones.

    python examples/parallel_tempering.py [rounds] [spins of an edge]
"""

import math
import sys

import numpy as np

from pympipool import Executor

ROUNDS, EDGE = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else (40, 32)
TEMPERATURES = [1.8, 2.0, 2.1, 2.2, 2.3, 2.5]
RANKS, SWEEPS = 2, 10


def sweep(lattice, temperature, sweeps, seed):
    """Run Metropolis sweeps on a periodic lattice, a strip of rows on each rank. Return this strip and the total energy."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    above, below = (world.rank - 1) % world.size, (world.rank + 1) % world.size
    random = np.random.default_rng([seed, world.rank])
    strip = np.array_split(lattice, world.size)[world.rank].copy()
    rows, columns = strip.shape
    first_row = world.exscan(rows) or 0
    is_black = np.add.outer(np.arange(first_row, first_row + rows), np.arange(columns)) % 2 == 0

    def neighbours():
        upper = world.sendrecv(strip[-1], below, source=above)
        lower = world.sendrecv(strip[0], above, source=below)
        return (
            np.roll(strip, 1, axis=1)
            + np.roll(strip, -1, axis=1)
            + np.vstack([upper, strip[:-1]])
            + np.vstack([strip[1:], lower])
        )

    for _ in range(sweeps):
        for colour in (is_black, ~is_black):  # spins of the same colour are not neighbours
            cost = 2 * strip * neighbours()
            strip[colour & (random.random(strip.shape) < np.exp(-cost / temperature))] *= -1
    energy = -int((strip * neighbours()).sum()) / 2
    return strip, world.allreduce(energy)


def onsager(temperature):
    """Return the magnetization of an infinite lattice (C. N. Yang, Phys. Rev. 85, 808, 1952)."""
    return max(0.0, 1 - math.sinh(2 / temperature) ** -4) ** (1 / 8)


def temper(exe):
    """Return the magnetizations of all temperatures after each round, and the number of accepted exchanges."""
    random = np.random.default_rng(1)
    lattices = [np.ones((EDGE, EDGE), dtype=np.int8) for _ in TEMPERATURES]
    magnetizations, accepted = [], 0
    for number in range(ROUNDS):
        seeds = random.integers(2**31, size=len(TEMPERATURES))
        calls = [
            exe.submit(sweep, *call) for call in zip(lattices, TEMPERATURES, [SWEEPS] * len(seeds), seeds, strict=True)
        ]
        of_ranks = [call.result() for call in calls]  # for each replica a list of the results of its ranks
        lattices = [np.vstack([strip for strip, _ in ranks]) for ranks in of_ranks]
        energies = [ranks[0][1] for ranks in of_ranks]
        magnetizations.append([abs(lattice.mean()) for lattice in lattices])
        for i in range(number % 2, len(TEMPERATURES) - 1, 2):
            gain = (1 / TEMPERATURES[i] - 1 / TEMPERATURES[i + 1]) * (energies[i] - energies[i + 1])
            if random.random() < math.exp(min(0.0, gain)):
                lattices[i], lattices[i + 1] = lattices[i + 1], lattices[i]
                accepted += 1
    return np.array(magnetizations), accepted


if __name__ == "__main__":
    with Executor(
        cores_per_worker=RANKS, block_allocation=True
    ) as exe:  # as many workers of two ranks as the cores allow
        magnetizations, accepted = temper(exe)
    print("temperature  magnetization  infinite lattice")
    for temperature, magnetization in zip(TEMPERATURES, magnetizations[ROUNDS // 3 :].mean(axis=0), strict=True):
        print(f"{temperature:11.2f}  {magnetization:13.3f}  {onsager(temperature):16.3f}")
    print(
        f"\n{accepted} of {sum(len(range(n % 2, len(TEMPERATURES) - 1, 2)) for n in range(ROUNDS))} exchanges were accepted"
    )
