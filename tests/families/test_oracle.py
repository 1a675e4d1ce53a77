"""Against statsmodels and against a dense likelihood on random designs: never below their optimum."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import blups, dense_deviance, simulate, unbalanced

import jaxlmm


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = unbalanced(rng, int(rng.integers(3, 15)), int(rng.integers(2, 12)))
    ratio = float(rng.choice([0.0, 0.05, 1.0, 30.0]))
    X, Y = simulate(rng, codes, p=int(rng.integers(1, 4)), m=4, ratio=ratio)
    keep = np.linalg.matrix_rank(X) == X.shape[1] and len(codes) > X.shape[1] + 2
    return (X, Y, codes) if keep else random_case(seed + 1000)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("seed", range(12))
def test_never_below_statsmodels(seed: int, method: str) -> None:
    sm = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    X, Y, codes = random_case(seed)
    found = jaxlmm.fit(X, Y, codes, method=method)
    for i, y in enumerate(Y.T):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                other = sm.MixedLM(y, X, codes).fit(reml=method == "REML")
            except np.linalg.LinAlgError:  # statsmodels at a variance of 0
                continue
        assert found.loglik[i] >= other.llf - 1e-7 * abs(other.llf)
        # Where both stand on one optimum the estimates agree. (Standard errors differ by design:
        # statsmodels inverts the joint observed Hessian, jaxlmm and lme4 give (X'V^-1 X)^-1.)
        if abs(found.loglik[i] - other.llf) < 1e-10:
            np.testing.assert_allclose(found.coef[i], other.fe_params, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(found.sigma2[i], other.scale, rtol=1e-3)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("seed", range(40))
def test_global_optimum_of_the_dense_likelihood(seed: int, method: str) -> None:
    X, Y, codes = random_case(seed + 100)
    found = jaxlmm.fit(X, Y, codes, method=method)
    assert found.converged.all()
    grid = np.concatenate([[0.0], np.exp(np.linspace(-9, 9, 150))])
    for i, y in enumerate(Y.T):
        V = found.sigma2[i] * np.eye(len(y)) + found.group_var[i] * (codes[:, None] == codes)
        XtVi = np.linalg.solve(V, X).T
        np.testing.assert_allclose(found.vcov[i], np.linalg.inv(XtVi @ X), rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(found.se[i] ** 2, np.diag(found.vcov[i]), rtol=1e-10)
        np.testing.assert_allclose(found.coef[i], np.linalg.solve(XtVi @ X, XtVi @ y), rtol=1e-7, atol=1e-10)
        here = dense_deviance(found.lam[i], X, y, codes, method)
        np.testing.assert_allclose(-2 * found.loglik[i], here, rtol=1e-9)
        lowest = min(dense_deviance(lam, X, y, codes, method) for lam in grid)
        assert here <= lowest + 1e-9 * abs(lowest)


def test_ordinary_least_squares() -> None:
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(0)
    X, Y = simulate(rng, unbalanced(rng, 8, 9))
    found = jaxlmm.fit(X, Y)
    for i, y in enumerate(Y.T):
        other = sm.OLS(y, X).fit()
        np.testing.assert_allclose(found.coef[i], other.params, rtol=1e-10)
        np.testing.assert_allclose(found.se[i], other.bse, rtol=1e-10)
        np.testing.assert_allclose(found.pvalue[i], other.pvalues, rtol=1e-8)
        np.testing.assert_allclose(found.conf_int(0.9)[i], other.conf_int(0.1), rtol=1e-8)
        np.testing.assert_allclose(found.vcov[i], other.cov_params(), rtol=1e-8, atol=1e-14)
        np.testing.assert_allclose(found.sigma2[i], other.mse_resid, rtol=1e-10)
    ml = jaxlmm.fit(X, Y, method="ML")
    np.testing.assert_allclose(ml.loglik, [sm.OLS(y, X).fit().llf for y in Y.T], rtol=1e-10)
    assert found.n_groups == 0 and (found.status == jaxlmm.Status.OK).all()
    assert blups(found).shape == (5, 0) and not found.group_var.any()
