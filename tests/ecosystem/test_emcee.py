"""emcee: `EnsembleSampler(..., pool=exe)`."""

from __future__ import annotations

from ecosystem.calls import minus_half_square
from ecosystem.needs import package

emcee = package("emcee")
np = package("numpy")

WALKERS, DIMENSIONS = 8, 2


def chain(steps, pool):
    start = np.random.default_rng(1).normal(size=(WALKERS, DIMENSIONS))
    np.random.seed(2)  # emcee draws from numpy's global generator
    sampler = emcee.EnsembleSampler(WALKERS, DIMENSIONS, minus_half_square, pool=pool)
    sampler.run_mcmc(start, steps)
    return sampler.get_chain()


def test_walkers_go_the_same_way_as_without(executor):
    assert (chain(50, executor) == chain(50, None)).all()
