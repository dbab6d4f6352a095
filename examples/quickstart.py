"""Two workflows, one interface: a parameter study on all cores, then a function on two MPI ranks.

Run it like any script, without mpiexec: python examples/quickstart.py
"""

import time

import numpy as np

from pympipool import Executor

COLUMNS, ROWS = 72, 20


def logistic_map(r):
    """Iterate x -> r x (1 - x). Return the distribution of x, the Lyapunov exponent and the run time."""
    start = time.perf_counter()
    x = np.random.default_rng(seed=1).random(4000)
    visits, growth = np.zeros(ROWS), []
    for step in range(1000):
        x = r * x * (1 - x)
        if step >= 300:
            visits += np.histogram(x, bins=ROWS, range=(0, 1))[0]
            growth.append(np.log(np.abs(r * (1 - 2 * x))).mean())
    return visits / visits.sum(), np.mean(growth), time.perf_counter() - start


def pi(intervals):
    """Integrate 4 / (1 + x²) from 0 to 1: each rank computes its share, and all ranks get the sum."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    x = (np.arange(world.rank, intervals, world.size) + 0.5) / intervals
    share = np.sum(4 / (1 + x**2)) / intervals
    return world.rank, share, world.allreduce(share)


def study_parameters():
    start = time.perf_counter()
    with Executor(block_allocation=True) as exe:  # a worker for each core
        print(f"The logistic map x → r x (1 - x) for {COLUMNS} values of r, on {exe.info['max_workers']} cores\n")
        results = list(exe.map(logistic_map, np.linspace(2.8, 4.0, COLUMNS)))
    elapsed = time.perf_counter() - start

    visits, exponents, call_times = zip(*results, strict=True)
    draw(visits)
    print(f"Lyapunov exponent at r = 4: {exponents[-1]:.4f}    (exact: ln 2 = {np.log(2):.4f})")
    print(f"The calls took {sum(call_times):.2f} s together, and were done in {elapsed:.2f} s:", end=" ")
    print(f"speed-up {sum(call_times) / elapsed:.1f}\n")
    assert abs(exponents[-1] - np.log(2)) < 0.01


def draw(visits):
    for row in reversed(range(ROWS)):
        shades = (" ░▒▓█"[int(np.clip(20 * v[row], v[row] > 0, 4))] for v in visits)
        print(f"{(row + 0.5) / ROWS:5.2f} │" + "".join(shades))
    print("    x └" + "─" * COLUMNS)
    print(f"  r =  2.8{'4.0':>{COLUMNS - 3}}\n")


def integrate_with_mpi():
    print("π by the midpoint rule, one function on 2 MPI ranks\n")
    start = time.perf_counter()
    with Executor(max_cores=2, cores_per_worker=2, block_allocation=True) as exe:
        ranks = exe.submit(pi, 10_000_000).result()
    elapsed = time.perf_counter() - start

    for rank, share, total in ranks:
        print(f"rank {rank}: share {share:.10f}, sum of all ranks {total:.10f}")
        assert abs(total - np.pi) < 1e-9
    print(f"{'exact':>42} {np.pi:.10f}    ({elapsed:.2f} s, with the start of MPI)")


if __name__ == "__main__":
    study_parameters()
    integrate_with_mpi()
