"""Responses with rows, or weights, of their own, on designs with any random terms: as if each had been alone."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxlmm
from jaxlmm import Status
from jaxlmm.sources.weighted import WeightedMatrix

G, N_GOOD = 12, 6
CODES = np.repeat(np.arange(G), np.random.default_rng(0).integers(5, 13, G))
N = len(CODES)
ITEMS = np.arange(N) % 8
_rng = np.random.default_rng(1)
x, z, level = _rng.normal(size=N), _rng.normal(size=N), _rng.normal(size=G)[CODES]
factor = np.arange(N) % 3
ONE, DUMMIES = np.ones(N), np.stack([factor == 1, factor == 2], axis=1) * 1.0
X = np.column_stack([ONE, x, level])
# Columns of Z for each term, and X; after ``CODES`` the terms lie on items, or on items within groups.
DESIGNS: dict[str, tuple[list[np.ndarray], np.ndarray]] = {
    "intercept and slope": ([np.column_stack([ONE, x])], X),
    "apart": ([ONE[:, None], x[:, None]], X),
    "slope alone": ([x[:, None]], X),
    "factor": ([np.column_stack([ONE, DUMMIES])], np.column_stack([ONE, DUMMIES])),
    "crossed": ([ONE[:, None], ONE[:, None]], X),
    "crossed, slopes": ([np.column_stack([ONE, x]), np.column_stack([ONE, x])], X),
    "nested": ([ONE[:, None], ONE[:, None]], X),
    "slopes and items": ([np.column_stack([ONE, x]), ONE[:, None]], np.column_stack([x, level])),
    "a covariate far from 0, no intercept in X": ([np.column_stack([ONE, 50 + z])], np.column_stack([x, 50 + z])),
}
NAMES = ("coef", "se", "sigma2", "loglik", "theta", "n_used", "status", "df", "pvalue")


# Designs of which some responses are not for sums; each takes programs of its own.
WITH_OTHERS = ("intercept and slope", "crossed")
SECOND = {"nested": 2 * CODES + np.arange(N) % 2, "apart": CODES}


def terms(name: str, rows: Any = slice(None)) -> list[jaxlmm.RandomTerm]:
    factors = CODES, SECOND.get(name, ITEMS)
    return [jaxlmm.random_term(codes[rows], Z[rows]) for codes, Z in zip(factors, DESIGNS[name][0], strict=False)]


@functools.cache
def data(name: str, weighted: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Responses, and weights or None."""
    rng = np.random.default_rng(2)
    Y = rng.normal(size=(N, N_GOOD + 7))
    for Z, codes in zip(DESIGNS[name][0], (CODES, SECOND.get(name, ITEMS)), strict=False):
        spread = np.resize([0.0, 0.5, 1.0, 2.0], Y.shape[1])
        effects = rng.normal(size=(codes.max() + 1, Z.shape[1], 1)) * spread
        Y += np.einsum("nr,nrm->nm", Z / np.abs(Z).max(axis=0), effects[codes])
    Y += 1000.0 * (DESIGNS[name][1][:, 0] == 1).all()  # X holds it
    absent = rng.random(Y.shape) < 0.1
    absent[:, 0] &= CODES > 0
    if name not in WITH_OTHERS:
        Y, absent = Y[:, :N_GOOD], absent[:, :N_GOOD]
    else:
        absent[CODES == 3, 1] = True
    Y[absent] = np.nan
    weights = 3e-4 * rng.uniform(0.3, 3.0, Y.shape) if weighted else None
    if name not in WITH_OTHERS:
        return Y, weights
    first = N_GOOD
    Y[CODES > 1, first] = np.nan  # two levels
    Y[CODES > 0, first + 1] = np.nan  # one level
    Y[:, first + 2] = np.nan
    Y[3, first + 3] = np.inf
    Y[:, first + 4] = np.where(absent[:, first + 4], np.nan, 7.0)  # constant
    Y[7:, first + 5] = np.nan  # few rows
    Y[np.abs(x) > 0.3, first + 6] = np.nan
    return Y, weights


@functools.cache
def alone(name: str, i: int, method: str, weighted: bool) -> jaxlmm.Fit | None:
    Y, weights = data(name, weighted)
    rows = ~np.isnan(Y[:, i])
    w = None if weights is None else weights[rows, i]
    try:
        return jaxlmm.fit(DESIGNS[name][1][rows], Y[rows, i], random=terms(name, rows), weights=w, method=method)
    except ValueError:
        return None


# One factor and several, with weights and by ML too; each case takes programs of its own.
CASES = [*((name, False, "REML") for name in DESIGNS if name != "nested"), ("intercept and slope", True, "ML"),
         ("nested", True, "ML")]  # fmt: skip


@pytest.mark.parametrize(("name", "weighted", "method"), CASES)
def test_each_response_is_that_of_a_fit_alone(name: str, weighted: bool, method: str) -> None:
    Y, weights = data(name, weighted)
    fit = jaxlmm.fit(DESIGNS[name][1], Y, random=terms(name), weights=weights, method=method)
    for i in range(Y.shape[1]):
        one = alone(name, i, method, weighted)
        if one is None:
            assert fit.status[i] == (Status.NONFINITE if fit.n_used[i] == 0 else Status.TOO_FEW)
            continue
        for what in NAMES:
            got, wanted = getattr(fit, what)[i], getattr(one, what)[0]
            scale = np.abs(one.theta).max() if what == "theta" else 1.0
            np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=1e-6 * scale, err_msg=f"{what} of {i}")
        np.testing.assert_allclose(fit.loglik[i], one.loglik[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("weighted", [False, True])
def test_those_like_the_complete_design_are_fitted_together(name: str, weighted: bool) -> None:
    Y, weights = data(name, weighted)
    own = jaxlmm.prepare(DESIGNS[name][1], random=terms(name)).family.own
    matrix = Y if weights is None else WeightedMatrix.make(Y, weights)
    _, good = own.fit(matrix, np.arange(Y.shape[1]), True, None)
    assert good[:N_GOOD].all()
    assert not good[N_GOOD:-1].any()


@pytest.mark.parametrize("name", ["intercept and slope", "crossed, slopes"])
def test_all_tests_are_those_of_a_fit_alone(name: str, tmp_path: Path) -> None:
    Y, weights = data(name, True)
    Y, L = Y[:, :N_GOOD], np.array([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]])
    fitted = jaxlmm.fit(DESIGNS[name][1], Y, random=terms(name), weights=weights[:, :N_GOOD], df="kenward-roger")
    fitted.save(tmp_path / "fit.npz")
    for fit in (fitted, jaxlmm.load(tmp_path / "fit.npz")):
        t, F, table = fit.test(L), fit.ftest(L), fit.pvalue
        for i in range(N_GOOD):
            fit_alone = alone(name, i, "REML", True)
            assert fit_alone is not None
            one = fit_alone.with_df("kenward-roger")
            single, joint = one.test(L), one.ftest(L)
            np.testing.assert_allclose(t.se[i], single.se[0], rtol=1e-6)
            np.testing.assert_allclose(t.df[i], single.df[0], rtol=1e-5)
            np.testing.assert_allclose(F.statistic[i], joint.statistic[0], rtol=1e-5)
            np.testing.assert_allclose(F.df_den[i], joint.df_den[0], rtol=1e-5)
            np.testing.assert_allclose(table[i], one.pvalue[0], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", ["intercept and slope", "crossed, slopes"])
def test_random_effects_are_those_of_a_fit_alone(name: str) -> None:
    Y, weights = data(name, True)
    fit = jaxlmm.fit(DESIGNS[name][1], Y, random=terms(name), weights=weights)
    effects = fit.ranef()
    for i in range(Y.shape[1]):
        one = alone(name, i, "REML", True)
        if one is None or np.isnan(one.sigma2[0]):
            assert all(np.isnan(part.modes[i]).all() for part in effects.values())
            continue
        for key, part in one.ranef().items():
            there = np.isin(effects[key].levels, part.levels)
            size = np.abs(part.modes).max()
            np.testing.assert_allclose(effects[key].modes[i][there], part.modes[0], rtol=1e-6, atol=1e-6 * size)
            np.testing.assert_allclose(effects[key].sd[i][there], part.sd[0], rtol=1e-6, atol=1e-6 * size)


@pytest.mark.parametrize("name", ["intercept and slope", "crossed"])
@pytest.mark.parametrize("signal", [1.0, 1e6])
@pytest.mark.parametrize("spread", [1e-3, 1e3])
def test_any_r_squared_and_any_variance_ratio(name: str, signal: float, spread: float) -> None:
    rng = np.random.default_rng(5)
    Z, A = DESIGNS[name]
    Y = signal * np.repeat((A @ [3.0, -2.0, 1.0])[:, None], 4, axis=1) + rng.normal(size=(N, 4))
    for columns, codes in zip(Z, (CODES, ITEMS), strict=False):
        Y += np.einsum("nr,nrm->nm", columns, spread * rng.normal(size=(codes.max() + 1, columns.shape[1], 4))[codes])
    Y[rng.random(Y.shape) < 0.1] = np.nan
    fit = jaxlmm.fit(A, Y, random=terms(name))
    for i in range(4):
        rows = ~np.isnan(Y[:, i])
        one = jaxlmm.fit(A[rows], Y[rows, i], random=terms(name, rows))
        assert fit.status[i] == one.status[0]
        np.testing.assert_allclose(fit.loglik[i], one.loglik[0], rtol=0, atol=2e-7)
        np.testing.assert_allclose((fit.coef[i] - one.coef[0]) / one.se[0], 0.0, atol=1e-6)
        np.testing.assert_allclose(fit.se[i], one.se[0], rtol=1e-6)
        np.testing.assert_allclose(fit.sigma2[i], one.sigma2[0], rtol=1e-7)


def test_the_order_of_rows_and_the_unit_of_weights_do_not_matter() -> None:
    Y, weights = data("intercept and slope", True)
    assert weights is not None
    A, order = DESIGNS["intercept and slope"][1], np.random.default_rng(3).permutation(N)
    first = jaxlmm.fit(A, Y[:, :N_GOOD], random=terms("intercept and slope"), weights=weights[:, :N_GOOD])
    other = jaxlmm.fit(
        A[order], Y[order, :N_GOOD] * 1e-7, random=terms("intercept and slope", order),
        weights=weights[order, :N_GOOD] * 1e9,
    )  # fmt: skip
    np.testing.assert_allclose(other.coef * 1e7, first.coef, rtol=1e-7)
    np.testing.assert_allclose(other.pvalue, first.pvalue, rtol=1e-6)
    np.testing.assert_allclose(other.theta * 1e4, first.theta * np.sqrt(1e-1), rtol=1e-6, atol=1e-9)


def test_weights_of_the_design_count_where_rows_are_missing() -> None:
    Y, _ = data("intercept and slope", False)
    A, w = DESIGNS["intercept and slope"][1], np.random.default_rng(4).uniform(0.5, 2.0, N)
    fit = jaxlmm.fit(A, Y[:, :N_GOOD], random=terms("intercept and slope"), weights=w)
    each = jaxlmm.fit(A, Y[:, :N_GOOD], random=terms("intercept and slope"), weights=np.tile(w[:, None], N_GOOD))
    for what in NAMES:
        np.testing.assert_allclose(getattr(fit, what), getattr(each, what), rtol=1e-7, atol=1e-9)


def test_single_precision_is_that_of_the_numbers_given() -> None:
    Y, _ = data("intercept and slope", False)
    A, single = DESIGNS["intercept and slope"][1], Y[:, :N_GOOD].astype(np.float32)
    fit = jaxlmm.fit(A, single, random=terms("intercept and slope"))
    double = jaxlmm.fit(A, single.astype(np.float64), random=terms("intercept and slope"))
    np.testing.assert_allclose(fit.coef, double.coef, rtol=1e-10)
    np.testing.assert_allclose(fit.theta, double.theta, rtol=1e-7, atol=1e-9)


def check_like_alone(A: np.ndarray, random: list[tuple[np.ndarray, np.ndarray]], Y: np.ndarray) -> np.ndarray:
    """Which responses are fitted from sums; none of those is a design that is refused alone."""
    own = jaxlmm.prepare(A, random=[jaxlmm.random_term(*term) for term in random]).family.own
    good = own.sums.reduce(Y).good
    for i in np.flatnonzero(good):
        rows = ~np.isnan(Y[:, i])
        jaxlmm.prepare(A[rows], random=[jaxlmm.random_term(codes[rows], Z[rows]) for codes, Z in random])
    return good


def test_a_nested_factor_that_has_become_the_outer_one_is_not_for_sums() -> None:
    Y, second = np.random.default_rng(6).normal(size=(N, 4)), np.arange(N) % 2
    Y[second == 1, 0] = np.nan  # one level in each outer one
    Y[(second == 1) & (CODES > 0), 1] = np.nan
    Y[CODES > 1, 2] = np.nan  # X fits the effects of both outer levels
    Y[5, 3] = np.nan
    random = [(CODES, ONE[:, None]), (2 * CODES + second, ONE[:, None])]
    assert check_like_alone(X, random, Y).tolist() == [False, True, False, True]
    fit = jaxlmm.fit(X, Y, random=[jaxlmm.random_term(*term) for term in random])
    assert fit.status.tolist()[::2] == [Status.TOO_FEW, Status.TOO_FEW]


def test_slopes_that_x_fits_where_an_outlier_is_missing_are_not_for_sums() -> None:
    far = x.copy()
    far[3], far[60] = 1e6, -1e6
    Y = np.random.default_rng(7).normal(size=(N, 2))
    Y[3, 0] = Y[5, 1] = np.nan
    assert check_like_alone(np.column_stack([ONE, far]), [(CODES, far[:, None])], Y).tolist() == [False, True]


def test_a_column_of_x_that_is_almost_gone_with_an_outlier_is_not_for_sums() -> None:
    """Nothing but rounding is left of its squares beside those of the others; it is not small in its own unit."""
    far = x.copy()
    far[3] = 1e7
    Y = np.random.default_rng(8).normal(size=(N, 2))
    Y[3, 0] = Y[5, 1] = np.nan
    random = [(CODES, np.column_stack([ONE, z])), (ITEMS, ONE[:, None])]
    assert check_like_alone(np.column_stack([far, z]), random, Y).tolist() == [False, True]
