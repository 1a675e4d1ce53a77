"""The optimum over several covariances: never above what many starts of scipy find; singular ones exactly."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.optimize

from jaxlmm._types import float64_scope
from jaxlmm.families.deviance import Deviance
from jaxlmm.optimize.several import minimise_several

sys.path.insert(0, str(Path(__file__).parents[1] / "families"))
from oracle import make_case, structures


def problem(name, m, seed=0, levels=(0, 0.3, 1, 3)):
    """Responses with random effects of random sizes, often none."""
    rng = np.random.default_rng(seed)
    X, _, terms = structures(rng)
    family = make_case(X, terms[name]).family
    Y = rng.normal(size=(len(X), m))
    for term in terms[name]:
        effects = rng.normal(size=(term.n_levels, term.size, m)) * rng.choice(levels, size=(term.size, m))
        Y += np.einsum("nr,nrm->nm", term.Z, effects[term.codes])
    return Deviance(family, float(len(X) - 3), True), family.reduce(Y)[0]


@jax.jit
def value_gradient(deviance, theta, stats):
    at = deviance.evaluate(theta, stats)
    return at.value, at.gradient


def lowest_of_many_starts(deviance, stats, c, rng, n_starts=8):
    one = jax.tree.map(lambda a: np.asarray(a)[..., c : c + 1], stats)

    def function(theta):
        value, gradient = value_gradient(deviance, theta[:, None], one)
        return float(value[0]), np.asarray(gradient[:, 0])

    best = np.inf
    for _ in range(n_starts):
        start = rng.normal(size=deviance.family.n_phi) * 10 ** rng.uniform(-1, 1)
        found = scipy.optimize.minimize(
            function, start, jac=True, method="L-BFGS-B", options=dict(ftol=1e-15, gtol=1e-9)
        )
        best = min(best, found.fun)
    return best


@pytest.mark.parametrize("name", ["slope", "crossed", "nested", "maximal", "factor"])
def test_no_start_of_scipy_goes_lower(name: str) -> None:
    deviance, stats = problem(name, 60)
    found = minimise_several(deviance, stats)
    assert found.converged.all()
    rng = np.random.default_rng(5)
    with float64_scope():
        for c in range(6):
            assert found.value[c] <= lowest_of_many_starts(deviance, stats, c, rng) + 2e-7


@pytest.mark.parametrize("name", ["double", "crossed", "slope"])
def test_singular_covariances_are_exact(name: str) -> None:
    deviance, stats = problem(name, 60, seed=1, levels=(0,))
    found = minimise_several(deviance, stats)
    assert found.converged.all()
    assert 0.3 < found.singular.mean() < 1
    with float64_scope():
        at = jax.jit(Deviance.evaluate)(deviance, found.theta, stats)
    # A term of one column: its variance is 0 where the derivative there is not negative, and only there.
    start = 0
    for t, r in enumerate(deviance.sizes):
        if r == 1:
            zero = found.theta[start] == 0
            np.testing.assert_array_equal(zero, found.singular[t])
            assert (np.asarray(at.slope)[start, zero] >= -1e-6).all()
            assert (np.abs(found.theta[start, ~zero]) > 1e-4).all()
        start += r * (r + 1) // 2


def test_a_correlation_of_one_is_a_column_of_zeros() -> None:
    deviance, stats = problem("slope", 100, seed=2)
    found = minimise_several(deviance, stats)
    one = found.singular[0] & (found.theta[0] != 0) & (found.theta[1] != 0)
    assert one.any()
    np.testing.assert_array_equal(found.theta[2, one], 0)
