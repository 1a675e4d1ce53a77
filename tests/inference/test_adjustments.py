"""The tail of the largest of correlated t: exact cases, scipy's integral, and Dunnett's table."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

import jaxlmm
from jaxlmm.inference import largest
from jaxlmm.inference.adjustments import FamilyOfTests, adjusted_halfwidth, adjusted_pvalues
from jaxlmm.inference.largest import accuracy, largest_tail
from jaxlmm.inference.multiplicity import FEW
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
        expected = range_tail(np.sqrt(2) * np.array(c), k, np.full(5, df))
        np.testing.assert_allclose(found, expected, rtol=1e-9 if k == 3 else 2e-3)


@pytest.mark.parametrize("q", [2, 5])
def test_independent_normals(q: int) -> None:
    c = np.array([0.5, 1.5, 2.5, 4.0, 9.0, 30.0])
    expected = -np.expm1(q * np.log1p(-2 * scipy.stats.norm.sf(c)))
    np.testing.assert_allclose(tail(c.tolist(), np.eye(q), np.inf), expected, rtol=1e-11)


def test_any_correlations_as_scipy() -> None:
    rng = np.random.default_rng(0)
    A = rng.normal(size=(4, 6))
    R = np.corrcoef(A)
    for c in (1.0, 2.0, 3.0):
        inside = scipy.stats.multivariate_t(shape=R, df=12, seed=1).cdf(
            np.full(4, c), lower_limit=np.full(4, -c), maxpts=200_000, random_state=1
        )
        np.testing.assert_allclose(tail([c], R, 12.0), 1 - inside, rtol=2e-3)


def test_dunnetts_table() -> None:
    """Two-sided 5 % points for 3 comparisons with a control, 10 and 30 df (Dunnett 1964, Biometrics 20:482-491)."""
    R = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    found = [tail([c], R, df)[0] for c, df in ((2.76, 10.0), (2.47, 30.0))]
    np.testing.assert_allclose(found, 0.05, rtol=1e-2)


@pytest.mark.parametrize("df", [1.0, 4.5, 30.0, np.inf])
def test_two_quadratures_agree(df: float) -> None:
    """Two contrasts: in the plane, and given the number that they share; one of three is another's double."""
    c, df_ = np.array([[0.0, 0.5, 2.0, 4.0, 9.0, 30.0]]), np.full((1, 6), df)
    for r in (0.3, -0.6, 0.8):
        b = np.sqrt(abs(r)) * np.array([[1.0, np.sign(r)]])
        R = np.array([[[1.0, r], [r, 1.0]]])
        found = largest._one_shared(c, b, df_)
        np.testing.assert_allclose(found, largest_tail(c, R, df_), rtol=1e-9)
        doubled = R[:, [0, 1, 1]][:, :, [0, 1, 1]]
        np.testing.assert_allclose(largest_tail(c, doubled, df_), found, rtol=1e-9)


def test_points_are_as_good_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against quadrature, of correlations b_i b_j that are not seen to be so."""
    c = np.array([[1.0, 2.0, 3.0, 5.0]])
    for b in (np.array([0.9, 0.7, 0.7, 0.3]), np.array([0.7, -0.7, 0.5, 0.2, 0.9])):
        R = (np.outer(b, b) + np.diag(1 - b * b))[None]
        assert accuracy(R) == "exact, by quadrature"
        for df in (6.0, np.inf):
            expected = largest_tail(c, R, np.full((1, 4), df))
            monkeypatch.setattr(largest, "EXACT_TOL", -1.0)
            for limit, n in ((1e-2, 2039), (4e-3, 16381)):
                monkeypatch.setattr(largest, "MOST", n)
                np.testing.assert_allclose(largest_tail(c, R, np.full((1, 4), df)), expected, rtol=limit)
                assert accuracy(R) == f"good to {limit:.1%}"
            monkeypatch.undo()


def test_hommel_and_hochberg_as_r() -> None:
    """R's p.adjust: p <- c(.001, .2, .013, .04, .04, .5, .0004), c(.01, .02, .03, .05); and in long families."""
    p = np.array([0.001, 0.2, 0.013, 0.04, 0.04, 0.5, 0.0004])
    for method in ("hommel", "Hochberg", "simes-hochberg"):
        found = jaxlmm.adjust_pvalues(p, method)
        np.testing.assert_allclose(found, [0.006, 0.4, 0.065, 0.12, 0.12, 0.5, 0.0028], rtol=1e-12)
    found = jaxlmm.adjust_pvalues([0.05, np.nan, 0.03, 0.01, 0.02], "hommel")
    np.testing.assert_allclose(found, [0.05, np.nan, 0.05, 0.04, 0.045], rtol=1e-12)
    np.testing.assert_allclose(jaxlmm.adjust_pvalues([0.05, 0.03, 0.01, 0.02], "hochberg"), [0.05, 0.05, 0.04, 0.05])
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, FEW, FEW + 1, 300):  # the short and the long way
        for p in (rng.uniform(size=n) ** 4, np.round(rng.uniform(size=n) ** 8, 2)):
            for ours, theirs in (("hommel", "hommel"), ("hochberg", "simes-hochberg")):
                expected = multipletests(p, method=theirs)[1]
                np.testing.assert_allclose(jaxlmm.adjust_pvalues(p, ours), expected, atol=1e-14)


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
    np.testing.assert_allclose(found, np.where(np.isnan(df), np.nan, 0.1), rtol=1e-6)


def test_tests_that_are_not_made_count_as_in_r() -> None:
    """p.adjust(p, method, n) of R with one p-value that is NA."""
    p = np.array([[0.01, np.nan, 0.02]])
    made = FamilyOfTests(p, p, p, 3, 2, lambda: np.eye(3)[None])
    np.testing.assert_allclose(adjusted_pvalues("bonferroni", made), [[0.03, np.nan, 0.06]])
    np.testing.assert_allclose(adjusted_pvalues("holm", made), [[0.03, np.nan, 0.04]])
    np.testing.assert_allclose(adjusted_pvalues("bh", made), [[0.03, np.nan, 0.03]])
