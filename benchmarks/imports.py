"""What imports cost where each call has a process of its own: python -m benchmarks.imports

Prints the milliseconds of one call that imports a package, without `preload`, with what pympipool learns, and in a worker of
block allocation, which imports once. Packages that are not installed are left out. They have no types for mypy either, so
their imports are exempt.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

from pympipool import Executor

ROUNDS = 10
"""Number of calls, of which the quickest counts."""

LEARNING_S = 5.0
"""Seconds that pympipool has to import in advance what the first calls have imported."""


def call_numpy() -> float:
    """Use numpy."""
    import numpy as np

    return float(np.linalg.eigvalsh(np.eye(4))[0])


def call_pandas() -> float:
    """Use pandas."""
    import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return float(pd.DataFrame({"a": [1, 2]}).a.sum())


def call_scipy() -> float:
    """Use scipy."""
    from scipy.optimize import minimize  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return float(minimize(abs, 1.0).fun)


def call_ase() -> float:
    """Use ASE."""
    from ase.build import bulk  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from ase.calculators.emt import EMT  # type: ignore[import-not-found,import-untyped,unused-ignore]

    atoms = bulk("Cu")
    atoms.calc = EMT()
    return float(atoms.get_potential_energy())


def quickest_ms(function: Callable[[], float], **options: Any) -> float:
    """Return the milliseconds of the quickest of some calls, one after the other, after the first ones."""
    with Executor(max_workers=1, backend="mpi", **options) as exe:
        end = time.monotonic() + LEARNING_S
        while time.monotonic() < end:
            exe.submit(function).result()
        times_s = []
        for _ in range(ROUNDS):
            start_s = time.perf_counter()
            exe.submit(function).result()
            times_s.append(time.perf_counter() - start_s)
    return min(times_s) * 1000


def main() -> None:
    """Print a table."""
    print("| a call that uses | `preload=()` | default | `block_allocation=True` |\n| --- | --- | --- | --- |")
    for name, function in (("numpy", call_numpy), ("pandas", call_pandas), ("scipy", call_scipy), ("ase", call_ase)):
        if importlib.util.find_spec(name) is not None:
            times = (
                quickest_ms(function, preload=()),
                quickest_ms(function),
                quickest_ms(function, block_allocation=True),
            )
            print(f"| {name} | " + " | ".join(f"{ms:.3g} ms" for ms in times) + " |", flush=True)


if __name__ == "__main__":
    main()
