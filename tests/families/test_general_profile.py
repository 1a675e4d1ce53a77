"""Profile intervals of any random terms: against R, by the definition, and against those of one intercept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from conftest import simulate, unbalanced
from test_structures import FORMULAS, load

import jaxlmm
from jaxlmm.design.random import RandomTerm
from jaxlmm.families.general.model import RandomTerms

CUT = 3.841458820694124
NAMES = ["g_sleepstudy", "g_weights", "g_penicillin", "g_pastes", "g_machines_factor"]
# What R does not find is checked by the definition: with weights its intervals of coefficients are a tenth of
# the Wald intervals or less, and with three columns it does not minimise over the other correlations.
BY_DEFINITION = {"g_weights": ("Intercept", "Days"), "g_machines_factor": ("cor_",)}


def fit_of(name: str, method: str = "REML", scale: float = 1.0, mean: float = 0.0) -> jaxlmm.Fit:
    expected, data = load(name)
    response, right = (part.strip() for part in FORMULAS.get(name, expected["formula"]).split("~"))
    y = data[response].to_numpy(dtype=float)
    return jaxlmm.lmm(right, data, y[:, None] * scale + mean, method=method, weights=expected["weights"] or None)


def limits_of(fit: jaxlmm.Fit) -> dict[str, np.ndarray]:
    """By label, of all responses (m, 2)."""
    found = fit.profile()
    limits = np.concatenate([found.random, found.sigma[:, None], found.coef], axis=1)
    return dict(zip([*found.labels, "sigma", *found.names], np.moveaxis(limits, 1, 0), strict=True))


profiled = functools.cache(lambda name: limits_of(fit_of(name)))


def plain(label: str) -> str:
    return label.replace("[T.", "").replace("]", "").replace("(Intercept)", "Intercept")


@pytest.mark.parametrize("name", NAMES)
def test_against_r(name: str) -> None:
    expected = load(name)[0]["profile_ci"]
    found = {plain(label): limits[0] for label, limits in profiled(name).items()}
    assert sorted(found) == sorted(map(plain, expected["name"]))
    for label, lower, upper in zip(expected["name"], expected["lower"], expected["upper"], strict=True):
        if not plain(label).startswith(BY_DEFINITION.get(name, ("none",))):
            np.testing.assert_allclose(
                found[plain(label)], [lower, upper], atol=2e-3 * (upper - lower), err_msg=label
            )


def test_units_and_mean_of_the_response() -> None:
    expected = profiled("g_sleepstudy")
    for scale, mean in ((1e-8, 0.0), (1e8, 0.0), (1.0, 1e6)):
        for label, limits in limits_of(fit_of("g_sleepstudy", scale=scale, mean=mean)).items():
            by = 1.0 if label.startswith("cor_") else scale
            found = (limits - (mean if label == "Intercept" else 0.0)) / by
            np.testing.assert_allclose(found, expected[label], atol=1e-6 * np.ptp(expected[label]), err_msg=label)


def test_a_profile_prints_and_tidies() -> None:
    profile = fit_of("g_sleepstudy").profile()
    assert "cor_Days.(Intercept)|Subject" in str(profile)
    table = profile.tidy()
    assert len(table) == 6
    row = table[table["parameter"] == "sd_Days|Subject"]
    np.testing.assert_array_equal(row[["conf.low", "conf.high"]].to_numpy()[0], profile.random[0, 2])


def test_one_intercept() -> None:
    """The general way finds the limits that the way of one intercept finds, variances of 0 among them."""
    rng = np.random.default_rng(3)
    codes = unbalanced(rng, 8, 8)
    X, first = simulate(rng, codes, p=3, m=2, ratio=0.6)
    means = np.array([np.mean(first[codes == g, 0]) for g in range(codes.max() + 1)])
    Y = np.column_stack([first, first[:, 0] - means[codes], np.full(len(X), 2.0)])
    fit = jaxlmm.fit(X, Y, codes)
    expected = fit.profile()
    assert expected.random[2, 0, 0] == 0
    found = RandomTerms.make(fit.design).profile(Y, fit.converged, CUT)
    for ours, theirs in zip(found, (expected.random, expected.sigma, expected.coef), strict=True):
        assert np.isnan(ours[3]).all() and np.isfinite(ours[:3]).all()
        np.testing.assert_allclose(ours[:3], theirs[:3], rtol=1e-6, atol=1e-6 * np.std(Y[:, 0]))


# By the definition ----------------------------------------------------------------------------------


def deviance(
    X: np.ndarray, y: np.ndarray, terms: Sequence[RandomTerm], w: np.ndarray, Phis: Sequence[np.ndarray], sigma: float
) -> float:
    """-2 log-likelihood (up to a constant) of the dense covariance, at the best coefficients."""
    V = np.diag(sigma**2 / w)
    for term, Phi in zip(terms, Phis, strict=True):
        V = V + (term.Z @ Phi @ term.Z.T) * (term.codes[:, None] == term.codes)
    try:
        L = np.linalg.cholesky(V)
    except np.linalg.LinAlgError:  # far away from the data
        return 1e10
    both = np.linalg.solve(L, np.column_stack([X, y]))
    A, z = both[:, :-1], both[:, -1]
    b = np.linalg.lstsq(A, z, rcond=None)[0] if X.shape[1] else np.zeros(0)
    return float(np.sum((z - A @ b) ** 2) + 2 * np.sum(np.log(np.diag(L))))


def profiled_deviance(fit: jaxlmm.Fit, response: int, label: str, x: float) -> float:
    """The least deviance with the quantity ``label`` at x: over standard deviations, sigma, and correlations.

    Correlations are those of L = rows of unit length, (tan a, 1) for the second, so a held one is a held row.
    """
    design = fit.design
    X, y, terms = design.X, np.asarray(fit.Y[:, response], dtype=float), list(design.random)
    w = np.ones(len(y)) if design.weights is None else design.weights
    held: tuple[Any, ...] = ()
    if label in fit.names:
        j = fit.names.index(label)
        X, y = np.delete(X, j, axis=1), y - x * X[:, j]
    orders = [list(range(term.size)) for term in terms]
    for t, term in enumerate(terms):
        for i, a in enumerate(term.columns):
            if label == f"sd_{a}|{term.name}":
                held = ("sd", t, i)
            for j in range(i + 1, term.size):
                if label == f"cor_{term.columns[j]}.{a}|{term.name}":
                    held = ("cor", t)
                    orders[t] = [i, j, *(c for c in range(term.size) if c not in (i, j))]
    varcorr = [np.asarray(v[response]) for v in fit.varcorr.values()]
    start, pieces = [0.5 * np.log(fit.sigma2[response])], []
    for Phi, order in zip(varcorr, orders, strict=True):
        Phi = Phi[np.ix_(order, order)]
        start += list(0.5 * np.log(np.maximum(np.diag(Phi), 1e-4 * fit.sigma2[response])))
        sd = np.sqrt(np.maximum(np.diag(Phi), 1e-300))
        L = np.linalg.cholesky(0.95 * Phi / np.outer(sd, sd) + 0.05 * np.eye(len(sd)))
        pieces += [L[i, j] / L[i, i] for i in range(len(L)) for j in range(i)]
    r = [term.size for term in terms]

    def value(parameters: np.ndarray) -> float:
        sigma = x if label == "sigma" else np.exp(np.clip(parameters[0], -8, 20))
        sds = np.exp(np.clip(parameters[1 : 1 + sum(r)], -20, 20))
        at, first, Phis = 1 + sum(r), 0, []
        for t, order in enumerate(orders):
            sd = sds[first : first + r[t]].copy()
            first += r[t]
            L = np.eye(r[t])
            for i in range(1, r[t]):
                L[i, :i] = parameters[at : at + i]
                at += i
                if held == ("cor", t) and i == 1:
                    L[1, :2] = x, np.sqrt(max(1 - x**2, 0))
                L[i] /= np.linalg.norm(L[i])
            if held[:2] == ("sd", t):
                sd[held[2]] = x
            T = sd[:, None] * L
            back = np.argsort(order)
            Phis.append((T @ T.T)[np.ix_(back, back)])
        return deviance(X, y, terms, w, Phis, sigma)

    best = np.inf
    for shift in (0.0, -1.0):
        first_guess = np.array([*start, *pieces])
        first_guess[1 : 1 + sum(r)] += shift
        best = min(best, _lowest_from(value, first_guess))
    return best


def _lowest_from(value: Callable[[np.ndarray], float], start: np.ndarray) -> float:
    """Where logarithms of variances run off to minus infinity one search stops early: anew until none gains."""
    best = np.inf
    for method in ("BFGS", "Powell", "BFGS", "Powell", "BFGS"):
        found = scipy.optimize.minimize(value, start, method=method)
        if found.fun > best - 1e-6:
            break
        start, best = found.x, found.fun
    return min(best, found.fun)


def check_by_definition(ml: jaxlmm.Fit, limits: dict[str, np.ndarray], response: int) -> None:
    least = profiled_deviance(ml, response, "none", np.nan)
    np.testing.assert_allclose(least, -2 * ml.loglik[response] - ml.n_obs * np.log(2 * np.pi), atol=1e-4)
    for label, both in limits.items():
        for limit in both[response]:
            if not (label.startswith("sd_") and limit == 0) and not (label.startswith("cor_") and abs(limit) == 1):
                rise = profiled_deviance(ml, response, label, limit) - least
                # Of a singular fit the dense search in logarithms comes close to the minimum, from above.
                assert CUT - 1e-4 < rise < CUT + (2e-3 if ml.singular[response] else 1e-4), (label, limit, rise)


def test_limits_lie_where_the_dense_deviance_does() -> None:
    check_by_definition(fit_of("g_machines_factor", "ML"), profiled("g_machines_factor"), 0)


def test_crossed_slopes_with_weights_by_the_definition() -> None:
    """Also where a variance is 0 and a correlation 1."""
    rng = np.random.default_rng(8)
    a, b = np.repeat(np.arange(8), 6), np.tile(np.arange(6), 8)
    x, w = rng.normal(size=48), rng.uniform(0.5, 2, 48)
    slopes = rng.normal(size=(8, 2)) * [1.0, 0.8]
    common = rng.normal(size=8)[a] * (1 + x)
    Y = np.column_stack([slopes[a, 0] + slopes[a, 1] * x + rng.normal(size=6)[b], common])
    Y += rng.normal(size=Y.shape) / np.sqrt(w)[:, None] + x[:, None]
    data = {"x": x, "a": a, "b": b, "w": w}
    found = limits_of(jaxlmm.lmm("x + (x | a) + (1 | b)", data, Y, weights="w"))
    ml = jaxlmm.lmm("x + (x | a) + (1 | b)", data, Y, weights="w", method="ML")
    assert ml.singular[1] and found["sd_(Intercept)|b"][1, 0] == 0 and found["cor_x.(Intercept)|a"][1, 1] == 1
    for response in range(2):
        check_by_definition(ml, found, response)
