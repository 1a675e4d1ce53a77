"""The optimum over several covariances: never above what many starts of scipy find; singular ones exactly."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import mpmath
import numpy as np
import pytest
import scipy.optimize

from jaxlmm._types import float64_scope
from jaxlmm.design.random import make_random_term
from jaxlmm.families.deviance import Deviance
from jaxlmm.families.parameters import phi_from_theta, theta_gradient, theta_jacobian
from jaxlmm.optimize.covariances import _eigh
from jaxlmm.optimize.several import descend, minimise_several

sys.path.insert(0, str(Path(__file__).parents[1] / "families"))
from oracle import make_case, structures


def responses(name, m, seed=0, levels=(0, 0.3, 1, 3)):
    """A design, and responses with random effects of random sizes, often none."""
    rng = np.random.default_rng(seed)
    X, _, terms = structures(rng)
    case = make_case(X, terms[name])
    Y = rng.normal(size=(len(X), m))
    for term in terms[name]:
        effects = rng.normal(size=(term.n_levels, term.size, m)) * rng.choice(levels, size=(term.size, m))
        Y += np.einsum("nr,nrm->nm", term.Z, effects[term.codes])
    return case, Y


def problem(name, m, seed=0, levels=(0, 0.3, 1, 3)):
    case, Y = responses(name, m, seed, levels)
    return Deviance(case.family, float(len(Y) - 3), True), case.family.reduce(Y)[0]


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


@pytest.mark.parametrize(("seed", "n", "n_groups"), [(5, 18, 7), (8, 39, 11)])
def test_few_rows_a_heavy_tailed_covariate_and_outliers(seed: int, n: int, n_groups: int) -> None:
    """Several minima, and variances that are large in units that an outlier of the covariate makes: from many starts
    far and wide none is lower."""
    rng, m = np.random.default_rng(seed), 200
    g = np.sort(np.concatenate([np.arange(n_groups), rng.integers(0, n_groups, n - n_groups)]))
    x = rng.standard_t(1.5, size=n)
    X, Z = np.column_stack([np.ones(n), x, rng.normal(size=n)]), np.column_stack([np.ones(n), x])
    Y = rng.standard_t(2, size=(n, m))
    Y += np.einsum("nr,nrm->nm", Z, (rng.normal(size=(n_groups, 2, m)) * rng.choice([0, 1, 5], size=(2, m)))[g])
    case = make_case(X, [make_random_term("g", range(n_groups), g, Z)])
    stats, deviance = case.family.reduce(Y)[0], Deviance(case.family, float(n - 3), True)
    assert max(case.family.reach) > 0
    found = minimise_several(deviance, stats)
    lowest = np.full(m, np.inf)
    with float64_scope():
        for _ in range(20):
            sd, r = 10 ** rng.uniform(-1.5, 4, (2, m)), np.tanh(rng.uniform(-4, 4, m))
            _, value, there = descend(deviance, stats, np.stack([sd[0], sd[1] * r, sd[1] * np.sqrt(1 - r * r)]))
            lowest = np.fmin(lowest, np.where(there, value, np.inf))
    assert np.all(found.value < lowest + 2e-7)


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


def gradient_in_40_digits(case, y, theta):
    """Of the restricted deviance in theta (k,), by n x n matrices."""
    sizes = case.family.sizes
    phi = phi_from_theta(theta[:, None], sizes)[:, 0]
    with mpmath.workdps(40):
        Q, y = mpmath.matrix(case.Q.tolist()), mpmath.matrix(y.tolist())
        inverse = mpmath.inverse(mpmath.matrix(np.eye(len(case.Q)).tolist()) + dot(phi, case.G))
        pulled = inverse * Q
        P = inverse - pulled * mpmath.inverse(Q.T * pulled) * pulled.T
        left, s = P * y, (y.T * P * y)[0]
        nu = len(case.Q) - case.Q.shape[1]
        slope = [
            sum(G[i, j] * (P[i, j] - nu * left[i] * left[j] / s) for i, j in np.argwhere(G).tolist()) for G in case.G
        ]
    return theta_gradient(np.array(slope, float)[:, None], theta_jacobian(theta[:, None], sizes))[:, 0]


def dot(phi, G):
    """sum_s phi_s G_s, in mpmath's numbers."""
    n = G.shape[1]
    return mpmath.matrix([[mpmath.fdot(zip(phi, G[:, i, j], strict=True)) for j in range(n)] for i in range(n)])


@pytest.mark.parametrize("name", ["crossed", "maximal"])
def test_large_variance_ratios_converge(name: str) -> None:
    """Effects of up to 1000 times the noise: to a gradient of 0, as exact arithmetic sees it."""
    levels = (0.3, 30, 150, 1000)
    deviance, stats = problem(name, 60, seed=3, levels=levels)
    found = minimise_several(deviance, stats)
    assert found.converged.all()
    case, Y = responses(name, 60, 3, levels)
    size = (found.theta**2).max(axis=0)
    assert size.max() > 1e6
    for c in (size.argmax(), np.argsort(size)[30]):
        steep = gradient_in_40_digits(case, Y[:, c], found.theta[:, c]) * np.maximum(np.abs(found.theta[:, c]), 1)
        # Rounding: a few units in the last place of the largest variance ratio.
        assert np.abs(steep).max() < max(1e-9 * deviance.nu, 1e-13 * size[c])


def test_eigenvalues_of_small_matrices() -> None:
    rng = np.random.default_rng(0)
    A = rng.normal(size=(400, 2, 2)) * 10.0 ** rng.integers(-8, 8, (400, 1, 1))
    A[:50, 0, 1], A[50:60], A[60:80, 1] = 0.0, 0.0, A[60:80, 0]
    for M in (
        A @ A.swapaxes(1, 2),
        A + A.swapaxes(1, 2),
        A[:, :1, :1],
        np.einsum("cij,ckl->cikjl", A, A).reshape(-1, 4, 4),
    ):
        M = M + M.swapaxes(1, 2)
        values, vectors = _eigh(M)
        size = np.abs(M).max(axis=(1, 2)) + 1e-300
        assert (np.abs(values - np.linalg.eigvalsh(M)).max(axis=1) <= 1e-14 * size).all()
        assert (np.abs(M @ vectors - vectors * values[:, None]).max(axis=(1, 2)) <= 1e-14 * size).all()
        np.testing.assert_allclose(
            vectors.swapaxes(1, 2) @ vectors, np.tile(np.eye(M.shape[1]), (400, 1, 1)), atol=1e-14
        )
