"""The proof that a minimum is the lowest: its bounds hold, and what it lets through is nothing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from global_optimum import KINDS, Search, campaign, draw

import jaxlmm
from jaxlmm import Status
from jaxlmm._types import float64_scope
from jaxlmm.families.intercept.minimum import Responses, make_nodes, minimise
from jaxlmm.families.intercept.objective import Terms
from jaxlmm.optimize import certificate
from jaxlmm.optimize.certificate import Shape, interval_bounds, is_alone, safe_step
from jaxlmm.optimize.search import first_minimum, make_grid
from jaxlmm.runtime import programs

LOWEST = jax.jit(minimise)


@jax.jit
def first(terms: Terms, u2: jax.Array, rest: jax.Array, grid: jax.Array) -> Any:
    """What grid and Newton steps find, and whether that is not proved to be the lowest; and its shape."""
    problem = Responses(terms, u2, rest)
    found, undecided = first_minimum(problem, make_nodes(terms, u2, rest, grid))
    return found, undecided, Shape.of(found, problem)


@jax.jit
def step_from(terms: Terms, u2: jax.Array, rest: jax.Array, t: jax.Array, gap: jax.Array) -> jax.Array:
    problem = Responses(terms, u2, rest)
    return safe_step(Shape.of(problem.evaluate(t), problem), gap)


def deviances(t: np.ndarray, terms: Terms, u2: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """At t (..., c) of each response."""
    r = 1 / (1 + (np.expm1(t) / terms.d_max)[..., None] * terms.d)
    return terms.nu * np.log(np.einsum("...j,...j->...", r, u2.T) + rest) - np.log(r) @ terms.m


@pytest.mark.parametrize("kind", KINDS)
def test_no_minimum_is_missed(kind: str) -> None:
    found = campaign(kind, 7_000, seed=1)
    assert found["missed"] == 0 and found["not converged"] == 0
    assert found["several"] > 5  # else it would test nothing


def test_without_its_last_step_minima_are_missed() -> None:
    """The campaign sees what it is there for: grid and Newton steps alone miss some."""
    rng, missed = np.random.default_rng(0), 0
    with float64_scope():
        for _ in range(8):
            terms, u2, rest = draw("built", rng)
            given = terms, u2, rest, make_grid(np.asarray(terms.d))
            alone, undecided, _ = first(*given)
            best = np.asarray(LOWEST(*given).deviance)
            lost = np.asarray(alone.deviance) - best > 1e-7
            missed += lost.sum()
            assert not (lost & ~np.asarray(undecided)).any()
    assert missed > 0


def test_one_program_and_two_give_the_same() -> None:
    """The whole search, as profiles and GPUs have it, and the first proof followed by what settles the rest."""
    search, whole, undecided = Search(), programs.jit(minimise), 0
    for kind in KINDS:
        terms, u2, rest = draw(kind, np.random.default_rng(11))
        grid = make_grid(np.asarray(terms.d))
        with float64_scope():
            deviance, converged, left = search(terms, u2, rest, grid)
            expected = whole(terms, u2, rest, grid)
        assert converged.all() and np.asarray(expected.converged).all()
        np.testing.assert_allclose(deviance, expected.deviance, rtol=1e-13, atol=1e-12)
        undecided += left.sum()
    assert undecided > 10


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_interval_bounds_lie_below_the_deviance(kind: str, seed: int) -> None:
    terms, u2, rest = draw(kind, np.random.default_rng(seed), 64)
    grid = make_grid(np.asarray(terms.d))
    if seed % 2:  # also intervals of another length
        grid = np.sort(np.random.default_rng(seed).uniform(0, grid[-7] + 8, 12))
    with float64_scope():
        bound, opened = map(np.asarray, interval_bounds(make_nodes(terms, u2, rest, jnp.asarray(grid)), terms.nu))
    inside = grid[:-1] + np.linspace(0, 1, 201)[:, None] * np.diff(grid)
    lowest = np.stack([deviances(x[:, None], terms, u2, rest).min(axis=0) for x in inside.T])
    assert (bound <= lowest + 1e-11 * np.abs(lowest) + 1e-11).all()
    assert opened.any() and not opened.all()


@pytest.mark.parametrize("beta", [1, 2])
def test_bounds_of_the_means(beta: int) -> None:
    """For any weights that change by -beta q of themselves: |mu'| <= ..., |mu''| <= beta^2 mu (1 - mu)."""
    rng = np.random.default_rng(beta)
    q = rng.beta(rng.uniform(0.05, 2, (20_000, 1)), rng.uniform(0.05, 2, (20_000, 1)), (20_000, 5))
    q = np.where(rng.uniform(size=q.shape) < 0.2, np.round(q), q)
    w = rng.dirichlet(np.full(5, 0.4), 20_000)
    mean = np.sum(w * q, axis=1)
    x = q - mean[:, None]
    V, third, size = np.sum(w * x**2, axis=1), np.sum(w * x**3, axis=1), mean * (1 - mean)
    first = size - (1 + beta) * V
    second = (1 - 2 * mean) * (size - 3 * (1 + beta) * V) + (1 + beta) * (2 + beta) * third
    assert (first <= size + 1e-12).all() and (first >= -beta * size - 1e-12).all()
    assert (np.abs(second) <= beta**2 * size + 1e-12).all()
    if beta == 1:
        assert (second >= -size * (1 + mean) / 2 - 1e-12).all() and second.min() < -0.9 * certificate.MOST_A
        assert (second >= -certificate.MOST_A).all()
    else:
        y = 1 - mean
        assert (second <= 0.6875 * y + 0.75 * y**2 - 1.25 * y**3 + 1e-12).all()
        assert (second <= certificate.MOST_B).all() and second.max() > 0.9 * certificate.MOST_B
    # The formulas are those of means over exponentially changing weights.
    h = 1e-4

    def at(t: float) -> np.ndarray:
        odds = q * np.exp(t) / (1 - q + q * np.exp(t))
        weights = w * np.exp(t) * (1 - q + q * np.exp(t)) ** -float(beta)  # d log = 1 - beta q
        return np.sum(weights * odds, axis=1) / np.sum(weights, axis=1)

    np.testing.assert_allclose((at(h) - at(-h)) / (2 * h), first, atol=1e-6)
    np.testing.assert_allclose((at(h) - 2 * at(0.0) + at(-h)) / h**2, second, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_a_minimum_is_alone_where_it_is_said(kind: str, seed: int) -> None:
    terms, u2, rest = draw(kind, np.random.default_rng([9, seed]), 256)
    with float64_scope():
        found, _, shape = first(terms, u2, rest, make_grid(np.asarray(terms.d)))
        t = np.asarray(found.t)
        reach = np.zeros_like(t)
        for r in np.linspace(0.05, 4, 80):
            reach = np.where(np.asarray(is_alone(shape, r, t == 0)), np.maximum(reach, r), reach)
    x = t + np.linspace(-1, 1, 801)[:, None] * reach
    value = deviances(np.maximum(x, 0.0), terms, u2, rest)
    other = (value[1:-1] < value[:-2] - 1e-10) & (value[1:-1] < value[2:] - 1e-10) & (np.abs(x[1:-1] - t) > 0.02)
    assert not other.any()
    assert (value >= np.asarray(found.deviance) - 1e-9).all()
    assert (reach > 0.3).mean() > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_the_sweep_pass_over_nothing(kind: str) -> None:
    """Over a step there is one minimum at most, or none that is more than ``gap`` below its start."""
    rng = np.random.default_rng(5)
    for _ in range(6):
        terms, u2, rest = draw(kind, rng, 256)
        t, gap = rng.uniform(0, np.log(terms.d_max) + 4, 256), 10.0 ** rng.uniform(-6, 2, 256)
        with float64_scope():
            step = np.asarray(step_from(terms, u2, rest, t, gap))
        x = t + np.linspace(0, 1, 2001)[:, None] * np.minimum(step, 30)
        value = deviances(x, terms, u2, rest)
        noise = 1e-11 * (1 + np.abs(value[0]))
        minima = ((value[1:-1] < value[:-2] - noise) & (value[1:-1] < value[2:] - noise)).sum(axis=0)
        low = value[0] - value.min(axis=0) > gap + certificate.TOLERANCE + noise
        rises_again = value.argmin(axis=0) < 2000
        assert (step > 0).all()
        # A minimum inside that is too low must be the only one, and the step must end behind it, rising.
        assert not ((minima > 1) & low).any()
        assert not (low & rises_again & (value[-1] < value[-2] - noise)).any()


def two_sizes(m1: int, m2: int, S: float, pairs: int, b2: float, c2: float) -> tuple[np.ndarray, ...]:
    """Groups of one row of weight 1, and of one or two rows of weight S in sum: minima far apart."""

    def contrast(m: int) -> np.ndarray:
        v = np.where(np.arange(m) < m // 2, -1.0, 1.0)
        v[m - m % 2 :] = 0.0
        return v / np.sqrt((v**2).sum())

    y, g, w = list(contrast(m1)), list(range(m1)), [1.0] * m1
    for k, v in enumerate(contrast(m2) * np.sqrt(b2 / S)):
        shift = np.sqrt(c2 / (S * pairs))
        y += [v + shift, v - shift] if k < pairs else [v]
        g += [m1 + k] * (1 + (k < pairs))
        w += [S / 2, S / 2] if k < pairs else [S]
    return np.array(y), np.array(g), np.array(w)


CASES = [
    (36, 8, 437.0, 7, 0.0486, 7.8e-5), (4, 17, 25.0, 9, 0.0902, 5.10e-4),
    (35, 11, 524.0, 9, 0.245, 1.16e-4), (37, 17, 24.2, 8, 0.1339, 1.64e-4),
]  # fmt: skip


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("case", CASES)
def test_far_minimum_of_a_fit(case: tuple, method: str) -> None:
    """Complete, and as a response with a missing row of its own: both find what a scan finds."""
    y, g, w = two_sizes(*case)
    lam = np.concatenate([[0.0], np.exp(np.linspace(-15, 20, 40_001))])[:, None]
    N = np.bincount(g, w)
    mean = np.bincount(g, w * y) / N
    v = N / (1 + lam * N)
    s = np.sum(w * (y - mean[g]) ** 2) + np.sum(v * (mean - (v @ mean / v.sum(axis=1))[:, None]) ** 2, axis=1)
    nu, logdet = len(y), np.log1p(lam * N).sum(axis=1) - np.log(w).sum()
    if method == "REML":
        nu, logdet = nu - 1, logdet + np.log(v.sum(axis=1))
    values = -0.5 * (nu * (1 + np.log(2 * np.pi * s / nu)) + logdet)
    loglik, expected = values.max(), Status.SINGULAR if values.argmax() == 0 else Status.OK
    # With more rows at the end, missing in this response, each response has a design of its own.
    more = np.array([0, 1, 2, len(N) - 1])
    Y = np.full((len(y) + 4, 3), np.nan)
    Y[: len(y)] = y[:, None]
    Y[len(y) :, 1] = [0.1, 0.2, 0.1, -0.1]
    Y[[3, 5], [1, 2]] = np.nan
    G, W = np.concatenate([g, more]), np.concatenate([w, np.ones(4)])
    whole = jaxlmm.fit(np.ones((len(y), 1)), y, g, weights=w, method=method)
    part = jaxlmm.fit(np.ones((len(G), 1)), Y, G, weights=W, method=method)
    for found in (whole, part):
        assert found.status[0] == expected and found.loglik[0] >= loglik - 1e-9
        np.testing.assert_allclose(found.loglik[0], loglik, atol=1e-6)


def test_incomplete_responses_by_their_own_likelihood() -> None:
    """The likelihood from cross-products, at the case's own minima: as many as the spectrum's."""
    rng = np.random.default_rng(3)
    y, g, w = two_sizes(*CASES[0])
    for b2 in rng.uniform(0.04, 0.06, 12):
        y, g, w = two_sizes(36, 8, 437.0, 7, b2, 7.8e-5)
        Y = np.concatenate([y, rng.standard_normal(3)])[:, None].repeat(3, axis=1)
        G, W = np.concatenate([g, [0, 1, 2]]), np.concatenate([w, np.ones(3)])
        Y[-3:, 0] = np.nan
        Y[[-3, 1], 1] = np.nan
        Y[[-2, 2, 4], 2] = np.nan
        part = jaxlmm.fit(np.ones((len(G), 1)), Y, G, weights=W)
        for i in range(3):
            kept = ~np.isnan(Y[:, i])
            whole = jaxlmm.fit(np.ones((kept.sum(), 1)), Y[kept, i], G[kept], weights=W[kept])
            np.testing.assert_allclose(part.loglik[i], whole.loglik[0], atol=1e-8)
            assert part.status[i] == whole.status[0]


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("rest", [1e-10, 1e-16, 1e-22, 1e-28, 1e-34])
def test_ratios_of_any_size(rest: float, method: str) -> None:
    """Balanced groups, where the optimum has a closed form, at variance ratios up to 1e34 and more."""
    rng = np.random.default_rng(0)
    n_groups, n_each = 8, 5
    d, m = np.zeros(8), np.zeros(8)
    d[0], m[0] = n_each, n_groups
    u2 = np.zeros((8, 4))
    u2[0] = rng.uniform(1, 5, 4)
    nu = n_groups * n_each
    with float64_scope():
        terms = Terms(d, m, np.float64(nu), np.float64(n_each), 8, 0, 0)  # type: ignore[arg-type]
        found = LOWEST(terms, u2, np.full(4, rest), make_grid(d))
    lam = ((u2[0] / n_groups) / (rest / (nu - n_groups)) - 1) / n_each
    assert np.asarray(found.converged).all()
    np.testing.assert_allclose(found.lam, lam, rtol=1e-9)


@pytest.mark.parametrize("offset", [2.0**20, 2.0**30, 2.0**36, 2.0**40])
def test_large_offset_without_an_intercept(offset: float) -> None:
    """The offset is group variance then; sigma2 is that of the same y without the offset, at infinite lam."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(8), 5)
    x = np.round(rng.standard_normal(40), 2)[:, None]
    e = np.round(rng.standard_normal(40) * 2**10) / 2**10  # exact beside the offset
    Y = np.stack([offset + e, offset + e, e + offset / 8 * (1 + g)], axis=1)
    Y[7, 1] = np.nan
    found = jaxlmm.fit(x, Y, g)
    assert (found.status == Status.OK).all()
    within, x_within = (a - np.array([a[g == k].mean(axis=0) for k in range(8)])[g] for a in (e, x[:, 0]))
    slope = within @ x_within / (x_within @ x_within)
    rss = np.sum((within - slope * x_within) ** 2)
    # As lam goes to infinity sigma2 is the within-group residual variance.
    np.testing.assert_allclose(found.sigma2[[0, 2]], rss / (40 - 8 - 1), rtol=1e-5)
    np.testing.assert_allclose(found.coef[[0, 2], 0], slope, rtol=1e-4, atol=1e-4)
    assert (found.lam > 0.01 * offset**2).all()
    kept = np.arange(40) != 7
    dropped = jaxlmm.fit(x[kept], Y[kept, 1], g[kept])
    # A row of its own costs digits at a ratio of 1e24.
    np.testing.assert_allclose(found.lam[1], dropped.lam[0], rtol=1e-5 if offset < 2.0**40 else 1e-4)


def test_a_minimum_met_again_stays_the_same() -> None:
    """Two groups far apart: the sweep meets the minimum from another side, where its gradient is less well known."""
    rng = np.random.default_rng(3)
    codes = np.arange(20) % 2
    Y = rng.normal(size=(20, 600)) + rng.normal(size=(2, 600))[codes] * 10.0 ** rng.uniform(3, 6, 600)
    fit = jaxlmm.fit(np.ones((20, 1)), Y, codes)
    assert fit.converged.all() and (fit.lam > 1e9).sum() > 100
