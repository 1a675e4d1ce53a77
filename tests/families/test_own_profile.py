"""Profile limits of responses with rows or weights of their own, any random terms: in batches, as one by one."""

from __future__ import annotations

import numpy as np
import pytest

import jaxlmm
from jaxlmm.design.random import RandomTerm, make_random_term
from jaxlmm.families.base import Family
from jaxlmm.families.general.model import RandomTerms
from jaxlmm.runtime import programs
from jaxlmm.sources.weighted import WeightedMatrix

CUT = 3.841458820694124
SLOPES, CROSSED, NESTED = "slopes", "crossed", "nested"


def term(name: str, codes: np.ndarray, *slopes: np.ndarray) -> RandomTerm:
    Z = np.column_stack([np.ones(len(codes)), *slopes])
    return make_random_term(name, range(codes.max() + 1), codes, Z, ["(Intercept)", "x"][: Z.shape[1]])


def design(name: str) -> tuple[np.ndarray, list[RandomTerm]]:
    """X and random terms. With slopes X has one column, without which nothing is left of it; crossed and nested
    factors have as many levels, so that they share programs."""
    rng = np.random.default_rng(0)
    if name == SLOPES:
        g, x = np.repeat(np.arange(7), 6), rng.normal(size=42)
        return np.ones((42, 1)), [term("g", g, x)]
    inner = np.repeat(np.arange(12), 4)
    outer = inner // 3 if name == NESTED else np.tile(np.arange(4), 12)
    return np.column_stack([np.ones(48), rng.normal(size=48)]), [term("inner", inner), term("outer", outer)]


def responses(X: np.ndarray, terms: list[RandomTerm]) -> np.ndarray:
    """With large effects, small ones, and none, (n_obs, 3)."""
    rng = np.random.default_rng(1)
    Y = rng.normal(size=(len(X), 3)) + X @ rng.normal(size=(X.shape[1], 3))
    for t in terms:
        effects = rng.normal(size=(t.n_levels, t.size, 3)) * [1.5, 0.5, 0.0]
        Y += np.einsum("ij,ijc->ic", t.Z, effects[t.codes])
    return Y


@pytest.mark.parametrize(
    ("name", "weighted", "method"),
    [(SLOPES, False, "REML"), (SLOPES, True, "REML"), (CROSSED, False, "ML"), (NESTED, True, "ML")],
)
def test_limits_are_those_of_a_design_for_each(
    name: str, weighted: bool, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "FEW_CALLS", 10**6)  # so few responses are not worth better programs
    X, terms = design(name)
    Y, rng = responses(X, terms), np.random.default_rng(2)
    Y[rng.random(Y.shape) < 0.1] = np.nan
    weights = rng.gamma(2.0, 0.5, size=Y.shape) * [1.0, 1e6, 1e-6] + 1e-9 if weighted else None
    fit = jaxlmm.fit(X, Y, random=terms, weights=weights, method=method)
    with monkeypatch.context() as patched:
        patched.setattr(RandomTerms, "take", None)  # no design is made
        found = fit.profile()
    random, sigma, coef = Family.profile_own(fit.model.family, fit.responses, np.arange(3), CUT)
    ends = np.isin(random, [0, -1, 1])
    assert ends.any()
    np.testing.assert_array_equal(found.random[ends], random[ends])
    np.testing.assert_allclose(found.random, random, rtol=1e-5)
    np.testing.assert_allclose(found.sigma, sigma, rtol=1e-5)
    np.testing.assert_allclose(found.coef, coef, rtol=1e-5)


def test_what_is_not_for_sums_has_a_design_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "FEW_CALLS", 10**6)
    X, terms = design(NESTED)
    Y = responses(X, terms)[:, :2]
    weights = np.ones(Y.shape)
    weights[0, 1] = 1e-13
    family, data, made = jaxlmm.prepare(X, random=terms).family, WeightedMatrix(Y, weights), []
    take = RandomTerms.take
    monkeypatch.setattr(RandomTerms, "take", lambda self, *rows: made.append(rows) or take(self, *rows))
    found = family.profile_incomplete(data, np.arange(2), CUT)
    assert len(made) == 1
    for ours, theirs in zip(found, Family.profile_own(family, data, np.arange(2), CUT), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
