"""k-fold training: each fold on a GPU of its own, or on a core if there are no GPUs.

Each worker loads the data once (`init_function`); they are not sent with each call. A worker with `gpus_per_worker=1` sees one
GPU, which no other worker uses at the same time, so the training code needs no GPU settings. It computes on the GPU if CuPy is
installed, otherwise with NumPy. The network with the least error on data it has not seen wins.

    python examples/k_fold.py [folds] [samples]
"""

import sys
import time

import numpy as np

from pympipool import Executor
from pympipool.resources import available_cores, available_devices

FOLDS, SAMPLES = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else (5, 4000)
HIDDEN_UNITS = [2, 8, 32]
STEPS = 400


def load():
    """Load the data in each worker before its first call: noisy samples of a function of two variables."""
    random = np.random.default_rng(1)
    x = random.uniform(-1, 1, (SAMPLES, 2))
    y = np.sin(3 * x[:, :1]) * np.cos(2 * x[:, 1:]) + random.normal(0, 0.05, (SAMPLES, 1))
    return {"x": x, "y": y}


def array_library():
    """Return CuPy if this worker sees a GPU, otherwise NumPy, and the name of the device."""
    if available_devices().names:
        try:
            import cupy

            return cupy, f"GPU {available_devices().names[0]}"
        except ImportError:
            pass
    return np, "CPU"


def train(fold, hidden, x, y):
    """Train a network with a hidden layer on all folds except one (Adam). Return its error on that fold, and the device."""
    xp, place = array_library()
    is_test = xp.arange(len(x)) % FOLDS == fold
    x, y = xp.asarray(x), xp.asarray(y)
    train_x, train_y, test_x, test_y = x[~is_test], y[~is_test], x[is_test], y[is_test]
    random = np.random.default_rng(fold)
    weights = [xp.asarray(random.normal(0, 1, shape)) for shape in ((2, hidden), (1, hidden), (hidden, 1), (1, 1))]
    means, squares = [[xp.zeros_like(w) for w in weights] for _ in range(2)]
    for step in range(1, STEPS + 1):
        a, b, c, d = weights
        h = xp.tanh(train_x @ a + b)
        error = (h @ c + d - train_y) / len(train_x)
        back = (error @ c.T) * (1 - h**2)
        gradients = [train_x.T @ back, back.sum(0, keepdims=True), h.T @ error, error.sum(0, keepdims=True)]
        for i, gradient in enumerate(gradients):
            means[i] += 0.1 * (gradient - means[i])
            squares[i] += 0.01 * (gradient**2 - squares[i])
            mean, square = means[i] / (1 - 0.9**step), squares[i] / (1 - 0.99**step)
            weights[i] -= 0.03 * mean / (xp.sqrt(square) + 1e-9)
    a, b, c, d = weights
    return float(xp.sqrt(((xp.tanh(test_x @ a + b) @ c + d - test_y) ** 2).mean())), place


if __name__ == "__main__":
    gpus = len(available_devices().names)
    start = time.perf_counter()
    with Executor(
        max_workers=min(FOLDS, gpus or available_cores()),
        gpus_per_worker=1 if gpus else 0,
        block_allocation=True,
        init_function=load,
    ) as exe:
        calls = {hidden: [exe.submit(train, fold, hidden) for fold in range(FOLDS)] for hidden in HIDDEN_UNITS}
        results = {hidden: [call.result() for call in of_folds] for hidden, of_folds in calls.items()}

    for hidden, of_folds in results.items():
        errors = [error for error, _ in of_folds]
        print(f"{hidden:3} hidden units: error {np.mean(errors):.3f} ± {np.std(errors):.3f}")
    places = sorted({place for of_folds in results.values() for _, place in of_folds})
    best = min(results, key=lambda hidden: np.mean([error for error, _ in results[hidden]]))
    print(f"\nBest: {best} hidden units. {FOLDS * len(results)} networks trained", end=" ")
    print(f"on {', '.join(places)} in {time.perf_counter() - start:.1f} s")
