"""Weights of each response's own: R, the dense covariance matrix, and the same responses one at a time."""

from __future__ import annotations

import dataclasses
import functools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from adversarial import oracle

import jaxlmm
from jaxlmm.families.intercept.family import Intercept
from jaxlmm.families.own.profile import own_profile
from jaxlmm.resampling.bootstrap import simulate_responses
from jaxlmm.sources.weighted import WeightedMatrix

REFERENCE = Path(__file__).parents[1] / "reference"
RNG = np.random.default_rng(3)
G = 8
CODES = np.repeat(np.arange(G), [3, 9, 6, 8, 5, 10, 7, 12])
N, M = len(CODES), 6
X = np.column_stack([np.ones(N), RNG.normal(size=N), RNG.normal(size=N), RNG.normal(size=G)[CODES]])
SD = np.array([1.0, 0.0, 0.3, 30.0, 1.0, 1.0])
Y = X @ RNG.normal(size=(4, M)) + SD * RNG.normal(size=(G, M))[CODES] + RNG.normal(size=(N, M))
W = RNG.gamma(2.0, 0.5, size=(N, M)) + 0.05
# Without a weight, without a value, without both; the fifth lacks a whole group.
W[4, 1], W[11, 1], Y[[4, 30], 2], W[30, 2] = 0.0, np.nan, np.nan, 0.0
W[CODES == 2, 4] = 0.0
RESPONSES = ["y1", "y2", "y3", "y4"]
VALUES = ("coef", "se", "se_gls", "sigma2", "loglik", "theta", "n_used", "status", "rsquared_marginal",
          "rsquared_conditional", "icc", "aic", "bic")  # fmt: skip


@functools.cache
def fitted(method: str = "REML", groups: bool = True) -> jaxlmm.Fit:
    return jaxlmm.fit(X, Y, CODES if groups else None, weights=W, method=method)


@functools.cache
def alone(i: int, method: str = "REML", groups: bool = True) -> jaxlmm.Fit:
    """The response with shared weights, on the rows that count."""
    rows = counting(i)
    return jaxlmm.fit(X[rows], Y[rows, i], CODES[rows] if groups else None, weights=W[rows, i], method=method)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, bool, np.float32])
def test_weights_may_be_numbers_of_any_type(kind: Any) -> None:
    counts = np.arange(N * M).reshape(N, M) % 5
    found, expected = (jaxlmm.fit(X, Y, CODES, weights=w) for w in (counts.astype(kind), 1.0 * counts.astype(kind)))
    for name in VALUES:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def counting(i: int) -> np.ndarray:
    return (W[:, i] > 0) & ~np.isnan(Y[:, i])


@pytest.mark.parametrize("groups", [True, False])
@pytest.mark.parametrize("method", ["REML", "ML"])
def test_each_response_is_that_of_a_fit_with_shared_weights_on_its_rows(method: str, groups: bool) -> None:
    fit = fitted(method, groups)
    for i in range(M):
        one = alone(i, method, groups)
        for name in VALUES:
            found, expected = getattr(fit, name)[i], getattr(one, name)[0]
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14, err_msg=f"{name} of {i}")
        np.testing.assert_allclose(fit.hessian[i], one.hessian[0], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(fit.df[i], one.df[0], rtol=1e-7)
        np.testing.assert_allclose(fit.ftest(np.eye(4)[1:]).pvalue[i], one.ftest(np.eye(4)[1:]).pvalue[0], rtol=1e-6)
        for name, se in fit.variance_se().items():
            np.testing.assert_allclose(se[i], one.variance_se()[name][0], rtol=1e-6)
        if method == "REML":
            kr, kr1 = fit.with_df("kenward-roger"), one.with_df("kenward-roger")
            np.testing.assert_allclose(kr.se[i], kr1.se[0], rtol=1e-9)
            np.testing.assert_allclose(kr.df[i], kr1.df[0], rtol=1e-7)
            np.testing.assert_allclose(kr.anova().statistic[i], kr1.anova().statistic[0], rtol=1e-6)


def test_random_effects_and_residuals() -> None:
    fit = fitted()
    effects = fit.ranef()["group"]
    for i in range(M):
        rows, one = counting(i), alone(i)
        there = np.unique(CODES[rows])
        np.testing.assert_allclose(effects.modes[i, there], one.ranef()["group"].modes[0], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(effects.sd[i, there], one.ranef()["group"].sd[0], rtol=1e-9)
        np.testing.assert_allclose(fit.fitted()[rows, i], one.fitted()[:, 0], rtol=1e-7, atol=1e-9)
        np.testing.assert_array_equal(np.isnan(fit.resid()[:, i]), ~rows)
    # Of a group that does not count nothing is known.
    np.testing.assert_allclose(effects.modes[4, 2], 0)
    np.testing.assert_allclose(effects.sd[4, 2, 0], np.sqrt(fit.group_var[4]))
    assert fit.n_groups_used[4] == G - 1


def test_the_dense_covariance_matrix_gives_the_same_likelihood() -> None:
    for method in ("REML", "ML"):
        fit = fitted(method)
        for i in range(M):
            rows = counting(i)
            theta = fit.theta[i, 0]
            values = [dense(t, i, rows, method) for t in (theta, theta * (1 + 1e-4) + 1e-6)]
            np.testing.assert_allclose(fit.loglik[i], values[0][0], rtol=1e-10)
            assert values[1][0] <= values[0][0] + 1e-9
            np.testing.assert_allclose(fit.coef[i], values[0][1], rtol=1e-7)
            np.testing.assert_allclose(fit.vcov[i], values[0][2], rtol=1e-7, atol=1e-12)


def dense(theta: float, i: int, rows: np.ndarray, method: str) -> tuple[float, np.ndarray, np.ndarray]:
    """Log-likelihood, coefficients and their covariance by the (n, n) covariance matrix."""
    A, y, g = X[rows], Y[rows, i], CODES[rows]
    V = np.diag(1 / W[rows, i]) + theta**2 * (g[:, None] == g)
    inverse = np.linalg.inv(V)
    M_ = A.T @ inverse @ A
    b = np.linalg.solve(M_, A.T @ inverse @ y)
    r = y - A @ b
    nu = len(y) - 4 if method == "REML" else len(y)
    s2 = r @ inverse @ r / nu
    log = np.linalg.slogdet(V)[1] + (np.linalg.slogdet(M_)[1] if method == "REML" else 0.0)
    return -0.5 * (nu * (1 + np.log(2 * np.pi * s2)) + log), b, s2 * np.linalg.inv(M_)


@pytest.mark.parametrize(
    "case", json.loads((REFERENCE / "own_weights.json").read_text()), ids=lambda c: c["bar"] + c["response"]
)
def test_agrees_with_lmer(case: dict) -> None:
    fit, ml = (lmer(case["bar"], method) for method in ("REML", "ML"))
    i = RESPONSES.index(case["response"])
    assert fit.n_used[i] == case["n"] and fit.singular[i] == case["singular"]
    for name in ("coef", "se", "sigma2"):
        np.testing.assert_allclose(getattr(fit, name)[i], case[name], rtol=2e-6)
    np.testing.assert_allclose(fit.loglik[i], case["loglik"], rtol=1e-8)
    np.testing.assert_allclose(ml.loglik[i], case["ml_loglik"], rtol=1e-8)
    np.testing.assert_allclose(ml.coef[i], case["ml_coef"], rtol=2e-6)
    np.testing.assert_allclose(ml.sigma2[i], case["ml_sigma2"], rtol=2e-6)
    np.testing.assert_allclose(
        fit.theta[i] ** 2, np.square(case["theta"]), rtol=1e-4, atol=1e-7 * case["sigma2"] ** -1
    )
    np.testing.assert_allclose(fit.df[i], case["df"], rtol=2e-3)
    table = fit.anova()
    np.testing.assert_allclose(table.statistic[i], case["anova_F"], rtol=1e-5)
    np.testing.assert_allclose(table.df_den[i], case["anova_df"], rtol=2e-3)
    effects = fit.ranef()["g"]
    scale = max(np.abs(case["modes"]).max(), 1e-6)
    np.testing.assert_allclose(effects.modes[i], case["modes"], rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_allclose(effects.sd[i], case["sd"], rtol=1e-4, atol=1e-4 * np.max(case["sd"]) + 1e-6)


@functools.cache
def lmer(bar: str, method: str) -> jaxlmm.Fit:
    data = pd.read_csv(REFERENCE / "own_weights.csv")
    weights = data[[f"w{k}" for k in range(1, 5)]].set_axis(RESPONSES, axis=1)
    return jaxlmm.lmm(f"x + z + {bar}", data, responses=RESPONSES, weights=weights, method=method)


def test_the_unit_of_the_weights_does_not_matter() -> None:
    unit = np.array([1e-150, 1e9, 3.0, 1e-4, 7e20, 1e150])
    fit, other = fitted(), jaxlmm.fit(X, Y, CODES, weights=W * unit)
    for name in ("coef", "se", "df", "status", "n_used", "rsquared_marginal", "rsquared_conditional", "icc"):
        np.testing.assert_allclose(getattr(other, name), getattr(fit, name), rtol=1e-7, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(other.sigma2, fit.sigma2 * unit, rtol=1e-9)
    np.testing.assert_allclose(other.group_var, fit.group_var, rtol=1e-7)
    np.testing.assert_allclose(other.loglik, fit.loglik, rtol=1e-10)


def test_weights_that_are_all_the_same_are_those_of_all() -> None:
    same = np.repeat(W[:, [0]], M, axis=1)
    fit, shared = jaxlmm.fit(X, Y, CODES, weights=same), jaxlmm.fit(X, Y, CODES, weights=W[:, 0])
    for name in VALUES:
        np.testing.assert_allclose(getattr(fit, name), getattr(shared, name), rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(fit.df, shared.df, rtol=1e-6)


@pytest.mark.parametrize(("signal", "spread"), [(1e4, 1.0), (1e6, 0.0), (1.0, 1e6), (1e6, 1e4)])
def test_any_r_squared_and_any_variance_ratio(signal: float, spread: float) -> None:
    rng = np.random.default_rng(8)
    y = signal * X @ rng.normal(size=(4, 3)) + spread * rng.normal(size=(G, 3))[CODES] + rng.normal(size=(N, 3))
    weights = W[:, [0, 1, 4]]
    fit = jaxlmm.fit(X, y, CODES, weights=weights)
    assert fit.converged.all()
    for i in range(3):
        rows = weights[:, i] > 0
        loglik, sigma2, beta, se = oracle(X[rows], CODES[rows], y[rows, i], fit.lam[i], weights[rows, i]).floats()
        np.testing.assert_allclose(fit.loglik[i], loglik, rtol=0, atol=1e-8)
        # A coefficient of 1e6 is itself rounded by 1e-10.
        np.testing.assert_allclose((fit.coef[i] - beta) / se, 0.0, atol=1e-8 + 5e-14 * signal)
        np.testing.assert_allclose(fit.se[i], se, rtol=1e-8)
        np.testing.assert_allclose(fit.sigma2[i], sigma2, rtol=1e-9)


def test_any_random_terms() -> None:
    slopes = np.column_stack([np.ones(N), X[:, 1]])
    random = [jaxlmm.random_term(CODES, slopes)]
    fit = jaxlmm.fit(X, Y[:, :3], random=random, weights=W[:, :3])
    effects = fit.ranef()["group"]
    for i in range(3):
        rows = counting(i)
        term = jaxlmm.random_term(CODES[rows], slopes[rows])
        one = jaxlmm.fit(X[rows], Y[rows, i], random=[term], weights=W[rows, i])
        for name in ("coef", "se", "sigma2", "loglik", "theta", "n_used", "status", "rsquared_conditional"):
            np.testing.assert_allclose(getattr(fit, name)[i], getattr(one, name)[0], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(fit.df[i], one.df[0], rtol=1e-6)
        np.testing.assert_allclose(effects.modes[i], one.ranef()["group"].modes[0], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(effects.sd[i], one.ranef()["group"].sd[0], rtol=1e-6)


@pytest.mark.parametrize("groups", [True, False])
def test_profile_limits(groups: bool) -> None:
    """Of responses that share a design they come from another way, see ``families/intercept/profile.py``."""
    found = fitted("REML", groups).profile()
    for i in (0, 1):
        expected = alone(i, "REML", groups).profile()
        for name in ("random", "sigma", "coef"):
            limits = getattr(expected, name)[0]
            np.testing.assert_allclose(getattr(found, name)[i], limits, rtol=1e-7, atol=1e-9, err_msg=name)


def test_fast_and_slow_profile_limits_are_the_same() -> None:
    fit = fitted()
    own, responses = fit.model.family.own, WeightedMatrix(fit.Y, fit.weights)
    fast, slow = (own_profile(own, responses, np.arange(M), 3.84, nested=nested) for nested in (False, True))
    for a, b in zip(fast, slow, strict=True):
        assert np.isfinite(b).all()
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def test_bad_responses_have_a_status_and_leave_the_others_alone() -> None:
    y, w = np.repeat(Y[:, [0]], 6, axis=1), np.repeat(W[:, [0]], 6, axis=1)
    w[:, 1] = 0.0
    w[4:, 2] = 0.0
    y[3, 3] = np.inf
    w[CODES > 0, 4] = np.nan
    w[0, 5] = 1e200
    fit, one = jaxlmm.fit(X, y, CODES, weights=w), alone(0)
    names = [jaxlmm.Status(code).name for code in fit.status]
    assert names[0] == "OK" and names[1] == names[3] == "NONFINITE"
    # One row that outweighs all others leaves as good as nothing of them.
    assert names[2] == names[4] == names[5] == "TOO_FEW"
    assert fit.n_used.tolist()[:3] == [N, 0, 4]
    np.testing.assert_allclose(fit.coef[0], one.coef[0], rtol=1e-10)
    assert np.isnan(fit.coef[1:]).all() and np.isnan(fit.df[1:]).all()


def test_missing_refuse_means_values_and_weights_that_are_not_there() -> None:
    fit = jaxlmm.fit(X, Y, CODES, weights=W, missing="refuse")
    refused = fit.status == jaxlmm.Status.NONFINITE
    # A weight of 0 drops its row on purpose: the fifth response has nothing else.
    assert refused.tolist() == [False, True, True, False, False, False]
    np.testing.assert_array_equal(fit.coef[4], fitted().coef[4])


def test_selecting_joining_and_pickling_keep_the_weights() -> None:
    fit = fitted()
    joined = jaxlmm.concat([fit.select([4, 1]), fit.select([0])])
    for other, where in ((joined, [4, 1, 0]), (pickle.loads(pickle.dumps(fit)), range(M))):
        np.testing.assert_allclose(other.df, fit.df[list(where)], rtol=1e-12)
        np.testing.assert_allclose(other.resid(), fit.resid()[:, list(where)])
    with pytest.raises(ValueError, match="only one of fit 0 and fit 1 has weights"):
        jaxlmm.concat([fit, jaxlmm.fit(X, Y, CODES)])


def test_comparison_wants_the_same_weights() -> None:
    small, other = jaxlmm.fit(X[:, :3], Y, CODES, weights=W), jaxlmm.fit(X[:, :3], Y, CODES, weights=W * 2.0)
    found = jaxlmm.compare(small, fitted(), refit="ML")
    expected = jaxlmm.compare(*(jaxlmm.fit(A, Y, CODES, weights=W, method="ML") for A in (X[:, :3], X)))
    np.testing.assert_allclose(found.pvalue, expected.pvalue, rtol=1e-9)
    with pytest.raises(ValueError, match="different weights"):
        jaxlmm.compare(other, fitted(), refit="ML")
    with pytest.raises(ValueError, match="are not permuted together"):
        jaxlmm.permutation_test(fitted(), "x1")


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_each_response_has_the_exact_test_of_its_own_design(method: str) -> None:
    found = jaxlmm.rlrt(fitted(method), n_sim=500, seed=4)
    assert not len(found.null)
    for i in range(M):
        one = jaxlmm.rlrt(alone(i, method), n_sim=500, seed=4)
        np.testing.assert_allclose(found.statistic[i], one.statistic[0], rtol=1e-7, atol=1e-9)
        # The draws are the same, so that only rounding could tell the p-values apart.
        np.testing.assert_allclose(found.pvalue[i], one.pvalue[0], rtol=1e-12)
        np.testing.assert_allclose(found.pvalue_mixture[i], one.pvalue_mixture[0], rtol=1e-6)
    assert (found.pvalue[[0, 3]] < 1).all() and found.pvalue[found.statistic == 0].tolist() == [1.0] * int(
        np.sum(found.statistic == 0)
    )


def test_tests_of_coefficients_need_no_second_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = jaxlmm.fit(X, Y, CODES, weights=W)
    anew = dataclasses.replace(fit, known=None)
    expected = {df: (anew.with_df(df).se, anew.with_df(df).df) for df in ("satterthwaite", "kenward-roger")}
    monkeypatch.setattr(Intercept, "incomplete", lambda *a, **k: pytest.fail("cross-products were computed again"))
    for df, values in expected.items():
        found = fit.with_df(df)
        np.testing.assert_allclose(found.se, values[0], rtol=1e-10)
        np.testing.assert_allclose(found.df, values[1], rtol=1e-9)
    np.testing.assert_allclose(fit.select([3, 1]).df, fit.df[[3, 1]], rtol=1e-12)
    np.testing.assert_allclose(fit.test({"x1": -2}).se[:, 0], 2 * fit.se[:, 1], rtol=1e-12)


def test_replicates_of_the_bootstrap_keep_the_weights() -> None:
    """Those of each response have its estimates' mean and covariance."""
    fit = fitted()
    assert dataclasses.replace(fit, theta=fit.theta * 1.5).known is fit.known
    found = fit.bootstrap(300, seed=1, progress=False)
    assert not found.n_failed.any()
    for i in (0, 2, 4):
        error = (found.coef[:, i] - fit.coef[i]) / fit.se[i]
        assert np.abs(error.mean(axis=0)).max() < 0.25
        assert np.abs(np.log(error.std(axis=0))).max() < 0.25
        assert abs(np.mean(found.sigma2[:, i]) / fit.sigma2[i] - 1) < 0.1
    # The same response alone, with other random numbers of the same distribution.
    one = alone(2).bootstrap(300, seed=1, progress=False)
    np.testing.assert_allclose(found.standard_error()[2], one.standard_error()[0], rtol=0.3)


@pytest.mark.parametrize("kind", ["wild", "cases"])
def test_replicates_of_rows_are_those_of_the_response_alone(kind: str) -> None:
    fit = fitted()
    found = fit.bootstrap(2, kind=kind, seed=3, progress=False)
    # A response that has every row of every block, so that blocks are drawn alike.
    one = jaxlmm.fit(X, Y[:, 0], CODES, weights=W[:, 0]).bootstrap(2, kind=kind, seed=3, progress=False)
    np.testing.assert_allclose(found.coef[:, 0], one.coef[:, 0], rtol=1e-8)
    np.testing.assert_allclose(found.theta[:, 0], one.theta[:, 0], rtol=1e-6, atol=1e-9)
    assert np.isfinite(found.coef[:, [1, 2, 4]]).all()


def test_the_bootstrap_of_a_comparison_is_that_of_each_response() -> None:
    small, large = (jaxlmm.fit(A, Y[:, :3], CODES, weights=W[:, :3], method="ML") for A in (X[:, :3], X))
    found = jaxlmm.compare(small, large, method="bootstrap", n=80, seed=2)
    for i in range(3):
        own = small.select([i]).model.family.take(counting(i), W[counting(i), i])
        other = large.model.family.take(counting(i), W[counting(i), i])
        count = 0
        for k in range(80):
            y = simulate_responses(small, own.design, np.array([i]), np.random.default_rng([2, k, 0, 1 + i]))
            ratio = 2 * (other.fit(y, "ML")["loglik"] - own.fit(y, "ML")["loglik"])
            count += int(ratio[0] >= found.statistic[i] - 1e-7)
        np.testing.assert_allclose(found.pvalue[i], (1 + count) / 81)


@pytest.mark.parametrize("name", ["a.npz", "b.zarr"])
@pytest.mark.parametrize("include_Y", [True, False])
def test_files_hold_the_weights(tmp_path: Path, name: str, include_Y: bool) -> None:
    if name.endswith("zarr"):
        pytest.importorskip("zarr")
    fit = fitted()
    fit.save(tmp_path / name, include_Y=include_Y)
    again = jaxlmm.load(tmp_path / name)
    np.testing.assert_allclose(again.pvalue, fit.pvalue, rtol=1e-12)
    np.testing.assert_allclose(again.rsquared_marginal, fit.rsquared_marginal, rtol=1e-12)
    np.testing.assert_array_equal(again.group_sizes, fit.group_sizes)
    whole = jaxlmm.load(tmp_path / name, Y=Y)
    np.testing.assert_allclose(whole.ranef()["group"].modes, fit.ranef()["group"].modes, rtol=1e-12)
    np.testing.assert_allclose(again.select([4, 2]).df, fit.df[[4, 2]], rtol=1e-12)


def test_runs_on_disk_read_weights_with_the_responses(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    fit, out = fitted(), tmp_path / "o.zarr"
    found = jaxlmm.fit(X, Y, CODES, weights=W, out=out, block=4)
    np.testing.assert_allclose(found.pvalue.values, fit.pvalue.T, rtol=1e-10)
    with pytest.raises(ValueError, match="cannot be resumed"):
        jaxlmm.fit(X, Y, CODES, weights=W * 2.0, out=out, block=4, resume=True)
    loaded = jaxlmm.load(out)
    np.testing.assert_allclose(loaded.coef, fit.coef, rtol=1e-12)
    with pytest.raises(ValueError, match="give them to load"):
        _ = loaded.df
    with pytest.raises(ValueError, match="weights are not what was fitted"):
        jaxlmm.load(out, weights=W[:, ::-1])
    with pytest.raises(ValueError, match="none of their own"):
        jaxlmm.fit(X, Y, CODES).save(tmp_path / "c.npz")
        jaxlmm.load(tmp_path / "c.npz", weights=W)
    loaded = jaxlmm.load(out, Y=Y, weights=W)
    np.testing.assert_allclose(loaded.df, fit.df, rtol=1e-10)
    np.testing.assert_allclose(loaded.resid(), fit.resid(), rtol=1e-9, atol=1e-10)


def test_dask_cuts_weights_as_it_cuts_the_responses() -> None:
    da = pytest.importorskip("dask.array")
    lazy = da.from_array(Y, chunks=(30, 4))
    for weights in (W, da.from_array(W, chunks=(N, 3))):
        found = jaxlmm.fit(X, lazy, CODES, weights=weights).compute()
        np.testing.assert_allclose(found.pvalue.values, fitted().pvalue.T, rtol=1e-10)


def test_stores_are_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxlmm.sources.lazy.LOAD_BYTES", 100)
    np.save(tmp_path / "y.npy", Y.reshape(N, 2, 3))
    fit = jaxlmm.fit(X, tmp_path / "y.npy", CODES, weights=W.reshape(N, 2, 3))
    assert not isinstance(fit.Y, np.ndarray)
    for part, whole in ((fit, fitted()), (fit.select([4, 1]), fitted().select([4, 1]))):
        np.testing.assert_allclose(part.df, whole.df, rtol=1e-12)
        np.testing.assert_allclose(part.resid(), whole.resid(), rtol=1e-12)


def test_labelled_weights_go_by_their_labels() -> None:
    xr = pytest.importorskip("xarray")
    dims, coords = ("trial", "channel", "time"), {"channel": ["a", "b"], "subject": ("trial", CODES)}
    labelled = xr.DataArray(Y.reshape(N, 2, 3), dims=dims, coords=coords)
    weights = xr.DataArray(W.reshape(N, 2, 3), dims=dims, coords={"channel": ["a", "b"]})
    for given in (weights, weights.transpose("time", "trial", "channel"), W.reshape(N, 2, 3)):
        fit = jaxlmm.fit(X, labelled, "subject", weights=given)
        np.testing.assert_allclose(fit.df, fitted().df, rtol=1e-12)
    np.testing.assert_allclose(fit.sel(channel="b").df, fitted().df[3:], rtol=1e-12)
    for given, message in (
        (weights.sel(channel=["b", "a"]), "different labels along 'channel'"),
        (weights.rename(time="t"), "has the dimensions"),
        (W, "weights has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            jaxlmm.fit(X, labelled, "subject", weights=given)


def test_model_fit_takes_weights() -> None:
    model = jaxlmm.prepare(X, CODES)
    np.testing.assert_array_equal(model.fit(Y, weights=W).coef, fitted().coef)
    with pytest.raises(ValueError, match="belong to the model"):
        model.fit(Y, weights=W[:, 0])
    with pytest.raises(ValueError, match="weights of each response's own are given with Y"):
        jaxlmm.prepare(X, CODES, weights=W)
    with pytest.raises(ValueError, match="has weights that all responses share"):
        jaxlmm.prepare(X, CODES, weights=W[:, 0]).fit(Y, weights=W)


def test_integers_and_single_precision() -> None:
    y = np.round(10 * np.nan_to_num(Y[:, [0, 1, 3]])).astype(np.int16)
    w = np.round(W[:, [0, 3, 4]] * 8).astype(np.float32)
    fit, double = jaxlmm.fit(X, y, CODES, weights=w), jaxlmm.fit(X, y * 1.0, CODES, weights=w.astype(np.float64))
    np.testing.assert_array_equal(fit.coef, double.coef)
