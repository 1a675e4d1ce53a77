"""Profile likelihood intervals against R and against the dense likelihood."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from conftest import Reference, simulate, unbalanced

import jaxlmm

CUT = 3.841458820694124


def test_against_r(reference: Reference) -> None:
    found = jaxlmm.fit(reference.X, reference.y, reference.groups).profile()
    expected = reference.expected["profile_ci"]
    limits = np.column_stack([expected["lower"], expected["upper"]])
    got = np.concatenate([found.group_sd, found.sigma, found.coef[0]])
    # R interpolates its profile by splines. In the singular set co2 that leaves its upper limit of
    # the group sd 0.3 % too far: there the deviance lies 3.866 above its minimum, not 3.841
    # (test_limits_lie_where_the_deviance_does checks ours by the definition).
    rtol = np.full(limits.shape, 1e-3)
    if reference.name == "co2":
        rtol[0, 1] = 4e-3
    assert (np.abs(got - limits) <= rtol * np.abs(limits)).all(), (got, limits)


def deviance(X: np.ndarray, y: np.ndarray, codes: np.ndarray, sd: float, sigma: float, b: np.ndarray | None) -> float:
    """-2 log-likelihood at given standard deviations, at coefficients ``b`` or their best."""
    V = sigma**2 * np.eye(len(y)) + sd**2 * (codes[:, None] == codes)
    L = np.linalg.cholesky(V)
    both = np.linalg.solve(L, np.column_stack([X, y]))
    A, z = both[:, :-1], both[:, -1]
    b = np.linalg.lstsq(A, z, rcond=None)[0] if b is None else b
    return float(np.sum((z - A @ b) ** 2) + 2 * np.sum(np.log(np.diag(L))))


def lowest(function: object, start: list[float]) -> float:
    options = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 4000, "maxfev": 4000}
    return min(
        scipy.optimize.minimize(function, np.array(s), method="Nelder-Mead", options=options).fun
        for s in (start, [v - 1.5 for v in start], [start[0] + 1.0, *start[1:]])
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_limits_lie_where_the_deviance_does(seed: int) -> None:
    """By the definition: the deviance at a limit, minimised over all else, is CUT above its minimum."""
    rng = np.random.default_rng(seed)
    codes = unbalanced(rng, 8, 8)
    X, Y = simulate(rng, codes, p=3, m=2, ratio=[1.0, 0.2, 0.0][seed])
    ml = jaxlmm.fit(X, Y, codes, method="ML")
    found = ml.profile()
    for i, y in enumerate(Y.T):
        start = [np.log(max(np.sqrt(ml.group_var[i]), 0.05)), np.log(np.sqrt(ml.sigma2[i]))]
        least = deviance(X, y, codes, np.sqrt(ml.group_var[i]), np.sqrt(ml.sigma2[i]), None)
        assert found.group_sd[i, 0] <= np.sqrt(ml.group_var[i]) < found.group_sd[i, 1]
        for sd in found.group_sd[i]:
            value = lowest(lambda x, sd=sd, y=y: deviance(X, y, codes, sd, np.exp(x[0]), None), [start[1]])
            if sd > 0:
                np.testing.assert_allclose(value - least, CUT, rtol=1e-5)
            else:
                assert value - least <= CUT + 1e-9
        for sigma in found.sigma[i]:
            value = lowest(lambda x, s=sigma, y=y: deviance(X, y, codes, np.exp(x[0]), s, None), [start[0]])
            np.testing.assert_allclose(value - least, CUT, rtol=1e-5)
        for k in range(3):
            others = np.delete(X, k, axis=1)
            for b in found.coef[i, k]:
                value = lowest(
                    lambda x, y=y, b=b, k=k, o=others: deviance(
                        o, y - b * X[:, k], codes, np.exp(x[0]), np.exp(x[1]), None
                    ),
                    start,
                )
                np.testing.assert_allclose(value - least, CUT, rtol=1e-4)


def test_levels_are_nested_and_responses_independent() -> None:
    rng = np.random.default_rng(5)
    codes = unbalanced(rng, 12, 9)
    X, Y = simulate(rng, codes, p=3, m=150, ratio=0.3)
    fit = jaxlmm.fit(X, Y, codes)
    narrow, wide = fit.profile(0.8), fit.profile(0.99)
    for a, b in ((narrow.sigma, wide.sigma), (narrow.group_sd, wide.group_sd), (narrow.coef, wide.coef)):
        assert np.isfinite(a).all() and np.isfinite(b).all()
        assert (b[..., 0] <= a[..., 0]).all() and (a[..., 1] < b[..., 1]).all()
    one = jaxlmm.fit(X, Y[:, 140], codes).profile(0.8)
    np.testing.assert_allclose(one.coef[0], narrow.coef[140], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(one.group_sd[0], narrow.group_sd[140], rtol=1e-6, atol=1e-8)


def test_units_shift_and_bad_responses() -> None:
    rng = np.random.default_rng(6)
    codes = unbalanced(rng, 7, 9)
    X, Y = simulate(rng, codes, p=3, m=3, ratio=0.5)
    plain = jaxlmm.fit(X, Y, codes).profile()
    other = np.column_stack([1e6 + 1e3 * Y[:, 0], np.full(len(Y), 2.0), Y[:, 2]])
    found = jaxlmm.fit(X, other, codes).profile()
    np.testing.assert_allclose(found.coef[0, 1:], 1e3 * plain.coef[0, 1:], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found.coef[0, 0], 1e6 + 1e3 * plain.coef[0, 0], rtol=1e-9)
    np.testing.assert_allclose(found.sigma[0], 1e3 * plain.sigma[0], rtol=1e-6)
    assert np.isnan(found.coef[1]).all() and np.isnan(found.group_sd[1]).all()
    np.testing.assert_allclose(found.coef[2], plain.coef[2], rtol=1e-9)


def test_without_groups() -> None:
    rng = np.random.default_rng(7)
    X, Y = simulate(rng, unbalanced(rng, 7, 9), p=3, m=2)
    found = jaxlmm.fit(X, Y).profile()
    n = len(X)
    ols = jaxlmm.fit(X, Y)
    assert np.isnan(found.group_sd).all()
    # Closed form: n log(1 + (b - ols)^2 / (C rss)) = CUT.
    rss = ols.sigma2 * (n - 3)
    half = np.sqrt((np.exp(CUT / n) - 1) * rss[:, None] * ols.se**2 / ols.sigma2[:, None])
    np.testing.assert_allclose(found.coef, np.stack([ols.coef - half, ols.coef + half], axis=-1), rtol=1e-7)


def test_bad_level() -> None:
    rng = np.random.default_rng(8)
    codes = unbalanced(rng, 7, 9)
    X, Y = simulate(rng, codes)
    with pytest.raises(ValueError, match="level must lie between 0 and 1, found 95"):
        jaxlmm.fit(X, Y, codes).profile(95)
