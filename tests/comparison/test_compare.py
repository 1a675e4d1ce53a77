"""Comparison of fits: closed forms, a dense likelihood, statsmodels, and every refusal."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from conftest import dense_deviance, load_reference, simulate, unbalanced

import jaxlmm
from jaxlmm.comparison.compare import compare
from jaxlmm.comparison.rlrt import rlrt
from jaxlmm.resampling.bootstrap import simulate_responses

compare_module = importlib.import_module("jaxlmm.comparison.compare")  # the name may be the function in the package
RNG = np.random.default_rng(8)
CODES = unbalanced(RNG, 8, 9)
X, Y = simulate(RNG, CODES, m=6, ratio=1.0)
Y = Y - X[:, 1:2] * Y.mean() * 0.5  # effects of several sizes
Y[:, 3:] = RNG.normal(size=(len(X), 3))  # no group effect: some singular fits
N, P = X.shape
SMALL = X[:, :2]


def fits(*models: tuple[np.ndarray, np.ndarray | None], method: str = "ML") -> list[jaxlmm.Fit]:
    return [jaxlmm.fit(x, Y, codes, method=method) for x, codes in models]


def least_deviance(x: np.ndarray, y: np.ndarray, method: str) -> float:
    """Global minimum of the dense deviance: the best of a grid, then refined."""
    grid = np.linspace(-9, 6, 61)
    values = [dense_deviance(np.exp(t), x, y, CODES, method) for t in grid]
    k = int(np.argmin(values))
    best = scipy.optimize.minimize_scalar(
        lambda t: dense_deviance(np.exp(t), x, y, CODES, method),
        bounds=(grid[max(k - 1, 0)], grid[min(k + 1, 60)]),
        method="bounded",
        options=dict(xatol=1e-7),
    ).fun
    return min(best, dense_deviance(0.0, x, y, CODES, method))


def test_fixed_effects_by_ml_against_the_dense_likelihood() -> None:
    found = compare(*fits((SMALL, CODES), (X, CODES)))
    deviance = np.array([[least_deviance(x, y, "ML") for x in (SMALL, X)] for y in Y.T])
    np.testing.assert_allclose(found.loglik, -0.5 * deviance, rtol=1e-9)
    np.testing.assert_allclose(found.statistic, deviance[:, 0] - deviance[:, 1], atol=1e-8)
    np.testing.assert_allclose(found.pvalue, scipy.stats.chi2.sf(found.statistic, 1), rtol=1e-10)
    np.testing.assert_allclose(found.aic, deviance + 2 * np.array([4, 5]), rtol=1e-9)
    np.testing.assert_allclose(found.bic, deviance + np.log(N) * np.array([4, 5]), rtol=1e-9)
    assert found.df == 1 and found.boundary is False and found.method == "ML" and found.n_params == (4, 5)
    assert found.statistic.shape == found.pvalue.shape == (6,) and found.aic.shape == (6, 2)
    assert found.statistic.min() >= 0 and found.statistic.max() > 1


def test_ordinary_least_squares_against_f() -> None:
    found = compare(*fits((X[:, :1], None), (X, None)))
    rss = np.array([[np.sum((y - x @ np.linalg.lstsq(x, y)[0]) ** 2) for x in (X[:, :1], X)] for y in Y.T])
    F = (rss[:, 0] / rss[:, 1] - 1) * (N - P) / 2
    np.testing.assert_allclose(found.statistic, N * np.log1p(2 * F / (N - P)), rtol=1e-9)
    np.testing.assert_allclose(found.pvalue, scipy.stats.chi2.sf(found.statistic, 2), rtol=1e-9)
    np.testing.assert_allclose(found.loglik, -N / 2 * (np.log(2 * np.pi * rss / N) + 1), rtol=1e-10)
    assert found.df == 2 and found.boundary is False


def test_against_statsmodels() -> None:
    sm = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    data = load_reference("sleepstudy")
    models = [data.X[:, :1], data.X]
    found = compare(*(jaxlmm.fit(x, data.y, data.groups, method="ML") for x in models))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        others = [sm.MixedLM(data.y, x, data.groups).fit(reml=False) for x in models]
    np.testing.assert_allclose(found.loglik[0], [other.llf for other in others], rtol=1e-8)
    np.testing.assert_allclose(found.statistic[0], 2 * (others[1].llf - others[0].llf), rtol=1e-6)


def test_reml_fits_are_refitted_on_request_only() -> None:
    reml, ml = (fits((SMALL, CODES), (X, CODES), method=method) for method in ("REML", "ML"))
    with pytest.raises(ValueError, match=r"REML likelihoods with different fixed effects.*refit='ML' refits both"):
        compare(*reml)
    expected = compare(*ml)
    kenward_roger = [jaxlmm.fit(x, Y, CODES, df="kenward-roger") for x in (SMALL, X)]  # a method for REML alone
    for given in (reml, [reml[0], ml[1]], ml, kenward_roger):
        found = compare(*given, refit="ML")
        assert found.method == "ML"
        for name in ("statistic", "pvalue", "loglik", "aic", "bic_weight"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_random_effect_is_on_the_boundary(method: str) -> None:
    pair = fits((X, None), (X, CODES), method=method)
    found, test = compare(*pair), rlrt(pair[1], n_sim=10)
    np.testing.assert_allclose(found.statistic, test.statistic, atol=1e-9)
    np.testing.assert_allclose(found.pvalue, test.pvalue_mixture, rtol=1e-6)
    assert found.df == 1 and found.boundary is True and found.method == method
    assert pair[1].singular.any() and (found.statistic > 1).any()
    assert (found.statistic[pair[1].singular] == 0).all() and (found.pvalue[pair[1].singular] == 1).all()
    deviance = np.array([[dense_deviance(0.0, X, y, CODES, method), least_deviance(X, y, method)] for y in Y.T])
    np.testing.assert_allclose(found.loglik, -0.5 * deviance, rtol=1e-9)


def test_a_second_variance_of_0_is_no_difference() -> None:
    row, column = np.indices((6, 8)).reshape(2, -1)
    rng = np.random.default_rng(0)
    many = rng.normal(size=(48, 40)) + rng.normal(size=(6, 40))[row]
    terms = [jaxlmm.random_term(row, name="row"), jaxlmm.random_term(column, name="column")]
    pair = jaxlmm.fit(np.ones((48, 1)), many, row), jaxlmm.fit(np.ones((48, 1)), many, random=terms)
    found, zero = compare(*pair), pair[1].theta[:, 1] == 0
    assert 10 < zero.sum() < 30
    np.testing.assert_array_equal(found.pvalue[zero], 1.0)  # not 0.5, by what rounding leaves of the statistic
    assert found.statistic[~zero].min() > 0 and found.pvalue[~zero].max() <= 0.5


def test_fixed_and_random_effects_at_once() -> None:
    found = compare(*fits((X[:, :1], None), (X, CODES)))
    expected = 0.5 * (scipy.stats.chi2.sf(found.statistic, 2) + scipy.stats.chi2.sf(found.statistic, 3))
    np.testing.assert_allclose(found.pvalue, expected, rtol=1e-10)
    assert found.df == 3 and found.boundary is True


def test_another_basis_of_the_same_columns() -> None:
    A = np.array([[1.0, 2.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.0, 40.0]])
    a, b = (compare(*fits((X, None), (x, CODES), method="REML")) for x in (X, X @ A))
    for name in ("statistic", "pvalue", "loglik", "aic", "aic_weight"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-9, err_msg=name)
    mixed = SMALL @ np.array([[1.0, 1e6], [2.0, 1e-3]])
    a, b = (compare(*fits((x, CODES), (X, CODES))) for x in (SMALL, mixed))
    np.testing.assert_allclose(a.statistic, b.statistic, atol=1e-8)


def test_weights() -> None:
    found = compare(*fits((X[:, :1], CODES), (SMALL, CODES), (X, CODES)))
    for criterion, weight in ((found.aic, found.aic_weight), (found.bic, found.bic_weight)):
        likelihood = np.exp(-0.5 * (criterion - criterion[0, 0]))
        np.testing.assert_allclose(weight, likelihood / likelihood.sum(axis=1)[:, None], rtol=1e-10)
        np.testing.assert_array_equal(np.argmax(weight, axis=1), np.argmin(criterion, axis=1))
    assert not np.allclose(found.aic_weight, found.bic_weight, atol=0.01)
    far = (
        jaxlmm.fit(SMALL[:, :1], 1e3 * X[:, 1] + Y[:, 0], method="ML"),
        jaxlmm.fit(SMALL, 1e3 * X[:, 1] + Y[:, 0], method="ML"),
    )
    np.testing.assert_allclose(compare(*far).aic_weight, [[0.0, 1.0]], atol=1e-50)


def test_more_than_two() -> None:
    chain = fits((X[:, :1], None), (X[:, :1], CODES), (SMALL, CODES), (X, CODES))
    found = compare(*chain)
    assert found.statistic.shape == found.pvalue.shape == (6, 3) and found.aic.shape == found.bic_weight.shape == (
        6,
        4,
    )
    assert found.df == (1, 1, 1) and found.boundary == (True, False, False) and found.n_params == (2, 3, 4, 5)
    for k in range(3):
        pair = compare(chain[k], chain[k + 1])
        np.testing.assert_allclose(found.statistic[:, k], pair.statistic, rtol=1e-12)
        np.testing.assert_allclose(found.pvalue[:, k], pair.pvalue, rtol=1e-12)
        np.testing.assert_array_equal(found.loglik[:, k : k + 2], pair.loglik)
    np.testing.assert_allclose(found.aic_weight.sum(axis=1), 1.0, rtol=1e-12)


def test_responses_without_a_result_are_nan() -> None:
    bad = Y.copy()
    bad[2, 0], bad[:, 1], bad[:, 2] = np.inf, 1.0, np.arange(8.0)[CODES] ** 2
    pair = [jaxlmm.fit(X, bad, method="ML"), jaxlmm.fit(X, bad.copy(), CODES, method="ML")]
    assert pair[0].converged[2] and not pair[1].converged[2]  # no residual: only one of them is fitted
    found, expected = compare(*pair), compare(*fits((X, None), (X, CODES)))
    for name in ("statistic", "pvalue", "loglik", "aic", "bic", "aic_weight", "bic_weight"):
        values = getattr(found, name)
        assert np.isnan(values[:3]).all()
        np.testing.assert_allclose(values[3:], getattr(expected, name)[3:], rtol=1e-9, atol=1e-9)


def test_what_counts_as_the_same_data() -> None:
    a = jaxlmm.fit(SMALL, Y, CODES, method="ML")
    expected = compare(a, jaxlmm.fit(X, Y, CODES, method="ML")).statistic
    labels = np.array(list("hgfedcba"))[CODES]
    for other in (
        jaxlmm.fit(X, Y.copy(order="F"), CODES, method="ML"),
        jaxlmm.fit(X, Y, labels, method="ML"),
        jaxlmm.fit(X, np.hstack([Y, Y]), CODES, method="ML").select(slice(6)),
    ):
        np.testing.assert_allclose(compare(a, other).statistic, expected, rtol=1e-9, atol=1e-9)
    whole = (Y > 0).astype(float)
    assert (
        compare(jaxlmm.fit(SMALL, whole, method="ML"), jaxlmm.fit(X, whole > 0, method="ML")).statistic >= 0
    ).all()


def test_other_y() -> None:
    a = jaxlmm.fit(SMALL, Y, CODES, method="ML", response_names=list("abcdef"))
    other = Y.copy()
    other[5, 2] = 7.0
    message = rf"different Y, first in row 5, response 'c' \({Y[5, 2]:.6g} and 7\)"
    with pytest.raises(ValueError, match=message):
        compare(a, jaxlmm.fit(X, other, CODES, method="ML"))
    flipped = Y > 0
    flipped[5, 2] ^= True
    with pytest.raises(ValueError, match=rf"first in row 5, response 'y2' \({Y[5, 2] > 0:d} and {flipped[5, 2]:d}\)"):
        compare(jaxlmm.fit(SMALL, Y > 0, method="ML"), jaxlmm.fit(X, flipped, method="ML"))
    other[5, 2] = np.nan
    with pytest.raises(ValueError, match=rf"row 5, response 'c' \({Y[5, 2]:.6g} and nan\)"):
        compare(a, jaxlmm.fit(X, other, CODES, method="ML"))


def test_large_y_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "COMPARED", Y.size // 3)
    first_difference = compare_module._first_difference
    for index in ((slice(None), 4), (7, slice(None)), (slice(20, 30), slice(2, 5))):
        other = Y.copy()
        other[index] += 1e-9
        at = first_difference(Y, other)
        assert at is not None and Y[at] != other[at]
    assert first_difference(Y, Y.copy()) is None
    assert first_difference(Y[:, :1], Y[:, :1] + 1) is not None


REFUSED = {
    "one fit": (lambda a, b, r: (b,), "needs two fits or more, found 1"),
    "not a fit": (lambda a, b, r: (a, X), "argument 1 is a ndarray, not a fit"),
    "rows": (
        lambda a, b, r: (a, jaxlmm.fit(X[1:], Y[1:], CODES[1:], method="ML")),
        f"{N} observations, fit 1 has {N - 1}",
    ),
    "responses": (lambda a, b, r: (a, b.select([0, 1])), "6 responses, fit 1 has 2; .* Fit.select"),
    "order of responses": (lambda a, b, r: (a, b.select([1, 0, 2, 3, 4, 5])), "different Y, first in row 0"),
    "methods": (lambda a, b, r: (a, r), "fit 0 is by ML, fit 1 by REML; .* refit='ML'"),
    "groups": (
        lambda a, b, r: (a, jaxlmm.fit(X, Y, np.where(CODES == 1, 0, CODES), method="ML")),
        r"different groups \(8 and 7\), first in row \d+",
    ),
    "groups, third fit": (
        lambda a, b, r: (jaxlmm.fit(SMALL, Y, method="ML"), a, jaxlmm.fit(X, Y, np.roll(CODES, 1), method="ML")),
        r"fit 1 and fit 2 have different groups \(8 and 8\)",
    ),
    "order": (lambda a, b, r: (b, a), "wrong order: fit 0 has 5 parameters and holds fit 1 with 4; swap them"),
    "order of groups": (lambda a, b, r: (b, jaxlmm.fit(X, Y, method="ML")), "wrong order.*; swap them"),
    "order, third fit": (
        lambda a, b, r: (jaxlmm.fit(X[:, :1], Y, method="ML"), b, a),
        "fit 1 and fit 2 are in the wrong",
    ),
    "identical": (lambda a, b, r: (a, a), "are the same model"),
    "identical span": (
        lambda a, b, r: (b, jaxlmm.fit(X @ (np.eye(3) + 1), Y, CODES, method="ML")),
        "are the same model",
    ),
    "not nested": (
        lambda a, b, r: (a, jaxlmm.fit(X[:, [0, 2]], Y, CODES, method="ML", names=["one", "z"])),
        "not nested: fit 1 has not the column 'x1' of fit 0, which has not its 'z'",
    ),
    "fixed against random": (
        lambda a, b, r: (a, jaxlmm.fit(X, Y, method="ML")),
        "fit 0 has groups, which fit 1 has not, but not the column 'x2' of fit 1",
    ),
    "random against fixed": (
        lambda a, b, r: (jaxlmm.fit(X, Y, method="ML"), a),
        "fit 1 has groups, which fit 0 has not, but not the column 'x2' of fit 0",
    ),
    "nearly nested": (
        lambda a, b, r: (jaxlmm.fit(SMALL + 1e-6 * X[:, [2, 0]] ** 2, Y, CODES, method="ML"), b),
        "not nested: .*'x0' of fit 0",
    ),
    "REML, third fit": (
        lambda a, b, r: (jaxlmm.fit(SMALL, Y), jaxlmm.fit(SMALL, Y, CODES), r),
        "fit 1 and fit 2 are REML fits with different fixed effects",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    make, message = REFUSED[case]
    a, b = fits((SMALL, CODES), (X, CODES))
    with pytest.raises(ValueError, match=message):
        compare(*make(a, b, jaxlmm.fit(X, Y, CODES)))


def test_refit_option() -> None:
    with pytest.raises(ValueError, match="refit must be None or 'ML', found 'REML'"):
        compare(*fits((SMALL, CODES), (X, CODES)), refit="REML")


def test_bootstrap_is_refits_of_simulated_responses() -> None:
    rng = np.random.default_rng(0)
    groups, x = np.repeat(np.arange(6), 5), np.tile(np.arange(5.0), 6)
    X = np.column_stack([np.ones(30), x])
    Y = rng.normal(size=(30, 3)) + rng.normal(size=(6, 3))[groups] + np.array([0, 0.2, 1]) * x[:, None]
    small, large = (jaxlmm.fit(X[:, :k], Y, groups, method="ML") for k in (1, 2))
    found = jaxlmm.compare(small, large, method="bootstrap", n=60, seed=4)
    plain = jaxlmm.compare(small, large)
    np.testing.assert_array_equal(found.statistic, plain.statistic)
    count = np.zeros(3)
    for i in range(60):
        y = simulate_responses(small, small.design, np.arange(3), np.random.default_rng([4, i, 0]))
        a, b = (jaxlmm.fit(X[:, :k], y, groups, method="ML").loglik for k in (1, 2))
        count += 2 * (b - a) >= plain.statistic - 1e-7
    np.testing.assert_allclose(found.pvalue, (1 + count) / 61)
    assert found.n_bootstrap == 60 and "60 responses simulated from the smaller model" in str(found.summary(0))
    # By REML, of the random effect alone: half of the ratios are 0, and the p-value of such a response is 1.
    none, one = jaxlmm.fit(X, Y - Y.mean(0), groups=None), jaxlmm.fit(X, Y - Y.mean(0), groups)
    p = jaxlmm.compare(none, one, method="bootstrap", n=40).pvalue
    assert np.all(p[one.singular] == 1) and np.all((p > 0) & (p <= 1))
    with pytest.raises(ValueError, match="method must be one of 'chisq', 'bootstrap'"):
        jaxlmm.compare(small, large, method="exact")
