"""Missing observations and weights: each response exactly as if its rows were dropped."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import blup_sd, blups, dense_deviance, simulate, unbalanced

import jaxlmm
from jaxlmm.families import patterns as patterns_module
from jaxlmm.families.intercept.family import Intercept
from jaxlmm.families.patterns import misses_some, patterns, probed, shared_designs

FIELDS = ("coef", "se", "lam", "sigma2", "loglik", "hessian", "df", "pvalue", "vcov", "aic", "bic", "icc")


def data(seed: int = 0, m: int = 12, share: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = unbalanced(rng, 9, 10)
    X, Y = simulate(rng, codes, p=3, m=m, ratio=0.6)
    Y[rng.random(Y.shape) < share] = np.nan
    return X, Y, codes


def alone(X: np.ndarray, y: np.ndarray, codes: np.ndarray | None, **options: object) -> tuple[jaxlmm.Fit, np.ndarray]:
    rows = ~np.isnan(y)
    groups = None if codes is None else codes[rows]
    return jaxlmm.fit(X[rows], y[rows], groups, **options), rows


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger"])
@pytest.mark.parametrize("grouped", [True, False])
def test_as_if_the_rows_were_dropped(method: str, df: str, grouped: bool) -> None:
    if method == "ML" and df == "kenward-roger":
        pytest.skip("Kenward-Roger is for REML")
    X, Y, codes = data()
    Y[:, 3] = np.nan_to_num(Y[:, 3])  # one response is complete
    groups = codes if grouped else None
    found = jaxlmm.fit(X, Y, groups, method=method, df=df)
    L = np.array([[0, 1.0, -1.0], [1, 0, 0.5]])
    t, F = found.test(L), found.ftest(L)
    for i, y in enumerate(Y.T):
        one, rows = alone(X, y, groups, method=method, df=df)
        assert found.n_used[i] == rows.sum() == one.n_obs
        assert found.status[i] == one.status[0]
        for name in FIELDS:
            np.testing.assert_allclose(
                getattr(found, name)[i], getattr(one, name)[0], rtol=1e-7, atol=1e-9, err_msg=name
            )
        np.testing.assert_allclose(t.pvalue[i], one.test(L).pvalue[0], rtol=1e-7)
        np.testing.assert_allclose(F.df_den[i], one.ftest(L).df_den[0], rtol=1e-6)
        np.testing.assert_allclose(F.statistic[i], one.ftest(L).statistic[0], rtol=1e-7)
        for name, value in found.variance_se().items():
            np.testing.assert_allclose(value[i], one.variance_se()[name][0], rtol=1e-7)
        np.testing.assert_allclose(found.rsquared_conditional[i], one.rsquared_conditional[0], rtol=1e-7)
        np.testing.assert_allclose(found.resid()[rows, i], one.resid()[:, 0], rtol=1e-6, atol=1e-8)
        assert np.isnan(found.resid()[~rows, i]).all() and np.isfinite(found.fitted()[:, i]).all()
        if grouped:
            present = [found.design.random[0].levels.index(v) for v in one.design.random[0].levels]
            np.testing.assert_allclose(blups(found)[i, present], blups(one)[0], rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(blup_sd(found)[i, present], blup_sd(one)[0], rtol=1e-7)


def test_against_statsmodels() -> None:
    sm = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    X, Y, codes = data(1, m=5)
    found = jaxlmm.fit(X, Y, codes)
    agreed = 0
    for i, y in enumerate(Y.T):
        rows = ~np.isnan(y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                other = sm.MixedLM(y[rows], X[rows], codes[rows]).fit()
            except np.linalg.LinAlgError:
                continue
        assert found.loglik[i] >= other.llf - 1e-7 * abs(other.llf)
        if abs(found.loglik[i] - other.llf) < 1e-9:
            agreed += 1
            np.testing.assert_allclose(found.coef[i], other.fe_params, rtol=1e-3, atol=1e-4)
    assert agreed


def test_shared_patterns_take_a_design_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y, codes = data(2, m=30, share=0.0)
    Y[:5, :10], Y[7:20, 10:20] = np.nan, np.nan
    by_block = jaxlmm.fit(X, Y, codes)
    called = []
    monkeypatch.setattr(Intercept, "min_shared", 4)
    monkeypatch.setattr(Intercept, "fit_own", lambda *a: called.append(a))
    shared = jaxlmm.fit(X, Y, codes)
    assert not called
    for name in FIELDS:
        np.testing.assert_allclose(getattr(shared, name), getattr(by_block, name), rtol=1e-7, atol=1e-9, err_msg=name)
    np.testing.assert_array_equal(shared.n_used, by_block.n_used)


def test_patterns_whose_hashes_are_the_same_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(0).random((7, 40)) < 0.4
    mask[:, 20:] = mask[:, :20]

    def found(least: int) -> set[tuple[bytes, tuple[int, ...]]]:
        return {(rows.tobytes(), tuple(sorted(columns))) for rows, columns in patterns(mask, least)}

    expected = [found(least) for least in (1, 2, 3)]
    for rows, columns in patterns(mask):
        assert (mask[:, columns] == ~rows[:, None]).all()
    assert sorted(k for _, columns in expected[0] for k in columns) == list(range(40))
    monkeypatch.setattr("jaxlmm.families.patterns._hashes", lambda mask: np.zeros(mask.shape[1]))
    assert [found(least) for least in (1, 2, 3)] == expected


def test_patterns_that_many_share_are_found_by_a_few_rows_first(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(1).random((60, 90)) < 0.3
    mask[:, 50:56], mask[:, 60:63], mask[:, 70:90:5] = mask[:, [3]], mask[:, [4]], mask[:, [5]]
    mask[1, 50] ^= True  # differs in a row that is not among the few
    Y, where = np.where(np.insert(mask, 7, False, axis=1), np.nan, 1.0), np.delete(np.arange(91), 7)

    def found() -> list[list[int]]:
        return sorted(columns.tolist() for _, _, columns in shared_designs(Y, where, 4))

    whole = found()
    assert whole == [[3, 51, 52, 53, 54, 55], [4, 60, 61, 62], [5, 70, 75, 80, 85]]
    hashed = []
    hashes = patterns_module._hashes
    monkeypatch.setattr(patterns_module, "PROBED_ROWS", 12)
    monkeypatch.setattr(patterns_module, "_hashes", lambda mask: (hashed.append(mask.shape), hashes(mask))[1])
    assert found() == whole
    assert hashed[0] == (12, 90) and hashed[1][0] == 60 and 16 <= hashed[1][1] < 30


def test_where_most_miss_observations_only_the_complete_are_fitted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y, codes = data(2, m=36, share=0.1)
    Y[:, 1::9] = np.nan_to_num(Y[:, 1::9])
    Y[3, 19] = np.inf
    complete = np.flatnonzero(~np.isnan(Y).any(axis=0))
    assert 4 <= len(complete) < 9
    expected = jaxlmm.fit(X, Y, codes)
    widths, fit = [], Intercept.fit
    monkeypatch.setattr("jaxlmm.families.base.PROBED_COLUMNS", 4)
    monkeypatch.setattr(
        Intercept, "fit", lambda self, Y, method: (widths.append(Y.shape[1]), fit(self, Y, method))[1]
    )
    found = jaxlmm.fit(X, Y, codes)
    assert widths == [len(complete)]
    assert np.flatnonzero(~found.converged).tolist() == [19]
    for name in ("status", "n_used", *FIELDS):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12, err_msg=name)


def test_large_mean_and_scales() -> None:
    X, Y, codes = data(3, m=4)
    plain = jaxlmm.fit(X, Y, codes)
    for factor, offset in ((1.0, 1e6), (1e-8, 0.0), (1e130, 0.0), (1e-120, 0.0)):
        found = jaxlmm.fit(X, factor * Y + offset, codes)
        assert found.converged.all()
        np.testing.assert_allclose(found.statistic[:, 1:], plain.statistic[:, 1:], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found.sigma2, factor**2 * plain.sigma2, rtol=1e-8)
        np.testing.assert_allclose(found.coef[:, 0], factor * plain.coef[:, 0] + offset, rtol=1e-8)
        np.testing.assert_allclose(blups(found), factor * blups(plain), rtol=1e-4, atol=1e-8 * factor)


def test_what_is_left_may_be_too_little() -> None:
    X, Y, codes = data(4, m=8, share=0.0)
    keep = codes == np.bincount(codes).argmax()
    Y[~keep, 0] = np.nan  # one group
    Y[2:, 1] = np.nan  # two rows
    first = [np.flatnonzero(codes == g)[0] for g in np.unique(codes)]
    Y[np.setdiff1d(np.arange(len(Y)), first), 2] = np.nan  # one row per group
    Y[:, 3] = np.nan
    Y[5, 4] = np.inf
    Y[3, 5], Y[np.arange(len(Y)) != 3, 5] = np.nan, 7.0  # constant where it is there
    Y[:, 6] = np.bincount(codes)[codes]
    Y[4, 6] = np.nan  # does not vary within groups
    found = jaxlmm.fit(X, Y, codes)
    names = [jaxlmm.Status(s).name for s in found.status]
    assert names[:7] == ["TOO_FEW"] * 3 + ["NONFINITE"] * 2 + ["CONSTANT", "NO_RESIDUAL"]
    assert names[7] in ("OK", "SINGULAR")
    assert np.isnan(found.coef[:7]).all() and np.isfinite(found.coef[7]).all()
    assert found.n_used.tolist()[1:4] == [2, len(first), 0]
    assert (found.pvalue[7] > 0).all() and np.isnan(found.pvalue[:7]).all()


@pytest.mark.parametrize("least", [1, 256])
def test_infinity_and_nothing_at_all_are_told_from_too_few(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether many responses share their rows or not, whatever the random terms are."""
    X, Y, codes = data(4, m=4, share=0.0)
    Y[2:, 0], Y[2:, 1], Y[1, 1], Y[:, 2] = np.nan, np.nan, np.inf, np.nan
    expected = [jaxlmm.Status.TOO_FEW, jaxlmm.Status.NONFINITE, jaxlmm.Status.NONFINITE]
    monkeypatch.setattr(Intercept, "min_shared", least)
    slopes = [jaxlmm.random_term(codes, X[:, :2])]
    for random in (dict(groups=codes), dict(groups=None), dict(random=slopes)):
        assert jaxlmm.fit(X, Y[:, :3], **random).status.tolist() == expected


def test_x_deficient_on_what_is_left() -> None:
    X, Y, codes = data(5, m=3, share=0.0)
    X = np.column_stack([X, np.r_[np.ones(4), np.zeros(len(X) - 4)]])
    Y[:4, 1] = np.nan
    found = jaxlmm.fit(X, Y, codes)
    assert found.status[1] == jaxlmm.Status.TOO_FEW and found.converged[[0, 2]].all()


def test_profile_and_rlrt() -> None:
    X, Y, codes = data(6, m=3)
    found = jaxlmm.fit(X, Y, codes)
    profile = found.profile()
    one, _ = alone(X, Y[:, 1], codes)
    np.testing.assert_allclose(profile.coef[1], one.profile().coef[0], rtol=1e-6, atol=1e-8)
    tests = [jaxlmm.rlrt(fit, n_sim=2000, seed=1) for fit in (found, one)]
    np.testing.assert_allclose(tests[0].statistic[1], tests[1].statistic[0], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(tests[0].pvalue[1], tests[1].pvalue[0], atol=0.06)


def test_missing_can_be_refused() -> None:
    X, Y, codes = data(7, m=6)
    Y[:, 0] = 1.0 + np.arange(len(Y))
    found = jaxlmm.fit(X, Y, codes, missing="refuse")
    assert found.converged[0] and not found.converged[1:].any()
    with pytest.raises(ValueError, match="missing must be one of 'drop', 'refuse', found 'omit'"):
        jaxlmm.fit(X, Y, codes, missing="omit")


def test_one_missing_observation_is_seen_in_whichever_row() -> None:
    Y = np.zeros((700, 703))
    Y[np.arange(700), np.arange(700)] = np.nan
    Y[5, 702] = np.inf
    where = np.delete(np.arange(703), 4)
    np.testing.assert_array_equal(misses_some(Y, where, probed(Y, where)), where < 700)


def test_patterns_partition_the_columns() -> None:
    mask = np.random.default_rng(0).random((9, 200)) < 0.2
    seen = []
    for rows, columns in patterns(mask):
        assert (mask[:, columns] == ~rows[:, None]).all()
        seen.append(columns)
    assert sorted(np.concatenate(seen)) == list(range(200))
    assert len(seen) == len({column.tobytes() for column in mask.T})


def weighted_deviance(lam: float, X: np.ndarray, y: np.ndarray, codes: np.ndarray, w: np.ndarray) -> float:
    """-2 REML log-likelihood with V = diag(1 / w) + lam ZZ', profiled."""
    n, p = X.shape
    V = np.diag(1 / w) + lam * (codes[:, None] == codes)
    XtVi = np.linalg.solve(V, X).T
    b = np.linalg.solve(XtVi @ X, XtVi @ y)
    rss = (y - X @ b) @ np.linalg.solve(V, y - X @ b)
    nu = n - p
    return float(nu * (1 + np.log(2 * np.pi * rss / nu)) + np.linalg.slogdet(V)[1] + np.linalg.slogdet(XtVi @ X)[1])


@pytest.mark.parametrize("with_missing", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_weights(with_missing: bool, offset: float) -> None:
    X, Y, codes = data(8, m=4, share=0.08 if with_missing else 0.0)
    w = np.random.default_rng(1).uniform(0.2, 5, len(X))
    Y = Y + offset
    found = jaxlmm.fit(X, Y, codes, weights=w)
    for i, y in enumerate(Y.T):
        rows = ~np.isnan(y)
        args = (X[rows], y[rows], codes[rows], w[rows])
        here = weighted_deviance(found.lam[i], *args)
        np.testing.assert_allclose(-2 * found.loglik[i], here, rtol=1e-7)
        for lam in [0.0, *np.exp(np.linspace(-6, 6, 80))]:
            assert here <= weighted_deviance(lam, *args) + 1e-7
        V = found.sigma2[i] * np.diag(1 / w[rows]) + found.group_var[i] * (codes[rows][:, None] == codes[rows])
        XtVi = np.linalg.solve(V, X[rows]).T
        np.testing.assert_allclose(found.vcov[i], np.linalg.inv(XtVi @ X[rows]), rtol=1e-6, atol=1e-10)
        beta = np.linalg.solve(XtVi @ X[rows], XtVi @ y[rows])
        np.testing.assert_allclose(found.coef[i], beta, rtol=1e-6, atol=1e-7)
        Z = codes[rows][:, None] == np.arange(9)
        modes = found.group_var[i] * Z.T @ np.linalg.solve(V, y[rows] - X[rows] @ beta)
        np.testing.assert_allclose(blups(found)[i], modes, rtol=1e-4, atol=1e-7)


def test_equal_weights_change_the_scale_only() -> None:
    X, Y, codes = data(9, m=4, share=0.0)
    a, b = jaxlmm.fit(X, Y, codes), jaxlmm.fit(X, Y, codes, weights=np.full(len(X), 4.0))
    np.testing.assert_allclose(b.sigma2, 4 * a.sigma2, rtol=1e-8)
    for name in ("coef", "se", "group_var", "loglik", "pvalue"):
        np.testing.assert_allclose(getattr(b, name), getattr(a, name), rtol=1e-7, atol=1e-10)


def test_integer_weights_equal_repeated_rows_of_least_squares() -> None:
    """Weights are precisions: the coefficients are those of repeated rows."""
    X, Y, _ = data(10, m=3, share=0.0)
    w = np.random.default_rng(2).integers(1, 4, len(X))
    weighted = jaxlmm.fit(X, Y, weights=w)
    repeated = jaxlmm.fit(np.repeat(X, w, axis=0), np.repeat(Y, w, axis=0))
    np.testing.assert_allclose(weighted.coef, repeated.coef, rtol=1e-9)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), "weights has shape (3,), X has"),
        (0.0, "weights has shape ()"),
        ("negative", "weights must be positive and finite, found -1.0 in row 2 (1 such rows)"),
        ("nan", "found nan in row 2"),
    ],
)
def test_bad_weights(weights: object, message: str) -> None:
    X, Y, codes = data(11, m=2)
    if isinstance(weights, str):
        value = {"negative": -1.0, "nan": np.nan}[weights]
        weights = np.ones(len(X))
        weights[2] = value
    with pytest.raises(ValueError) as caught:
        jaxlmm.fit(X, Y, codes, weights=weights)
    assert message in str(caught.value)


def test_weighted_dense_oracle_is_the_unweighted_one_at_weight_1() -> None:
    X, Y, codes = data(12, m=1, share=0.0)
    one = weighted_deviance(0.7, X, Y[:, 0], codes, np.ones(len(X)))
    np.testing.assert_allclose(one, dense_deviance(0.7, X, Y[:, 0], codes), rtol=1e-10)


def test_weights_in_comparisons() -> None:
    X, Y, codes = data(13, m=4, share=0.0)
    w = np.random.default_rng(3).uniform(0.2, 5, len(X))
    with_groups, without = jaxlmm.fit(X, Y, codes, weights=w), jaxlmm.fit(X, Y, weights=w)
    found = jaxlmm.rlrt(with_groups, n_sim=200)
    dense = [
        weighted_deviance(0.0, X, y, codes, w) - weighted_deviance(lam, X, y, codes, w)
        for y, lam in zip(Y.T, with_groups.lam, strict=True)
    ]
    np.testing.assert_allclose(found.statistic, dense, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(jaxlmm.compare(without, with_groups).statistic, dense, rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="have different weights"):
        jaxlmm.compare(jaxlmm.fit(X, Y), with_groups)


def test_comparison_needs_the_same_observations() -> None:
    X, Y, codes = data(14, m=4)
    dropped, refused = (
        jaxlmm.fit(X, Y, codes, method="ML"),
        jaxlmm.fit(X[:, :2], Y, codes, method="ML", missing="refuse"),
    )
    assert np.isnan(jaxlmm.compare(refused, dropped).statistic).all()
    same = jaxlmm.fit(X[:, :2], Y, codes, method="ML")
    found = jaxlmm.compare(same, dropped)
    for i, y in enumerate(Y.T):
        one, rows = alone(X, y, codes, method="ML")
        small = jaxlmm.fit(X[rows][:, :2], y[rows], codes[rows], method="ML")
        np.testing.assert_allclose(found.statistic[i], 2 * (one.loglik - small.loglik)[0], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(found.bic[i, 1], one.bic[0], rtol=1e-9)
