"""What the search of responses with rows or weights of their own goes by, against the residuals' own squares."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

import jaxlmm
from jaxlmm._types import float64_scope
from jaxlmm.engine.blocks import SETTLED_WIDTHS
from jaxlmm.families.own import crosslik, quick, sweeps
from jaxlmm.families.own.crosslik import CrossProducts

GRID = np.array([0.0, 0.5, 2.0, 6.0, 20.0, 120.0])


def cross_products(p: int, c: int = 6, n_groups: int = 8, *, reml: bool = True) -> CrossProducts:
    """Of random designs, whose last column has nothing within groups; one group of each has no observation."""
    rng = np.random.default_rng(p)
    N = rng.integers(1, 12, size=(c, n_groups)).astype(float)
    N[np.arange(c), rng.integers(0, n_groups, size=c)] = 0.0
    b = rng.normal(size=(c, p, n_groups)) * np.sqrt(N)[:, None]
    within = rng.normal(size=(c, p, 30))
    within[:, -1:] = 0.0
    W = within @ np.swapaxes(within, 1, 2)
    rows = np.broadcast_to(np.eye(p), (c, p, p)).copy()
    e = rng.normal(size=(c, n_groups)) * np.sqrt(N)
    parts = N, b, e, W, rows, rng.gamma(5.0, size=c), np.full(c, 40.0), np.asarray(reml), np.asarray(12.0)
    return CrossProducts(*parts)  # type: ignore[arg-type]


def problems(data: CrossProducts) -> tuple[Any, Any]:
    """The same responses, by residuals and by sums alone."""
    data = jax.tree.map(jax.numpy.asarray, data)
    return tuple(crosslik._Responses.of(data, exact=exact) for exact in (True, False))  # type: ignore[return-value]


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("p", [1, 3, 8])
def test_both_ways_give_the_same_likelihood(p: int, reml: bool) -> None:
    with float64_scope():
        exact, fast = problems(cross_products(p, reml=reml))
        assert exact.exact and not fast.exact
        lams = np.expm1(GRID) / 12.0
        (s, logdet, _), (s_fast, logdet_fast, lossy) = exact.on_grid(lams), fast.on_grid(lams)
        np.testing.assert_allclose(s_fast, s, rtol=1e-11)
        np.testing.assert_allclose(logdet_fast, logdet, rtol=1e-11)
        assert not np.any(lossy)
        for lam in (0.0, 0.3, 40.0):
            shared = np.full(6, lam)
            for one, other in zip(fast.derivatives(shared), exact.derivatives(shared), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_more_columns_than_are_written_out_go_by_residuals() -> None:
    with float64_scope():
        assert problems(cross_products(sweeps.UNROLLED + 1))[1].exact


def test_where_squares_would_cancel_the_search_goes_by_residuals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A covariate whose effects within and between groups differ, and nearly nothing else: that response alone."""
    data = cross_products(2)
    data.b[0, 0] *= 1e4
    data.e[0] = np.array([1e4, 0.0]) @ data.b[0] + 1e-3 * data.e[0]
    data.rest[0] = 1e-6
    asked = []
    first_block = crosslik._first_block

    def watch(*args: Any, exact: bool, **options: Any) -> Any:
        asked.append((exact, len(args[0].nu)))
        return first_block(*args, exact=exact, **options)

    monkeypatch.setattr(crosslik, "_first_block", watch)
    with float64_scope():
        found, _ = crosslik.first_cross(data, GRID)
        assert asked == [(False, 6), (True, SETTLED_WIDTHS[0])]
        six = np.asarray(6)
        direct, _, lossy = first_block(data, GRID, six, at_once=None, exact=True)
        assert not np.any(lossy)
        quickly, _, lossy = first_block(data, GRID, six, at_once=None, exact=False)
        np.testing.assert_array_equal(lossy, [True] + 5 * [False])
        for field in dataclasses.fields(direct):
            one, exact, fast = (getattr(fit, field.name) for fit in (found, direct, quickly))
            np.testing.assert_allclose(one[..., 0], exact[..., 0], rtol=1e-9, atol=1e-300, err_msg=field.name)
            np.testing.assert_array_equal(one[..., 1:], fast[..., 1:])
        asked.clear()
        others = CrossProducts(*(getattr(data, name)[1:] for name in crosslik.EACH), data.reml, data.d_max)
        crosslik.first_cross(others, GRID)
        assert asked == [(False, 5)]


def test_the_whole_over_what_is_left_tells_what_is_lost() -> None:
    """Sums of squares before and after a fit of one column, by hand."""
    A = np.array([4.0, 6.0, 10.0])[:, None, None]  # b'b, e'b, e'e
    with float64_scope():
        s, logdet, whole = quick.at_nodes(A, np.full((1, 1, 1, 1), 2.0), np.array([[1.0]]))
    np.testing.assert_allclose([s[0, 0], logdet[0, 0], whole[0, 0]], [1 + 10 - 36 / 6, np.log(6), 11], rtol=1e-15)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_covariate_with_another_effect_between_groups_than_within(weighted: bool) -> None:
    """Fits of such data, to all digits, as those of each response alone."""
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(12), 8)
    between = rng.normal(size=12)[groups]
    x = 30 * between + rng.normal(size=96)
    X = np.column_stack([np.ones(96), x])
    Y = (2 * x + 500 * between)[:, None] + 1e-4 * rng.normal(size=(96, 9))
    W = rng.gamma(3.0, size=Y.shape) if weighted else None
    Y[rng.random(Y.shape) < 0.1] = np.nan
    fit = jaxlmm.fit(X, Y, groups, weights=W)
    for j in range(9):
        there = ~np.isnan(Y[:, j])
        alone = jaxlmm.fit(X[there], Y[there, j], groups[there], weights=None if W is None else W[there, j])
        for name in ("coef", "se", "sigma2", "loglik", "theta"):
            np.testing.assert_allclose(
                np.squeeze(getattr(fit, name)[j]), np.squeeze(getattr(alone, name)[0]), rtol=1e-7
            )
