"""scipy: functions that take `workers=exe.map`."""

from __future__ import annotations

import pytest

from ecosystem.needs import package

package("scipy")

from scipy.integrate import quad_vec  # noqa: E402
from scipy.optimize import brute, differential_evolution, rosen  # noqa: E402


def rosen_of_one(x):
    return rosen([x, x, x])


def test_differential_evolution_finds_the_same_as_without(executor):
    parameters = {"func": rosen, "bounds": [(-2, 2)] * 2, "updating": "deferred", "seed": 1}
    ours, serial = differential_evolution(workers=executor.map, **parameters), differential_evolution(**parameters)
    assert ours.x.tolist() == serial.x.tolist()
    assert ours.nfev == serial.nfev


def test_brute_force_finds_the_same_as_without(executor):
    ours = brute(rosen, [(-2, 2)] * 2, Ns=12, workers=executor.map)
    assert ours.tolist() == brute(rosen, [(-2, 2)] * 2, Ns=12).tolist()


def test_integrals_are_the_same_as_without(executor):
    assert quad_vec(rosen_of_one, 0, 2, workers=executor.map)[0] == pytest.approx(quad_vec(rosen_of_one, 0, 2)[0])
