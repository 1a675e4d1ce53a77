"""What every family must do, against the dense covariance matrix and JAX's derivatives of its deviance."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Kinship

from jaxlmm._types import Status, float64_scope
from jaxlmm.design.design import make_design
from jaxlmm.design.groups import random_term
from jaxlmm.families.base import Family, covariances
from jaxlmm.families.general.model import RandomTerms
from jaxlmm.families.intercept.family import Intercept
from jaxlmm.families.registry import Model
from jaxlmm.results.fitting import fit_model
from jaxlmm.results.options import FitOptions

RNG = np.random.default_rng(11)
G = 8
CODES = np.repeat(np.arange(G), [3, 4, 5, 4, 3, 5, 4, 4])
N = len(CODES)
ITEM = (np.arange(N) * 5) % 6
T = RNG.normal(size=N)
X = np.column_stack([np.ones(N), T, RNG.normal(size=N)])
W = RNG.uniform(0.5, 2, N)
KINSHIP = np.exp(-np.abs(np.subtract.outer(np.arange(N), np.arange(N))) / 2.0)


def structure(random: list, family: type, weights: np.ndarray | None = None) -> Family:
    return family.make(make_design(X, None, ["one", "t", "z"], weights, random=random))


SLOPES = np.column_stack([np.ones(N), T])
FAMILIES: dict[str, Callable[[], Family]] = {
    "intercept": lambda: structure([CODES], Intercept),
    "intercept, weights": lambda: structure([CODES], Intercept, W),
    "any terms: intercept": lambda: structure([random_term(CODES)], RandomTerms),
    "any terms: slope": lambda: structure([random_term(CODES, SLOPES)], RandomTerms),
    "any terms: crossed, weights": lambda: structure([random_term(CODES), random_term(ITEM)], RandomTerms, W),
    "toy": lambda: Kinship.make(X, ["one", "t", "z"], KINSHIP),
}


@functools.cache
def family(name: str) -> Family:
    return FAMILIES[name]()


def responses() -> np.ndarray:
    """Effects of groups and slopes; none; the first far from zero; in other units; with gaps; bad ones."""
    rng = np.random.default_rng(2)
    slopes = rng.normal(size=(G, 2)) @ [[1.0, 0.4], [0.0, 0.7]]
    y = X @ [1.0, 0.5, -0.5] + np.sum(SLOPES * slopes[CODES], axis=1) + rng.normal(size=6)[ITEM] + rng.normal(size=N)
    noise = rng.normal(size=N)
    gaps = y.copy()
    gaps[[1, 7, 20]] = np.nan
    one_group = np.where(CODES == 0, y, np.nan)
    bad = [np.full(N, np.nan), np.where(np.arange(N) == 3, np.inf, y), np.full(N, 2.0), one_group]
    return np.column_stack([y, noise, y + 1e6, y * 1e-8, y * 1e8, gaps, *bad])


@functools.cache
def fitted(name: str, method: str):
    return fit_model(Model(family(name)), responses(), FitOptions(method=method))


@functools.cache
def products(name: str) -> np.ndarray:
    """H (3, 3, N, N) with sum_t Z_t Phi_t Z_t' = sum_ab theta_a theta_b H_ab; zeros beyond the family's theta."""
    made = family(name)
    H, start = np.zeros((3, 3, N, N)), 0
    if isinstance(made, Kinship):
        H[0, 0] = made.K
        return H
    for term in made.design.random:
        columns, rows = np.triu_indices(term.size)  # theta_a stands in L[rows[a], columns[a]]
        same = term.codes[:, None] == term.codes
        for a, (i, u) in enumerate(zip(rows, columns, strict=True)):
            for b, (j, v) in enumerate(zip(rows, columns, strict=True)):
                if u == v:
                    H[start + a, start + b] = np.outer(term.Z[:, i], term.Z[:, j]) * same
        start += len(rows)
    return H


def dense(theta: jax.Array, H: jax.Array, w: jax.Array, y: jax.Array, there: jax.Array, reml: jax.Array) -> jax.Array:
    """-2 log-likelihood, profiled over coefficients and sigma2, of the observations that are ``there`` (N,).

    The others have a row of zeros in X and y and one of the identity in V: one program, whatever is missing.
    """
    both = there[:, None] & there
    V = jnp.where(both, jnp.diag(1 / w) + jnp.einsum("a,b,abij->ij", theta, theta, H), jnp.eye(N))
    A, b = jnp.where(there[:, None], X, 0.0), jnp.where(there, y, 0.0)
    inverse = jnp.linalg.inv(V)
    M = A.T @ inverse @ A
    r = b - A @ jnp.linalg.solve(M, A.T @ inverse @ b)
    nu = there.sum() - jnp.where(reml, A.shape[1], 0)
    s2 = r @ inverse @ r / nu
    log = jnp.linalg.slogdet(V)[1] + jnp.where(reml, jnp.linalg.slogdet(M)[1], 0.0)
    return nu * (1 + jnp.log(2 * jnp.pi * s2)) + log


@jax.jit
def derivatives(theta: jax.Array, *given: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return dense(theta, *given), jax.grad(dense)(theta, *given), jax.hessian(dense)(theta, *given)


@jax.jit
def values(thetas: jax.Array, *given: jax.Array) -> jax.Array:
    # One after another: XLA's batches of LAPACK calls may wait for each other for ever on a CPU.
    return jax.lax.map(lambda theta: dense(theta, *given), thetas)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_optimum_is_that_of_the_dense_deviance(name: str, method: str) -> None:
    fit, Y = fitted(name, method), responses()
    w = family(name).design.weights
    k = fit.theta.shape[1]
    for i in (0, 1, 5):  # interior or boundary, boundary, incomplete
        given = (products(name), np.ones(N) if w is None else w, Y[:, i], np.isfinite(Y[:, i]), method == "REML")
        theta = np.zeros(3)
        theta[:k] = fit.theta[i]
        steps = np.zeros((40, 3))
        steps[:, :k] = 0.05 * np.random.default_rng(i).normal(size=(40, k))
        with float64_scope():
            value, gradient, hessian = map(np.asarray, derivatives(theta, *given))
            near = np.asarray(values(theta + steps, *given))
        gradient, hessian = gradient[:k], hessian[:k, :k]
        np.testing.assert_allclose(-2 * fit.loglik[i], value, rtol=1e-10)
        assert np.abs(gradient).max() < 2e-5 * N
        np.testing.assert_allclose(fit.hessian[i], hessian, rtol=1e-5, atol=1e-6 * np.abs(hessian).max() + 1e-6)
        # No point near by is lower.
        assert near.min() >= value - 1e-7


@pytest.mark.parametrize("name", FAMILIES)
def test_units_and_means_of_y_change_nothing(name: str) -> None:
    fit = fitted(name, "REML")
    for i, scale, rtol in ((2, 1.0, 1e-6), (3, 1e-8, 1e-8), (4, 1e8, 1e-8)):
        np.testing.assert_allclose(fit.theta[i], fit.theta[0], rtol=20 * rtol, atol=20 * rtol)
        np.testing.assert_allclose(fit.coef[i, 1:], fit.coef[0, 1:] * scale, rtol=10 * rtol)
        np.testing.assert_allclose(fit.se[i], fit.se[0] * scale, rtol=10 * rtol)
        np.testing.assert_allclose(fit.df[i], fit.df[0], rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_bad_responses_have_a_status_and_leave_the_others_alone(name: str) -> None:
    fit = fitted(name, "REML")
    assert fit.converged[:6].all() and not fit.converged[6:9].any()
    assert fit.status[6] in (Status.NONFINITE, Status.TOO_FEW) and fit.status[7] == Status.NONFINITE
    assert np.isnan(fit.coef[6:9]).all() and np.isnan(fit.theta[6:9]).all() and np.isnan(fit.df[6:9]).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_covariances_and_modes_are_those_of_the_dense_model(name: str) -> None:
    made, fit, Y = family(name), fitted(name, "REML"), responses()
    design, i = made.design, 0
    w = np.ones(N) if design.weights is None else design.weights
    parts = [(term.Z, term.codes, Phi[0]) for term, Phi in zip(
        design.random, covariances(fit.theta[[i]], made.sizes), strict=True)]  # fmt: skip
    V = np.diag(1 / w)
    for Z, codes, Phi in parts:
        kernel = made.K if isinstance(made, Kinship) else codes[:, None] == codes
        V = V + (Z @ Phi @ Z.T) * kernel
    inverse = np.linalg.inv(V)
    C = np.linalg.inv(design.X.T @ inverse @ design.X)
    np.testing.assert_allclose(fit.vcov[i], C * fit.sigma2[i], rtol=1e-6, atol=1e-9 * fit.sigma2[i])
    residual = inverse @ (Y[:, i] - design.X @ fit.coef[i])
    for (Z, codes, Phi), found in zip(parts, fit.ranef().values(), strict=True):
        if isinstance(made, Kinship):
            np.testing.assert_allclose(found.modes[i, :, 0], Phi[0, 0] * made.K @ residual, rtol=1e-6, atol=1e-8)
            continue
        expected = np.array([Phi @ Z[codes == g].T @ residual[codes == g] for g in range(len(found.levels))])
        np.testing.assert_allclose(found.modes[i], expected, rtol=1e-6, atol=1e-8)
