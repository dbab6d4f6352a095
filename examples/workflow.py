"""A workflow of coupled functions: futures are arguments of other calls, and each call waits only for its own inputs.

    energies of argon at many volumes ──> fit of its equation of state ──> figure
                                     └────────────────────────────────────────┘

The script submits the whole graph at once and waits only in the last lines. The executor starts each call when its inputs are
available, and passes results on to other calls without unpickling them in the script.

    python examples/workflow.py [figure.png] [volumes]
"""

import sys
from pathlib import Path

import numpy as np

from pympipool import Executor

FIGURE = Path(sys.argv[1] if len(sys.argv) > 1 else "equation_of_state.png").resolve()
VOLUMES = np.linspace(0.84, 1.04, int(sys.argv[2]) if len(sys.argv) > 2 else 25)  # of an atom, in units of sigma³
CELLS = 12


def energy(volume):
    """Return the energy of an atom in a face-centred cubic crystal, in units of the Lennard-Jones potential's epsilon."""
    cells = np.stack(np.meshgrid(*[np.arange(-CELLS, CELLS + 1)] * 3), axis=-1).reshape(-1, 3)
    atoms = np.concatenate([cells + shift for shift in ([0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0])])
    squares = (atoms**2).sum(axis=1) * (4 * volume) ** (2 / 3)
    inverse = 1 / squares[squares > 0] ** 3
    return 2 * float((inverse**2 - inverse).sum())


def fit(volumes, energies):
    """Fit Birch's equation of state, a cubic polynomial in V**(-2/3). Return volume, energy and bulk modulus at its minimum."""
    x = np.asarray(volumes) ** (-2 / 3)
    curve = np.polynomial.Polynomial.fit(x, energies, 3)
    minimum = next(r.real for r in curve.deriv().roots() if curve.deriv(2)(r).real > 0 and x.min() < r.real < x.max())
    volume = minimum ** (-3 / 2)
    bulk_modulus = 4 / 9 * curve.deriv(2)(minimum) * volume ** (-7 / 3)
    return {"volume": volume, "energy": curve(minimum), "bulk_modulus": bulk_modulus, "curve": curve}


def draw(volumes, energies, state, path):
    """Draw the figure into a file, and return its path."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    smooth = np.linspace(min(volumes), max(volumes), 200)
    axes.plot(smooth, state["curve"](smooth ** (-2 / 3)), color="tab:blue", label="Birch's equation of state")
    axes.plot(volumes, energies, "o", color="black", markersize=4, label="lattice sums")
    axes.plot(state["volume"], state["energy"], "D", color="tab:red", label=f"V = {state['volume']:.4f} σ³")
    axes.set(xlabel="volume of an atom / σ³", ylabel="energy of an atom / ε", title="Lennard-Jones argon, fcc")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    return path


if __name__ == "__main__":
    with Executor(block_allocation=True) as exe:
        energies = [exe.submit(energy, volume) for volume in VOLUMES]
        state = exe.submit(fit, VOLUMES, energies)  # a list of futures, replaced by their results
        figure = exe.submit(draw, VOLUMES, energies, state, FIGURE)
        print(
            "volume  {volume:7.4f} σ³\nenergy  {energy:7.4f} ε\nmodulus {bulk_modulus:7.3f} ε/σ³".format(
                **state.result()
            )
        )
        print(f"figure  {figure.result()}")
