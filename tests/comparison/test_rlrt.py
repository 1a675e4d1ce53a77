"""The test of the random effect, against closed forms and against dense simulation that shares no code."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.stats
from conftest import dense_deviance

import jaxlmm
from jaxlmm.comparison.rlrt import mixture_pvalue, rlrt
from jaxlmm.families.intercept.null import null_distribution

N_SIM = 20_000
N_DENSE = 8_000
M = 150  # responses: all fits take the one block width of more than 128, so that little is compiled


def design(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """X (n, p) and group codes."""
    rng = np.random.default_rng(5)
    if kind == "balanced":
        codes = np.repeat(np.arange(6), 4)
        return np.ones((24, 1)), codes
    if kind == "unbalanced":
        codes = np.repeat(np.arange(6), [1, 2, 2, 4, 6, 9])
        return np.column_stack([np.ones(24), rng.normal(size=24)]), codes
    # Two sizes, and with them merged terms; a covariate constant within groups, and one that is not.
    codes = rng.permutation(np.repeat(np.arange(9), [2] * 6 + [5] * 3))
    return np.column_stack([np.ones(27), rng.normal(size=9)[codes], rng.normal(size=27)]), codes


def dense_statistics(X: np.ndarray, codes: np.ndarray, Y: np.ndarray, method: str) -> np.ndarray:
    """Statistic of each column of Y by n x n matrices on a fine grid of lam."""
    n, p = X.shape
    same = (codes[:, None] == codes).astype(float)
    nu = n - p if method == "REML" else n
    value = []
    for lam in [0.0, *np.exp(np.linspace(-9, 6, 160))]:
        V = np.eye(n) + lam * same
        ViX = np.linalg.solve(V, X)
        P = np.linalg.inv(V) - ViX @ np.linalg.solve(X.T @ ViX, ViX.T)
        quad = np.einsum("ij,ij->j", Y, P @ Y)
        logdet = np.linalg.slogdet(V)[1] + (np.linalg.slogdet(X.T @ ViX)[1] if method == "REML" else 0.0)
        value.append(nu * np.log(quad) + logdet)
    return value[0] - np.min(value, axis=0)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of the two empirical distribution functions (there is an atom at 0)."""
    at = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (a, b)]
    return float(np.max(np.abs(below[0] - below[1])))


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("kind", ["balanced", "unbalanced", "group covariate"])
def test_null_distribution_is_that_of_dense_simulation(kind: str, method: str) -> None:
    X, codes = design(kind)
    Y = np.random.default_rng(1).normal(size=(len(X), N_DENSE))
    expected = dense_statistics(X, codes, Y, method)
    spectrum = jaxlmm.prepare(X, codes).prepared.family.reducer.spectrum
    found = null_distribution(spectrum, len(X), n_sim=N_SIM, seed=2, method=method)
    assert found.shape == (N_SIM,) and (np.diff(found) >= 0).all() and found[0] == 0
    # Kolmogorov and Smirnov's limit for two samples at level 0.001; for the atom, 3.3 standard errors.
    assert distance(found, expected) < 1.95 * np.sqrt(1 / N_SIM + 1 / N_DENSE)
    atom = np.mean(expected == 0)
    assert 0.4 < atom < 0.9
    assert abs(np.mean(found == 0) - atom) < 3.3 * np.sqrt(atom * (1 - atom) * (1 / N_SIM + 1 / N_DENSE))
    # What p-values need, the upper tail: shares beyond the 90, 95 and 99 % points.
    for level in (0.1, 0.05, 0.01):
        share = np.mean(found > np.quantile(expected, 1 - level))
        assert abs(share - level) < 3.3 * np.sqrt(level * (1 - level) * (1 / N_SIM + 1 / N_DENSE))


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_null_distribution_has_the_closed_form_of_a_balanced_design(method: str) -> None:
    """One-way analysis of variance: the statistic is a function of F."""
    G, size, p = 7, 5, 1
    n = G * size
    codes = np.repeat(np.arange(G), size)
    spectrum = jaxlmm.prepare(np.ones((n, p)), codes).prepared.family.reducer.spectrum
    found = null_distribution(spectrum, n, n_sim=N_SIM, method=method)
    between, nu = (G - p, n - p) if method == "REML" else (G, n)
    within = n - G

    def statistic(ss_ratio: np.ndarray) -> np.ndarray:
        """Of the ratio of sums of squares between and within; 1 + lam size = (ss/between) / (1/within)."""
        v = np.maximum(ss_ratio * within / between, 1.0)
        at_optimum = nu * np.log(ss_ratio / v + 1) + between * np.log(v)
        return nu * np.log(ss_ratio + 1) - at_optimum

    ratio = np.geomspace(between / within, 6.0, 400)[1:]
    expected = scipy.stats.f.sf(ratio * within / (G - 1), G - 1, within)
    share = np.array([np.mean(found >= x) for x in statistic(ratio)])
    assert np.max(np.abs(share - expected)) < 1.95 / np.sqrt(N_SIM)
    at_zero = scipy.stats.f.cdf(between / (G - 1), G - 1, within)
    assert abs(np.mean(found == 0) - at_zero) < 3.3 * np.sqrt(at_zero * (1 - at_zero) / N_SIM)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("kind", ["unbalanced", "group covariate"])
def test_statistic_and_pvalues(kind: str, method: str) -> None:
    X, codes = design(kind)
    rng = np.random.default_rng(3)
    Y = rng.normal(size=(len(X), M)) + rng.uniform(0, 1, M) * rng.normal(size=(codes.max() + 1, M))[codes]
    Y = 1e3 * (Y + X @ rng.normal(size=(X.shape[1], M)))
    fit = jaxlmm.fit(X, Y, codes, method=method)
    found = rlrt(fit, n_sim=3000)
    for i, y in enumerate(Y.T):
        drop = dense_deviance(0.0, X, y, codes, method) - dense_deviance(fit.lam[i], X, y, codes, method)
        np.testing.assert_allclose(found.statistic[i], drop, atol=1e-9)
    grid = dense_statistics(X, codes, Y, method)
    assert (found.statistic >= grid - 1e-9).all() and (found.statistic <= grid + 0.01).all()
    by_definition = [(1 + np.sum(found.null >= s)) / 3001 for s in found.statistic]
    np.testing.assert_allclose(found.pvalue, by_definition, rtol=1e-14)
    positive = found.statistic > 0
    np.testing.assert_allclose(
        found.pvalue_mixture[positive], 0.5 * scipy.stats.chi2.sf(found.statistic[positive], 1)
    )
    assert fit.singular.any() and positive.sum() > 10
    assert (found.statistic[fit.singular] == 0).all() and (found.statistic[~fit.singular] > 0).all()
    assert (found.pvalue[fit.singular] == 1).all() and (found.pvalue_mixture[fit.singular] == 1).all()
    assert found.method == method and found.n_sim == len(found.null) == 3000


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_level_and_power(method: str) -> None:
    rng = np.random.default_rng(11)
    X, codes = design("unbalanced")
    Y = 5.0 + rng.normal(size=(24, 1000))
    under_null = rlrt(jaxlmm.fit(X, Y, codes, method=method))
    for level in (0.01, 0.05, 0.1, 0.2):
        low, high = scipy.stats.binom.interval(0.999, 1000, level)
        assert low <= np.sum(under_null.pvalue <= level) <= high
    # With 6 groups the mixture of large samples is conservative, by ML with its bias far more so.
    assert np.sum(under_null.pvalue_mixture <= 0.05) < np.sum(under_null.pvalue <= 0.05)
    Y = rng.normal(size=(24, M)) + 3 * rng.normal(size=(6, M))[codes]
    assert np.mean(rlrt(jaxlmm.fit(X, Y, codes, method=method)).pvalue <= 0.05) > 0.9


def test_reproducible() -> None:
    X, codes = design("unbalanced")
    spectrum = jaxlmm.prepare(X, codes).prepared.family.reducer.spectrum
    draws = {seed: null_distribution(spectrum, 24, n_sim=2500, seed=seed) for seed in (0, 1)}
    np.testing.assert_array_equal(null_distribution(spectrum, 24, n_sim=2500), draws[0])
    assert np.mean(draws[0] != draws[1]) > 0.3
    # Fewer draws are the first ones of more.
    assert np.isin(null_distribution(spectrum, 24, n_sim=7), draws[0]).all()
    fit = jaxlmm.fit(X, np.random.default_rng(0).normal(size=(24, M)), codes)
    a, b, c = (rlrt(fit, n_sim=500, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a.pvalue, b.pvalue)
    assert a.seed == 3 and c.seed == 4 and not np.array_equal(a.null, c.null)
    assert not jax.config.jax_enable_x64


def test_bad_responses_are_nan_and_leave_the_others_alone() -> None:
    X, codes = design("group covariate")
    Y = np.random.default_rng(0).normal(size=(27, M)) + np.random.default_rng(1).normal(size=(9, M))[codes]
    good = rlrt(jaxlmm.fit(X, Y, codes), n_sim=500)
    Y[4, 0], Y[:, 1], Y[:, 2] = np.inf, 3.0, np.arange(9.0)[codes] ** 2
    fit = jaxlmm.fit(X, Y, codes)
    assert not fit.converged[:3].any() and fit.converged[3:].all()
    found = rlrt(fit, n_sim=500)
    for name in ("statistic", "pvalue", "pvalue_mixture"):
        values = getattr(found, name)
        assert values.shape == (M,) and np.isnan(values[:3]).all()
        np.testing.assert_allclose(values[3:], getattr(good, name)[3:], rtol=1e-9)


def test_mixture_pvalue() -> None:
    stat = np.array([0.0, 2.705543454, 3.0, np.nan])
    np.testing.assert_allclose(mixture_pvalue(stat, 0)[:2], [1.0, 0.05], rtol=1e-9)
    expected = 0.5 * scipy.stats.chi2.sf(3.0, 2) + 0.5 * scipy.stats.chi2.sf(3.0, 3)
    np.testing.assert_allclose(mixture_pvalue(stat, 2)[[0, 2]], [1.0, expected], rtol=1e-12)
    assert np.isnan(mixture_pvalue(stat, 0)[3]) and np.isnan(mixture_pvalue(stat, 2)[3])


def test_errors() -> None:
    X, codes = design("unbalanced")
    Y = np.random.default_rng(0).normal(size=(24, M))
    with pytest.raises(ValueError, match="no random effect"):
        rlrt(jaxlmm.fit(X, Y))
    fit = jaxlmm.fit(X, Y, codes)
    for wrong, message in (
        (dict(n_sim=0), "n_sim must be at least 1, found 0"),
        (dict(n_sim=2.5), "n_sim must be an integer, found 2.5"),
        (dict(seed=-1), "seed must be at least 0, found -1"),
        (dict(seed=None), "seed must be an integer, found None"),
    ):
        with pytest.raises(ValueError, match=message):
            rlrt(fit, **wrong)  # type: ignore[arg-type]
