"""Responses with missing observations, or weights, of their own: each is fitted exactly as if alone.

A pattern shared by many responses becomes a design of its own (``fit``). The others go through here, in
blocks, which threads reduce and fit side by side.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from jaxlmm._types import float64_scope
from jaxlmm.engine.blocks import SETTLED_WIDTHS, block_width
from jaxlmm.engine.finish import Found, Scaling, empty_results, finish
from jaxlmm.families.known import KnownCurves
from jaxlmm.families.own import crosslik
from jaxlmm.families.own.crosslik import (
    EACH,
    CrossFit,
    CrossProducts,
    cross_curves,
    first_cross,
    settle_cross_block,
    take,
)  # fmt: skip
from jaxlmm.families.own.reduce import OwnDesign, OwnStats, padded_shape, reduce_own, widened
from jaxlmm.optimize.search import make_grid
from jaxlmm.runtime.batches import on_gpu
from jaxlmm.runtime.progress import advance
from jaxlmm.runtime.threads import N_THREADS, single_threaded_blas
from jaxlmm.sources.weighted import WeightedMatrix

__all__ = [
    "Matrix",
    "cross_matrices",
    "cross_modes",
    "fit_incomplete",
    "grid",
    "own_blocks",
    "own_width",
    "to_jax",
]  # fmt: skip

# Blocks are padded up to one of these; those of which all is computed, what pads them too, have at most ``WIDE``
# responses. Threads would wait for each other between many short steps.
WIDTHS = (8, 64, 512, 2048)
WIDE = 512
# Statistics of a block take so much at most.
BLOCK_BYTES = 64 * 2**20
# So many responses go through the likelihood together on a CPU: what they need stays in its cache.
AT_ONCE = 128
# The lightest group of a response with weights of its own that the grid is made for, where the heaviest weighs as
# much as the largest group of the complete design.
LIGHTEST = 0.25
# Responses, or responses with weights.
Matrix = np.ndarray | WeightedMatrix
# Arrays of JAX, of the columns of a block.
Compute = Callable[[slice, OwnStats, CrossProducts], Any]


def fit_incomplete(
    design: OwnDesign, Y: Matrix, where: np.ndarray, reml: bool, known: KnownCurves | None = None
) -> dict[str, np.ndarray]:
    """Fit the m columns ``where`` of Y (n_obs, any) to the rows where they are not NaN, with their weights.

    What tests of their coefficients need goes to ``known``.

    Returns
    -------
    dict
        The arrays of ``Fit``, one row per response.
    """
    m, weighted = len(where), isinstance(Y, WeightedMatrix)
    out = empty_results(m, design.n_fixef, int(design.n_groups > 0))
    few = grid(design, weighted=weighted, few=True)
    results = _Results(design, reml, grid(design, weighted=weighted), out, known)
    at_once = None if on_gpu() else AT_ONCE

    def fit(cols: slice, _: OwnStats, data: CrossProducts) -> tuple[CrossFit, jax.Array]:
        return first_cross(data, few, cols.stop - cols.start, at_once=at_once)

    for cols, stats, data, found in own_blocks(design, Y, where, reml, fit, in_parts=True):
        results.store(cols, stats, data, found)
    results.settle()
    return out


@dataclass
class _Results:
    """Results of all blocks. Responses of which it is undecided that a minimum is the lowest are settled together:
    on a finer grid, by a search that is long to compile, and slow."""

    design: OwnDesign
    reml: bool
    points: np.ndarray
    out: dict[str, np.ndarray]
    known: KnownCurves | None
    undecided: list[tuple[np.ndarray, OwnStats, dict[str, np.ndarray], np.ndarray]] = field(default_factory=list)
    like: CrossProducts | None = None

    def store(self, cols: slice, stats: OwnStats, data: CrossProducts, raw: tuple[CrossFit, jax.Array]) -> None:
        """Those of one block, once they are there."""
        c = cols.stop - cols.start
        found = jax.tree.map(lambda a: np.asarray(a)[..., :c], raw[0])
        _store(self.design, self.reml, self.out, cols, stats, found)
        self._know(np.arange(cols.start, cols.stop), stats, found)
        where = np.flatnonzero(np.asarray(raw[1])[:c])
        if len(where):
            self.like = data
            self.undecided.append((cols.start + where, stats.take(where), take(data, where), found.lam[where]))
            if sum(len(entry[0]) for entry in self.undecided) >= SETTLED_WIDTHS[-1]:
                self.settle()

    def settle(self) -> None:
        """Those of the undecided responses."""
        if not self.undecided:
            return
        assert self.like is not None
        numbers, stats, fields_, lams = zip(*self.undecided, strict=True)
        at, lam, joined = np.concatenate(numbers), np.concatenate(lams), OwnStats.join(list(stats))
        each = {name: np.concatenate([part[name] for part in fields_]) for name in EACH}
        self.undecided = []
        width = block_width(len(at), SETTLED_WIDTHS)
        for start in range(0, len(at), width):
            some = np.arange(start, min(start + width, len(at)))
            index = np.resize(some, width)
            with float64_scope():
                some_of: dict[str, Any] = {name: a[index] for name, a in each.items()}
                data = replace(self.like, **some_of)
                raw = settle_cross_block(data, self.points, lam[index])
            found = jax.tree.map(lambda a: np.asarray(a)[..., : len(some)], raw)  # noqa: B023
            advance(-len(some))  # they were counted before
            part = empty_results(len(some), self.design.n_fixef, int(self.design.n_groups > 0))
            _store(self.design, self.reml, part, slice(0, len(some)), joined.take(some), found)
            for name, value in part.items():
                self.out[name][at[some]] = value
            self._know(at[some], joined.take(some), found)

    def _know(self, at: np.ndarray, stats: OwnStats, found: Any) -> None:
        """Keep what tests need, of the variance ratio of the weights as given."""
        if self.known is None:
            return
        p, k, unit, phi = self.design.n_fixef, self.known.phi.shape[1], stats.unit_w, self.out["theta"][at] ** 2
        with np.errstate(all="ignore"):  # weights of a response without a fit
            first, second = found.first[:p].T[:, None], (found.second[:p] * unit).T[:, None, None]
            l1, l2 = (found.l1 * unit)[:, None], (found.l2 * unit**2)[:, None, None]
        self.known.put(at, KnownCurves(phi, first[:, :k], second[:, :k, :k], l1[:, :k], l2[:, :k, :k]))


def _store(
    design: OwnDesign, reml: bool, out: dict[str, np.ndarray], cols: slice, stats: OwnStats, found: Any
) -> None:
    """Results in the user's units."""
    p = design.n_fixef
    nu = np.maximum(stats.n_used - p if reml else stats.n_used, 1)
    constant = found.total <= stats.noise
    exact = (stats.rest <= stats.noise) & ~constant
    scaling = Scaling(stats.shift, stats.scale, stats.finite, constant, exact, stats.too_few)
    with np.errstate(all="ignore"):
        coef = np.einsum("cij,cj->ci", stats.unit, stats.base + found.delta[:p].T)
        coef += stats.start - np.einsum("cij,cj->ci", stats.centring, coef)
        k, unit = int(design.n_groups > 0), stats.unit_w
        # sigma2 is of a weight of 1 as given.
        at = Found(
            np.sqrt(found.lam / unit)[None][:k], found.pwrss * unit, found.deviance,
            (found.hessian * unit)[None, None][:k, :k], found.converged, (found.lam == 0) & bool(k), coef,
            (found.variance[:p] / unit).T,
        )  # fmt: skip
    logdet = (stats.logdet if reml else 0.0) - stats.log_w
    finish(out, cols, at, scaling, intercept=stats.constant, nu=nu, logdet=logdet)
    out["n_used"][cols] = stats.n_used


def cross_matrices(
    design: OwnDesign, Y: Matrix, where: np.ndarray, lam: np.ndarray, reml: bool
) -> tuple[np.ndarray, ...]:
    """C, C' and C'' (m, p, p) and l', l'' (m,) of columns ``where``, fitted with ``lam`` (m,).

    Then ``centring`` and ``unit`` (m, p, p) as in ``OwnStats``: the matrices are those of each response's own basis.
    """
    m, p = len(where), design.n_fixef
    matrices, numbers = np.full((5, m, p, p), np.nan), np.full((2, m), np.nan)

    def curves(cols: slice, stats: OwnStats, data: CrossProducts) -> tuple[jax.Array, ...]:
        return cross_curves(data, _padded_lam(data, lam[cols] * stats.unit_w))

    for cols, stats, _, raw in own_blocks(design, Y, where, reml, curves):
        unit = stats.unit_w
        found = [a[..., : len(unit)] for a in raw]
        # Of the variance ratio of the weights as given.
        for k in range(3):
            matrices[k, cols] = np.moveaxis(found[k][:p, :p] * unit ** (k - 1), -1, 0)
        matrices[3:, cols] = stats.centring, stats.unit
        numbers[:, cols] = found[3] * unit, found[4] * unit**2
    return (*matrices[:3], *numbers, *matrices[3:])


def cross_modes(
    design: OwnDesign, Y: Matrix, where: np.ndarray, lam: np.ndarray, reml: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Conditional modes of the group intercepts and the groups' sizes (m, G); 0 and 0 without an observation."""
    modes = np.empty((len(where), design.n_groups))
    sizes = np.empty_like(modes)

    def compute(cols: slice, stats: OwnStats, data: CrossProducts) -> jax.Array:
        return crosslik.cross_modes(data, _padded_lam(data, lam[cols] * stats.unit_w))

    for cols, stats, _, found in own_blocks(design, Y, where, reml, compute):
        modes[cols] = found[: len(stats.rest), : design.n_groups] * stats.scale[:, None]
        sizes[cols] = stats.N[:, : design.n_groups] * stats.unit_w[:, None]
    return modes, sizes


def grid(design: OwnDesign, *, weighted: bool = False, few: bool = False) -> np.ndarray:
    """Where the deviance is looked at first, also of responses with weights of their own.

    In numpy, as all that goes to other threads: JAX's arrays belong to the mesh that this thread may be in.
    """
    sizes = design.reducer.projection.sizes
    # One observation of a group may be all that a response has of it.
    smallest = 1.0 if design.weights is None else np.min(design.weights)
    if weighted:
        smallest = LIGHTEST
    return make_grid(np.array([smallest, np.max(sizes)]) if len(sizes) else np.ones(1), few=few)


def _padded_lam(data: CrossProducts, lam: np.ndarray) -> np.ndarray:
    return np.pad(np.nan_to_num(lam), (0, len(data.nu) - len(lam)))


def own_blocks(
    design: OwnDesign, Y: Matrix, where: np.ndarray, reml: bool, compute: Compute, *, in_parts: bool = False
) -> Iterator[tuple[slice, OwnStats, CrossProducts, Any]]:
    """Blocks of the columns ``where`` of Y: which, reduced, as JAX needs them, padded, and what is computed of these,
    in numpy. Each thread reduces and computes blocks of its own.

    All blocks but the last are full. If they are computed ``in_parts``, only as far as there are responses, they are
    wider, and spread evenly over the threads.
    """
    m = len(where)
    width = own_width(design, m, WIDTHS[-1] if in_parts else WIDE)
    ends = _ends(m, width) if in_parts else range(width, m, width)
    parts = [slice(*pair) for pair in itertools.pairwise([0, *ends, m]) if m]
    device: Any = jax.config.jax_default_device  # type: ignore[attr-defined]

    def work(cols: slice) -> tuple[slice, OwnStats, CrossProducts, Any]:
        # JAX knows its device, and its precision, in the thread that was told alone.
        with jax.default_device(device), float64_scope():
            stats = reduce_own(design, Y, where[cols])
            data = to_jax(design, stats, width, reml)
            return cols, stats, data, jax.tree.map(np.asarray, compute(cols, stats, data))

    with single_threaded_blas(), concurrent.futures.ThreadPoolExecutor(N_THREADS) as pool:
        ahead = (pool.submit(work, cols) for cols in parts)
        jobs = collections.deque(itertools.islice(ahead, N_THREADS + 1))
        while jobs:
            found = jobs.popleft().result()
            jobs.extend(itertools.islice(ahead, 1))
            yield found


def _ends(m: int, width: int) -> list[int]:
    """Where blocks of up to ``width`` of m responses end, but for the last: first full ones, as many for each thread,
    then what is left in equal parts."""
    full = m - m % (N_THREADS * width)
    step = min(-(-(m - full) // (N_THREADS * AT_ONCE)) * AT_ONCE, width)
    return [*range(width, full, width), *range(full, m, step or 1)][full == 0 :]


def own_width(design: OwnDesign, m: int, most: int = WIDE) -> int:
    """Width of the blocks, up to ``most``, in which m responses are computed."""
    shape = padded_shape(design.n_groups, design.n_fixef)
    room = max(BLOCK_BYTES // (24 * (shape[0] + 1) * (shape[1] + 2)), WIDTHS[0])
    fitting = [w for w in WIDTHS if w <= min(room, most)]
    # Few responses have a width of their own; otherwise there is one to compile.
    return next((w for w in fitting if m <= w <= AT_ONCE), fitting[-1])


def to_jax(design: OwnDesign, stats: OwnStats, width: int, reml: bool) -> CrossProducts:
    """A block padded to ``width`` responses, harmless where a response is bad."""
    c, p = len(stats.rest), design.n_fixef
    N, b, e = (widened(a, (width, *a.shape[1:])) for a in (stats.N, stats.b, stats.e))
    W, rest, nu = widened(stats.W, (width, *stats.W.shape[1:])), widened(stats.rest, (width,)), np.ones(width)
    rows = widened(stats.unit - stats.centring @ stats.unit, (width, *stats.W.shape[1:]))
    nu[:c] = np.maximum(stats.n_used - p if reml else stats.n_used, 1)
    bad = np.ones(width, dtype=bool)
    bad[:c] = ~stats.finite | stats.too_few
    if bad.any():
        N, b, e, W, rest = (np.where(bad.reshape(-1, *[1] * (a.ndim - 1)), 0.0, a) for a in (N, b, e, W, rest))
        W[bad], rest[bad] = np.eye(W.shape[1]), 1.0
    d_max = np.max(design.reducer.projection.sizes, initial=0.0) or 1.0
    return CrossProducts(N, b, e, W, rows, rest, nu, np.asarray(reml), np.asarray(d_max))  # type: ignore[arg-type]
