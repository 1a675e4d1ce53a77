"""Responses with missing observations, or weights, of their own: each is fitted exactly as if alone.

A pattern shared by many responses becomes a design of its own (``fit``). The others go through here, in
blocks: ``families.own`` reduces them in threads while JAX fits the block before.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm._types import float64_scope
from jaxlmm.engine.finish import Found, Scaling, empty_results, finish
from jaxlmm.families.own import crosslik
from jaxlmm.families.own.crosslik import CrossFit, CrossProducts, cross_curves, first_cross_block, settle_cross
from jaxlmm.families.own.reduce import OwnDesign, OwnStats, reduce_own
from jaxlmm.optimize.search import make_grid
from jaxlmm.runtime.threads import N_THREADS, single_threaded_blas
from jaxlmm.sources.weighted import WeightedMatrix

__all__ = [
    "Matrix", "block_width", "cross_matrices", "cross_modes", "fit_incomplete", "grid", "own_blocks", "padded_shape",
    "to_jax",
]  # fmt: skip

# Blocks are padded up to one of these, or to the last whose statistics take BLOCK_BYTES at most.
WIDTHS = (8, 64, 512)
BLOCK_BYTES = 64 * 2**20
# The lightest group of a response with weights of its own that the grid is made for, where the heaviest weighs as
# much as the largest group of the complete design.
LIGHTEST = 0.25
# Responses, or responses with weights.
Matrix = np.ndarray | WeightedMatrix


def fit_incomplete(design: OwnDesign, Y: Matrix, where: np.ndarray, reml: bool) -> dict[str, np.ndarray]:
    """Fit the m columns ``where`` of Y (n_obs, any) to the rows where they are not NaN, with their weights.

    Returns
    -------
    dict
        The arrays of ``Fit``, one row per response.
    """
    m, p = len(where), design.n_fixef
    out = empty_results(m, p, int(design.n_groups > 0))
    with float64_scope():
        points = grid(design, weighted=isinstance(Y, WeightedMatrix))
    waiting: collections.deque[tuple[slice, OwnStats, CrossProducts, tuple[CrossFit, jax.Array]]] = (
        collections.deque()
    )

    def store_first() -> None:
        cols, stats, data, raw = waiting.popleft()
        with float64_scope():
            found = settle_cross(data, points, *raw)
        _store(design, reml, out, cols, stats, found)

    for cols, stats, data in own_blocks(design, Y, where, reml):
        with float64_scope():
            waiting.append((cols, stats, data, first_cross_block(data, points)))
        # JAX works on this block while the one before is stored.
        if len(waiting) > 1:
            store_first()
    while waiting:
        store_first()
    return out


def _store(
    design: OwnDesign, reml: bool, out: dict[str, np.ndarray], cols: slice, stats: OwnStats, raw: CrossFit
) -> None:
    """Results in the user's units."""
    c, p = cols.stop - cols.start, design.n_fixef
    found = jax.tree.map(lambda a: np.asarray(a)[:c], raw)
    nu = np.maximum(stats.n_used - p if reml else stats.n_used, 1)
    constant = found.total <= stats.noise
    exact = (stats.rest <= stats.noise) & ~constant
    scaling = Scaling(stats.shift, stats.scale, stats.finite, constant, exact, stats.too_few)
    with np.errstate(all="ignore"):
        coef = np.einsum("cij,cj->ci", stats.unit, stats.base + found.delta[:, :p])
        coef += stats.start - np.einsum("cij,cj->ci", stats.centring, coef)
        rows = stats.unit - stats.centring @ stats.unit
        variance = np.sum((rows @ found.C[:, :p, :p]) * rows, axis=2)
    k, unit = int(design.n_groups > 0), stats.unit_w
    # sigma2 is of a weight of 1 as given.
    at = Found(
        np.sqrt(found.lam / unit)[None][:k], found.pwrss * unit, found.deviance,
        (found.hessian * unit)[None, None][:k, :k], found.converged, (found.lam == 0) & bool(k), coef,
        variance / unit[:, None],
    )  # fmt: skip
    logdet = (stats.logdet if reml else 0.0) - stats.log_w
    finish(out, cols, at, scaling, intercept=stats.constant, nu=nu, logdet=logdet)
    out["n_used"][cols] = stats.n_used


def cross_matrices(
    design: OwnDesign, Y: Matrix, where: np.ndarray, lam: np.ndarray, reml: bool
) -> tuple[np.ndarray, ...]:
    """C, C', K (m, p, p) and T1, T2 (m,) of columns ``where``, fitted with ``lam`` (m,).

    Then ``centring`` and ``unit`` (m, p, p) as in ``OwnStats``: the matrices are those of each response's own basis.
    """
    m, p = len(where), design.n_fixef
    matrices, numbers = np.full((5, m, p, p), np.nan), np.full((2, m), np.nan)
    for cols, stats, data in own_blocks(design, Y, where, reml):
        unit = stats.unit_w
        with float64_scope():
            found = [np.asarray(a)[: len(unit)] for a in cross_curves(data, _padded_lam(data, lam[cols] * unit))]
        # Of the variance ratio of the weights as given.
        C, C1, K = (a[:, :p, :p] * (unit**power)[:, None, None] for a, power in zip(found, (-1, 0, 1), strict=False))
        matrices[:, cols] = C, C1, K, stats.centring, stats.unit
        numbers[:, cols] = found[3] * unit, found[4] * unit**2
    return (*matrices[:3], *numbers, *matrices[3:])


def cross_modes(
    design: OwnDesign, Y: Matrix, where: np.ndarray, lam: np.ndarray, reml: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Conditional modes of the group intercepts and the groups' sizes (m, G); 0 and 0 without an observation."""
    modes = np.empty((len(where), design.n_groups))
    sizes = np.empty_like(modes)
    for cols, stats, data in own_blocks(design, Y, where, reml):
        with float64_scope():
            found = np.asarray(crosslik.cross_modes(data, _padded_lam(data, lam[cols] * stats.unit_w)))
        modes[cols] = found[: len(stats.rest), : design.n_groups] * stats.scale[:, None]
        sizes[cols] = stats.N * stats.unit_w[:, None]
    return modes, sizes


def grid(design: OwnDesign, *, weighted: bool = False) -> jax.Array:
    """Where the deviance is looked at first, also of responses with weights of their own; in a float64 scope."""
    sizes = design.reducer.projection.sizes
    # One observation of a group may be all that a response has of it.
    smallest = 1.0 if design.weights is None else np.min(design.weights)
    if weighted:
        smallest = LIGHTEST
    return jnp.asarray(make_grid(np.array([smallest, np.max(sizes)]) if len(sizes) else np.ones(1)))


def _padded_lam(data: CrossProducts, lam: np.ndarray) -> jax.Array:
    return jnp.asarray(np.pad(np.nan_to_num(lam), (0, len(data.nu) - len(lam))))


def own_blocks(
    design: OwnDesign, Y: Matrix, where: np.ndarray, reml: bool
) -> Iterator[tuple[slice, OwnStats, CrossProducts]]:
    """Blocks of the columns ``where`` of Y: which, reduced, and as JAX needs them, padded."""
    m, shape, width = len(where), padded_shape(design.n_groups, design.n_fixef), block_width(design, len(where))
    columns = [slice(k, min(k + width, m)) for k in range(0, m, width)]
    with single_threaded_blas(), concurrent.futures.ThreadPoolExecutor(N_THREADS) as pool:
        # Threads reduce the next blocks while JAX computes this one.
        ahead = ((cols, pool.submit(reduce_own, design, Y, where[cols])) for cols in columns)
        jobs = collections.deque(itertools.islice(ahead, N_THREADS + 1))
        while jobs:
            cols, job = jobs.popleft()
            stats = job.result()
            jobs.extend(itertools.islice(ahead, 1))
            yield cols, stats, to_jax(design, stats, width, shape, reml)


def block_width(design: OwnDesign, m: int) -> int:
    """Width of the blocks in which m responses are computed."""
    shape = padded_shape(design.n_groups, design.n_fixef)
    room = BLOCK_BYTES // (24 * (shape[0] + 1) * (shape[1] + 2))
    return next(w for w in WIDTHS if w >= m or w == WIDTHS[-1] or 8 * w > room)


def padded_shape(n_groups: int, n_fixef: int) -> tuple[int, int]:
    """Numbers of groups and columns that stand for these: designs share compiled code."""
    return _padded(n_groups, 8), _padded(n_fixef, 2)


def _padded(n: int, first: int) -> int:
    """n rounded up to 0 or one of 1 to 8, 10, 12, 14, 16, 20, ... times ``first``."""
    unit = first
    while n > 8 * unit:
        unit *= 2
    return -(-n // unit) * unit


def to_jax(design: OwnDesign, stats: OwnStats, width: int, shape: tuple[int, int], reml: bool) -> CrossProducts:
    """A block padded to ``width`` responses of ``shape`` (groups, columns), harmless where a response is bad."""
    (c, G), p = stats.N.shape, stats.b.shape[2]
    good = stats.finite & ~stats.too_few
    N, b, e = np.zeros((width, shape[0])), np.zeros((width, *shape)), np.zeros((width, shape[0]))
    N[:c, :G], b[:c, :G, :p], e[:c, :G] = stats.N, stats.b, stats.e
    W = np.zeros((width, shape[1], shape[1]))
    W[:c, :p, :p] = stats.W
    W[:, range(p, shape[1]), range(p, shape[1])] = 1.0
    rest, nu = np.ones(width), np.ones(width)
    rest[:c], nu[:c] = stats.rest, np.maximum(stats.n_used - p if reml else stats.n_used, 1)
    bad = np.ones(width, dtype=bool)
    bad[:c] = ~good
    N[bad], b[bad], e[bad], W[bad], rest[bad] = 0.0, 0.0, 0.0, np.eye(shape[1]), 1.0
    d_max = np.max(design.reducer.projection.sizes, initial=0.0) or 1.0
    with float64_scope():
        return CrossProducts(*map(jnp.asarray, (N, b, e, W, rest, nu, reml, d_max)))
