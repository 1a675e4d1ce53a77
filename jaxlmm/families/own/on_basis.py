"""Sums over groups of responses with rows or weights of their own, taken to the complete design's basis.

In the symbols of ``crosslik``, from weighted sums of each group: N_g, those of the columns that vary within it,
of their products and of y. Within groups y is fitted by these columns, which leaves ``rest``; then the group means of
what is left by the others, which leaves e. Where ``rest`` is much smaller than the squares of y, the sums of the
residuals themselves (``Again``) are fitted once more.

Responses are the last axis of what goes in, as ``sums`` has them, and the first of what comes out, as ``crosslik``
takes it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.engine.blocks import in_parts
from jaxlmm.families.entries import once
from jaxlmm.families.own.quick import LOSS
from jaxlmm.families.own.sweeps import apply, diagonal, inverse, unpacked
from jaxlmm.runtime import programs
from jaxlmm.runtime.batches import on_gpu

__all__ = ["Again", "OnBasis", "Sums", "on_basis"]

# The shared basis serves a response if every pivot of its cross-products is at least this part of a column's
# square: three digits are lost at most, and the tolerances of a design's checks are far away.
MIN_PIVOT = 1e-3
# So many responses are computed together on a CPU: what they need stays in its cache. Blocks are multiples of it.
AT_ONCE = 64


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """Of c responses, whose weights are to be divided by ``unit`` (c,); see ``sums.Panel``.

    ``N`` and ``by_group`` (G, c), ``columns`` (pw, G, c), ``pairs`` (pw (pw + 1) / 2, c), ``onto`` (pw, c),
    ``squares`` (c,); ``q_mean`` (G, p) are the group means of the basis on the complete design. Groups and columns
    beyond those of the design, which has ``p`` columns, are 0.
    """

    N: jax.Array
    columns: jax.Array
    pairs: jax.Array
    by_group: jax.Array
    onto: jax.Array
    squares: jax.Array
    unit: jax.Array
    q_mean: jax.Array
    p: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Again:
    """``by_group``, ``onto`` and ``squares`` of the residuals of the responses ``where`` (c,), 0 elsewhere."""

    by_group: jax.Array
    onto: jax.Array
    squares: jax.Array
    where: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OnBasis:
    """Of c responses: N, e (c, G), b (c, p, G), W (c, p, p) and ``rest`` (c,) of ``crosslik``; W is 1 on its diagonal
    where a column is none of the design's.

    Attributes
    ----------
    base : (c, p)
        Coefficients, 0 for columns that are none of the design's, that e and ``rest`` are residuals of.
    good : bool, (c,)
        Whether the basis is good enough.
    close : bool, (c,)
        Whether the residuals' own sums are needed: those of y less ``level`` (c, G) and the columns times ``first``
        (c, pw).
    explained : (c,)
        The sum of squares of what is fitted beside ``rest``, within a digit.
    """

    N: jax.Array
    b: jax.Array
    e: jax.Array
    W: jax.Array
    rest: jax.Array
    base: jax.Array
    good: jax.Array
    close: jax.Array
    explained: jax.Array
    level: jax.Array
    first: jax.Array


def on_basis(sums: Sums, again: Again | None, n: int) -> OnBasis:
    """See the module's docstring; of the first n responses, or more."""
    found: OnBasis = _on_basis(sums, again, np.asarray(n), at_once=len(sums.unit) if on_gpu() else AT_ONCE)
    return found


@functools.partial(
    programs.jit, alone=False, keep=True, responses=lambda sums, *_, **__: len(sums.unit), static_argnames="at_once"
)
def _on_basis(sums: Sums, again: Again | None, n: jax.Array, *, at_once: int) -> OnBasis:
    width = len(sums.unit)
    if at_once >= width:
        return _part(sums, again)

    def part(start: jax.Array) -> OnBasis:
        def some(a: jax.Array) -> jax.Array:
            return a if a is sums.q_mean or a is sums.p else jax.lax.dynamic_slice_in_dim(a, start, at_once, axis=-1)

        return _part(*jax.tree.map(some, (sums, again)))

    return in_parts(part, n, width, at_once, axis=0)


def _part(sums: Sums, again: Again | None) -> OnBasis:
    """Of responses that are computed together."""
    pw, (G, p), unit = len(sums.columns), sums.q_mean.shape, sums.unit
    q_mean, N, squares = sums.q_mean.T[:, :, None], sums.N / unit, sums.squares / unit
    safe = jnp.where(sums.N > 0, sums.N, 1.0)
    # Once: XLA would make them again for each sum that they are in.
    x_mean, y_mean = once((sums.columns / safe, sums.by_group / safe))
    before = unpacked(sums.pairs / unit, pw)
    W = before - _products(sums.columns / unit, x_mean)
    inverse_W, least = _inverse(W)
    good = (least > MIN_PIVOT) & jnp.all(diagonal(W) > MIN_PIVOT * jnp.maximum(diagonal(before), 1.0), axis=0)
    eye = np.eye(pw)[:, :, None]
    W, inverse_W = jnp.where(good, W, eye), jnp.where(good, inverse_W, eye)

    first = apply(inverse_W, (sums.onto - jnp.sum(sums.columns * y_mean, axis=1)) / unit)
    explained = jnp.sum(N * y_mean**2, axis=0) + jnp.sum(first * apply(W, first), axis=0)
    level = y_mean - jnp.sum(x_mean * first[:, None], axis=0)
    rest, within, own = squares - explained, first, x_mean + q_mean[:pw]
    e = level - jnp.sum(q_mean[:pw] * first[:, None], axis=0)
    if again is not None:
        left_mean = again.by_group / safe
        left = (again.onto - jnp.sum(sums.columns * left_mean, axis=1)) / unit
        twice = jnp.where(again.where, apply(inverse_W, left), 0.0)
        less = again.squares / unit - jnp.sum(N * left_mean**2, axis=0) - jnp.sum(left * twice, axis=0)
        rest, within = jnp.where(again.where, less, rest), first + twice
        e = e + left_mean - jnp.sum(own * twice[:, None], axis=0)

    root = jnp.sqrt(N)
    means = jnp.broadcast_to(q_mean[pw:], (p - pw, G, len(unit)))
    b, e = once((root * jnp.concatenate([own, means]), root * e))
    absent = (np.eye(p) * (np.arange(p) >= sums.p))[:, :, None]
    gram = _products(b, b) + absent
    good &= _inverse(gram + _padded(W, p))[1] > MIN_PIVOT
    good &= jnp.all(diagonal(gram)[pw:] > MIN_PIVOT, axis=0)
    onto = jnp.sum(b[pw:] * e, axis=1)
    between = jnp.where(good, apply(_inverse(gram[pw:, pw:])[0], onto), onto)
    e = e - jnp.sum(b[pw:] * between[:, None], axis=0)
    close = ~((squares - explained) * LOSS > squares)
    return OnBasis(
        N.T, jnp.transpose(b, (2, 0, 1)), e.T, jnp.moveaxis(_padded(W, p) + absent, 2, 0),
        jnp.maximum(rest, 0.0), jnp.concatenate([within, between]).T, good, close,
        explained, level.T, first.T,
    )  # fmt: skip


def _products(A: jax.Array, B: jax.Array) -> jax.Array:
    """Products over groups (p, p, c) of A and B (p, G, c)."""

    def add(g: jax.Array, total: jax.Array) -> jax.Array:
        return total + A[:, None, g] * B[None, :, g]

    nothing: Any = np.zeros((len(A), *B.shape[::2]))
    return jax.lax.fori_loop(0, A.shape[1], add, nothing) if A.shape[1] else nothing


def _padded(M: jax.Array, p: int) -> jax.Array:
    """M (i, i, c) with rows and columns of 0 after its own."""
    return jnp.pad(M, ((0, p - len(M)), (0, p - len(M)), (0, 0)))


def _inverse(M: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Inverses of M (p, p, c), and the least pivots (c,) at a diagonal of 1; NaN where there are none."""
    scale = 1 / jnp.sqrt(diagonal(M))
    scale = scale * scale[:, None]
    found, pivots = inverse(M * scale)
    return found * scale, jnp.min(pivots, axis=0, initial=jnp.inf)
