"""The tail of the largest of correlated t: exact cases, scipy's integral, and Dunnett's table."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from jaxlmm.inference.adjustments import FamilyOfTests, adjusted_halfwidth, adjusted_pvalues
from jaxlmm.inference.largest import largest_tail
from jaxlmm.inference.tukey import range_tail


def tail(c: list[float], R: np.ndarray, df: float) -> np.ndarray:
    return largest_tail(np.array([c]), R[None], np.full((1, len(c)), df))[0]


@pytest.mark.parametrize("df", [4.5, 30.0, np.inf])
def test_one_and_pairs_of_equal_means(df: float) -> None:
    c = [0.5, 1.5, 2.5, 4.0, 8.0]
    alone = 2 * scipy.stats.t.sf(c, df) if np.isfinite(df) else 2 * scipy.stats.norm.sf(c)
    np.testing.assert_allclose(tail(c, np.eye(1), df), alone, rtol=1e-12)
    for k in (3, 4):  # differences of k independent means: a singular covariance, and Tukey's range
        C = np.array([np.eye(k)[i] - np.eye(k)[j] for i in range(k) for j in range(i)])
        found = tail(c, C @ C.T / 2, df)
        np.testing.assert_allclose(found, range_tail(np.sqrt(2) * np.array(c), k, np.full(5, df)), rtol=1e-2)


@pytest.mark.parametrize("q", [2, 5])
def test_independent_normals(q: int) -> None:
    c = np.array([0.5, 1.5, 2.5, 4.0, 9.0, 30.0])
    expected = -np.expm1(q * np.log1p(-2 * scipy.stats.norm.sf(c)))
    np.testing.assert_allclose(tail(c.tolist(), np.eye(q), np.inf), expected, rtol=1e-2)


def test_any_correlations_as_scipy() -> None:
    rng = np.random.default_rng(0)
    A = rng.normal(size=(4, 6))
    R = np.corrcoef(A)
    for c in (1.0, 2.0, 3.0):
        inside = scipy.stats.multivariate_t(shape=R, df=12, seed=1).cdf(
            np.full(4, c), lower_limit=np.full(4, -c), maxpts=200_000, random_state=1
        )
        np.testing.assert_allclose(tail([c], R, 12.0), 1 - inside, rtol=1e-2)


def test_dunnetts_table() -> None:
    """Two-sided 5 % points for 3 comparisons with a control, 10 and 30 df (Dunnett 1964, Biometrics 20:482-491)."""
    R = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    found = [tail([c], R, df)[0] for c, df in ((2.76, 10.0), (2.47, 30.0))]
    np.testing.assert_allclose(found, 0.05, rtol=1e-2)


def test_missing_ends() -> None:
    c = np.array([[np.nan, 1.0], [np.inf, 2.0]])
    found = largest_tail(c, np.stack([np.eye(2), np.full((2, 2), np.nan)]), np.full((2, 2), 9.0))
    assert np.isnan(found).tolist() == [[True, False], [True, True]]
    assert tail([np.inf, 0.0], np.eye(2), 9.0).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("adjust", ["tukey", "dunnettx", "mvt", "sidak", "scheffe", "bonferroni"])
def test_a_limit_has_the_p_value_of_its_level(adjust: str) -> None:
    df = np.array([[5.0, 7.5, 60.0], [np.inf, 3.0, 12.0], [np.nan, 8.0, 8.0]])
    C = np.array([[1.0, -1, 0], [1, 0, -1], [0, 1, -1]])

    def tests(statistic: np.ndarray) -> FamilyOfTests:
        p = 2 * scipy.stats.t.sf(np.abs(statistic), df)
        return FamilyOfTests(statistic, df, p, 3, 2, lambda: np.broadcast_to(C @ C.T / 2, (3, 3, 3)))

    half = adjusted_halfwidth(adjust, tests(np.ones((3, 3))), 0.9)
    found = adjusted_pvalues(adjust, tests(half))
    np.testing.assert_allclose(found, np.where(np.isnan(df), np.nan, 0.1), rtol=1e-2 if adjust == "mvt" else 1e-6)


def test_tests_that_are_not_made_count_as_in_r() -> None:
    """p.adjust(p, method, n) of R with one p-value that is NA."""
    p = np.array([[0.01, np.nan, 0.02]])
    made = FamilyOfTests(p, p, p, 3, 2, lambda: np.eye(3)[None])
    np.testing.assert_allclose(adjusted_pvalues("bonferroni", made), [[0.03, np.nan, 0.06]])
    np.testing.assert_allclose(adjusted_pvalues("holm", made), [[0.03, np.nan, 0.04]])
    np.testing.assert_allclose(adjusted_pvalues("bh", made), [[0.03, np.nan, 0.03]])
