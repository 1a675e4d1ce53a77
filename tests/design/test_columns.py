"""Covariates far from zero, nearly collinear columns, units of weights: the numbers must not depend on them."""

from __future__ import annotations

import numpy as np
import pytest
from adversarial import oracle
from conftest import blups

import jaxlmm
from jaxlmm.design.columns import Basis, make_columns

OFFSETS = [1e6, 1e8, 1e9]


def data(seed: int = 0, m: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A time, rounded so that an offset is exact; a factor; groups; responses."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(12), rng.multinomial(126, np.ones(12) / 12) + 2))
    time = np.round(rng.normal(size=150) * 2**20) / 2**20
    factor = (rng.random(150) < 0.5).astype(float)
    Y = rng.normal(size=(12, m))[codes] + rng.normal(size=(150, m)) + 0.4 * time[:, None]
    return time, factor, codes, Y


def design(time: np.ndarray, factor: np.ndarray, kind: str) -> np.ndarray:
    one = np.ones_like(time)
    return {
        "intercept": np.column_stack([one, time, factor]),
        "cell means": np.column_stack([factor, 1 - factor, time]),
        "interaction": np.column_stack([one, time, factor, time * factor]),
        "nested": np.column_stack([one, factor, time * (1 - factor), time * factor]),
        "sum coding": np.column_stack([one, time, 2 * factor - 1, time * (2 * factor - 1)]),
    }[kind]


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("kind", ["intercept", "cell means", "interaction", "nested", "sum coding"])
@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
def test_an_offset_of_a_covariate_changes_nothing(kind: str, offset: float, df: str) -> None:
    time, factor, codes, Y = data()
    Y[[3, 50, 77], 1] = np.nan  # one response misses some observations
    far, near = (jaxlmm.fit(design(t, factor, kind), Y, codes, df=df) for t in (time + offset, time))
    digits = dict(rtol=1e-8)
    slopes = slice(2, 3) if kind in ("cell means", "nested") else slice(1, 2)
    np.testing.assert_allclose(far.loglik, near.loglik, **digits)
    for name in ("coef", "se", "df", "pvalue"):
        np.testing.assert_allclose(getattr(far, name)[:, slopes], getattr(near, name)[:, slopes], **digits)
    for name in ("sigma2", "group_var", "rsquared_marginal", "rsquared_conditional"):
        np.testing.assert_allclose(getattr(far, name), getattr(near, name), **digits)
    # The mean of each cell at the mean time, and their difference.
    at = np.array([[0.0, 0.0], [0.0, 1.0]])
    L_far, L_near = (design(o + at[:, 0], at[:, 1], kind) for o in (offset, 0.0))
    a, b = far.test(np.vstack([L_far, L_far[1] - L_far[0]])), near.test(np.vstack([L_near, L_near[1] - L_near[0]]))
    np.testing.assert_allclose(a.se, b.se, **digits)
    np.testing.assert_allclose(a.df, b.df, **digits)
    np.testing.assert_allclose(np.diagonal(far.vcov, axis1=1, axis2=2), far.se**2, rtol=1e-12)
    # An estimate is a difference of stored coefficients, of which each is rounded once: offset times slope.
    rounding = 4 * np.finfo(float).eps * offset * np.abs(near.coef).max()
    np.testing.assert_allclose(a.estimate, b.estimate, rtol=1e-12, atol=rounding)
    np.testing.assert_allclose(far.fitted(), near.fitted(), rtol=1e-12, atol=2 * rounding)
    np.testing.assert_allclose(far.predict(L_far), near.predict(L_near), rtol=1e-12, atol=rounding)
    np.testing.assert_allclose(blups(far), blups(near), rtol=1e-10, atol=rounding)
    # Contrasts that are nearly parallel together: the intercept, far outside the data, and slopes.
    every = np.eye(far.coef.shape[1])
    moved = np.linalg.lstsq(design(time, factor, kind), design(time + offset, factor, kind), rcond=None)[0]
    together, same = far.ftest(every), near.ftest(np.round(moved))
    np.testing.assert_allclose(together.statistic, same.statistic, rtol=2e-7)
    if df == "kenward-roger":
        np.testing.assert_allclose(together.df_den, same.df_den, rtol=1e-7)


def test_models_with_a_far_covariate_are_compared() -> None:
    time, factor, codes, Y = data()
    one = np.ones((len(time), 1))
    found = [
        jaxlmm.compare(
            jaxlmm.fit(one, Y, codes, method="ML"),
            jaxlmm.fit(design(t, factor, "interaction"), Y, codes, method="ML"),
        )
        for t in (time, time + 1e8)
    ]
    np.testing.assert_allclose(found[1].statistic, found[0].statistic, rtol=1e-8)
    assert found[0].df == found[1].df == 3


@pytest.mark.parametrize("offset", [1e4, 1e8, 1e12])
@pytest.mark.parametrize("kind", ["intercept", "cell means", "interaction"])
def test_slopes_have_the_digits_of_the_data_at_any_offset_of_the_response(kind: str, offset: float) -> None:
    time, factor, codes, Y = data()
    X = design(time, factor, kind)
    high = Y + offset
    a, b = jaxlmm.fit(X, high, codes), jaxlmm.fit(X, high - offset, codes)  # the difference is exact
    if offset < 1e12:  # of the level of a cell few digits are stored there
        np.testing.assert_allclose(a.rsquared_marginal, b.rsquared_marginal, rtol=1e-6)
    slope = 2 if kind == "cell means" else 1
    np.testing.assert_allclose(a.coef[:, slope], b.coef[:, slope], rtol=1e-10)
    np.testing.assert_allclose(a.loglik, b.loglik, rtol=1e-12)
    np.testing.assert_allclose(a.sigma2, b.sigma2, rtol=1e-11)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-6, 3e-7])
@pytest.mark.parametrize("kind", ["within", "between"])
def test_nearly_dependent_columns_are_right(kind: str, delta: float) -> None:
    rng = np.random.default_rng(1)
    codes = np.arange(60) % 6
    x, z = rng.normal(size=(2, 60))
    first = x if kind == "within" else rng.normal(size=6)[codes]
    X = np.column_stack([np.ones(60), first, first + delta * z])
    y = rng.normal(size=60) + rng.normal(size=6)[codes] + 2 * z
    fit = jaxlmm.fit(X, y, codes)
    loglik, _, coef, se = oracle(X, codes, y, fit.lam[0]).floats()
    np.testing.assert_allclose(fit.loglik[0], loglik, rtol=1e-9)
    np.testing.assert_allclose(fit.coef[0], coef, rtol=1e-7)
    np.testing.assert_allclose(fit.se[0], se, rtol=1e-7)


@pytest.mark.parametrize("delta", [5e-8, 1e-8, 1e-9, 1e-12])
def test_columns_too_close_to_tell_apart_are_named(delta: float) -> None:
    rng = np.random.default_rng(1)
    x, z = rng.normal(size=(2, 60))
    with pytest.raises(ValueError, match=r"'x[12]' is a combination of 'x[12]'"):
        jaxlmm.fit(np.column_stack([np.ones(60), x, x + delta * z]), z, np.arange(60) % 6)


@pytest.mark.parametrize("part", [1e-3, 1e-6, 1e-9, 1e-11])
@pytest.mark.parametrize("ratio", [1.0, 1e6, 1e12])
def test_a_covariate_that_hardly_varies_within_groups(part: float, ratio: float) -> None:
    """Full rank in X, but with little of it within groups: no direction may be dropped at any variance ratio."""
    rng = np.random.default_rng(2)
    codes = np.arange(60) % 6
    X = np.column_stack([np.ones(60), rng.normal(size=6)[codes] + part * rng.normal(size=60)])
    y = rng.normal(size=60) + np.sqrt(ratio) * rng.normal(size=6)[codes]
    fit = jaxlmm.fit(X, y, codes)
    loglik, _, coef, se = oracle(X, codes, y, fit.lam[0]).floats()
    np.testing.assert_allclose(fit.loglik[0], loglik, rtol=1e-9)
    # y itself is rounded at the size of its group means.
    np.testing.assert_allclose(fit.coef[0], coef, rtol=1e-7, atol=1e-7 * max(se))
    np.testing.assert_allclose(fit.se[0], se, rtol=1e-6)


def test_a_constant_that_is_almost_one_is_not_one() -> None:
    time, _, codes, Y = data()
    for part in (1e-15, 1e-11, 1e-8):
        X = np.column_stack([1 + part * np.sign(time), time])
        constant = make_columns(X).constant
        assert constant is None or np.abs(X @ constant - 1).max() < 2e-15
    third = np.column_stack([np.full(len(time), 3.0), time + 1e8])  # 1 / 3 is rounded
    a, b = jaxlmm.fit(third, Y, codes), jaxlmm.fit(third - [2.0, 1e8], Y, codes)
    L = np.array([[3.0, 1e8 + 1.5]])
    np.testing.assert_allclose(a.test(L).se, b.test([[1.0, 1.5]]).se, rtol=1e-12)


@pytest.mark.parametrize("unit", [1e-6, 3.0, 1e6])
def test_the_unit_of_the_weights_does_not_matter(unit: float) -> None:
    time, factor, codes, Y = data()
    Y = Y.copy()
    Y[:4, 1] = np.nan
    w = np.random.default_rng(3).uniform(0.2, 3.0, size=len(codes))
    X = design(time, factor, "intercept")
    a, b = jaxlmm.fit(X, Y, codes, weights=w), jaxlmm.fit(X, Y, codes, weights=unit * w)
    for name in ("coef", "se", "loglik", "icc", "rsquared_marginal", "rsquared_conditional", "group_var", "df"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-8, err_msg=name)
    np.testing.assert_allclose(a.sigma2 * unit, b.sigma2, rtol=1e-8)
    np.testing.assert_allclose(a.variance_se()["icc"], b.variance_se()["icc"], rtol=1e-7)
    # Weights that are all the same are none.
    c, d = jaxlmm.fit(X, Y, codes), jaxlmm.fit(X, Y, codes, weights=np.full(len(codes), unit))
    for name in ("icc", "rsquared_marginal", "rsquared_conditional"):
        np.testing.assert_allclose(getattr(c, name), getattr(d, name), rtol=1e-8, err_msg=name)


def test_coefficients_and_contrasts_go_there_and_back() -> None:
    time, factor, _, _ = data()
    for kind in ("intercept", "cell means", "interaction", "sum coding"):
        X = design(time + 1e5, factor, kind)
        columns = make_columns(X)
        np.testing.assert_allclose(
            X, (columns.unit * columns.scale) @ (np.eye(X.shape[1]) + columns.shift), rtol=1e-12
        )
        assert np.abs(columns.unit.T @ columns.unit - np.eye(X.shape[1])).max() < 0.95
        basis = Basis(columns, np.linalg.qr(columns.unit).R)
        b = np.random.default_rng(0).normal(size=(X.shape[1], 4))
        np.testing.assert_allclose(basis.coords(basis.coef(b)), b, atol=1e-10)
        np.testing.assert_allclose(columns.unit_coef(columns.user_coef(b)), b, rtol=1e-8, atol=1e-8)
        L = X[:5]
        np.testing.assert_allclose(basis.contrast(L) @ b, L @ basis.coef(b), rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(basis.logdet, np.linalg.slogdet(X.T @ X)[1], rtol=1e-3)
