"""Responses that each have observations, or weights, of their own, reduced to what ``crosslik`` needs.

All responses of a panel go together, a few rows at a time (``families.own.sums``), as matrix products with their
weights (n_obs, c), 0 where an observation is missing. Weights of a response's own are divided by a power of two, so
that its largest group weighs about as much as the complete design's: their unit is of no matter. X is replaced by the
``SplitBasis`` of the complete design. y is left with the residuals of its own regression within groups. Where these
are much smaller than y they are formed, in a second pass, before anything is squared, and fitted again (Kahan: twice
is enough). Where they are small beside y, what was fitted is taken off in twice the working precision
(``design.exact``), and the rest reduced again.

That basis is far from orthonormal on the rows of a response where these differ in kind from the complete
design's: a covariate's outlier is missing, or all rows in which it varies. Such a response gets a design
and a basis of its own (``Design.take``), and so the checks of a design.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np

from jaxlmm.design.design import Design
from jaxlmm.design.identifiability import pivoted
from jaxlmm.engine.blocks import block_width
from jaxlmm.families.intercept.crossprod import Projection, project_design
from jaxlmm.families.intercept.reduce import FAINT, NOISE, Reducer
from jaxlmm.families.own.basis import SplitBasis
from jaxlmm.families.own.on_basis import Again, Sums, on_basis
from jaxlmm.families.own.sums import GroupSums, Panel
from jaxlmm.families.patterns import columns_at, patterns
from jaxlmm.sources.weighted import WeightedMatrix, values_of

__all__ = ["OwnDesign", "OwnStats", "padded_shape", "reduce_own", "widened"]

# Responses are read in panels of at most about this many bytes, whose sums are padded up to one of these widths.
PANEL_BYTES = 16 * 2**20
WIDTHS = (8, 64, 2048)
# The complete design is clear of the tolerances of its checks, which are 1e-7 or less, where it stays above this.
MIN_NORM = 1e-4
# Responses, and weights, whose largest value lies beyond this or below its inverse are scaled.
EXTREME = 1e100


@dataclass(frozen=True, eq=False)
class OwnDesign:
    """A design as responses that use some of its rows need it.

    Attributes
    ----------
    design : Design
    reducer : Reducer
    basis : SplitBasis
    sums : GroupSums
        Of the part within groups of the basis, on the rows of X (not times the roots of weights).
    q_mean : ndarray, (G, p)
        Group means of the basis.
    weights : ndarray, (n_obs,), or None
    clear : bool
        Whether the complete design is well clear of the tolerances of its checks.
    """

    design: Design
    reducer: Reducer
    basis: SplitBasis
    sums: GroupSums
    q_mean: np.ndarray
    weights: np.ndarray | None
    clear: bool

    @classmethod
    def make(cls, design: Design, reducer: Reducer) -> OwnDesign:
        projection, basis = reducer.projection, SplitBasis.make(reducer.projection)
        B = projection.Qw @ basis.within
        if projection.root_w is not None:
            B = B / projection.root_w[:, None]
        q_mean = basis.between / np.sqrt(projection.sizes)[:, None]
        sums = GroupSums.make(projection.codes, projection.n_groups, B, design.weights)
        R = pivoted(projection.weighted(projection.columns.unit))[1]
        clear = bool(min(np.min(np.abs(np.diag(R))), basis.smallest) > MIN_NORM)
        return cls(design, reducer, basis, sums, q_mean, design.weights, clear)

    @property
    def n_groups(self) -> int:
        """Number of groups of the complete design."""
        return len(self.q_mean)

    @property
    def n_fixef(self) -> int:
        """Number of columns of X."""
        return self.q_mean.shape[1]


@dataclass(frozen=True, eq=False)
class OwnStats:
    """What is needed of c responses, of (y - shift) / scale; see ``on_basis`` for N, b, e, W, rest and base, which
    may not be written to.

    Attributes
    ----------
    base : ndarray, (c, p)
        Coefficients, on the response's basis, that ``e`` and ``rest`` are residuals of.
    start : ndarray, (c, p)
        Coefficients of the user's X that were taken off the response before; 0 for most.
    centring, unit : ndarray, (c, p, p)
        From coefficients b on the response's basis to those of the user's X: a - centring a with a = unit b.
    logdet : ndarray, (c,)
        log|X'X| of the user's X less that of the basis.
    log_w : ndarray, (c,)
        Sum of the logarithms of the weights.
    constant : ndarray, (c, p)
        Coefficients of the user's X that give 1; 0 where ``shift`` is.
    n_used : ndarray of int, (c,)
    shift, scale, noise : ndarray, (c,)
        Sums of squares up to ``noise`` are rounding.
    unit_w : ndarray, (c,)
        What the weights were divided by: the variance ratio here is ``unit_w`` times that of the weights as given.
    finite, too_few : ndarray of bool, (c,)
    """

    N: np.ndarray
    b: np.ndarray
    e: np.ndarray
    W: np.ndarray
    rest: np.ndarray
    base: np.ndarray
    start: np.ndarray
    centring: np.ndarray
    unit: np.ndarray
    logdet: np.ndarray
    log_w: np.ndarray
    constant: np.ndarray
    n_used: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    noise: np.ndarray
    unit_w: np.ndarray
    finite: np.ndarray
    too_few: np.ndarray

    @classmethod
    def join(cls, parts: list[OwnStats]) -> OwnStats:
        """Several panels as one."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def writable(self) -> OwnStats:
        """With arrays of its own."""
        return OwnStats(*(np.array(getattr(self, f.name)) for f in fields(self)))

    def take(self, where: np.ndarray | slice) -> OwnStats:
        """Those of some of the responses."""
        return OwnStats(*(getattr(self, f.name)[where] for f in fields(self)))


def reduce_own(design: OwnDesign, Y: np.ndarray | WeightedMatrix, where: np.ndarray) -> OwnStats:
    """Reduce the columns ``where`` of Y (n_obs, any) on the rows where they are not NaN.

    Weights of the responses' own stand for the design's. In a scope of float64.
    """
    panel = int(np.clip(PANEL_BYTES // (8 * design.design.n_obs), 4, WIDTHS[-1]))
    some = (columns_at(where[start : start + panel]) for start in range(0, len(where), panel))
    return OwnStats.join([_reduce_panel(design, Y[:, columns]) for columns in some])


def _reduce_panel(design: OwnDesign, responses: np.ndarray | WeightedMatrix) -> OwnStats:
    """As :func:`reduce_own`, of all columns (n_obs, c)."""
    Y, W = values_of(responses), responses.weights if isinstance(responses, WeightedMatrix) else None
    one = np.ones(Y.shape[1])
    scaled = _Scaled(Y, W, one, one, one > 0)
    with np.errstate(all="ignore"):
        panel = _read(design, scaled)
        unit = _unit_of(design, panel)
        if _is_extreme(panel.largest).any() or _is_extreme(unit).any():
            scaled = _Scaled.of(Y, W, unit)
            panel = _read(design, scaled)
            unit = _unit_of(design, panel)
    return _reduce_sums(design, scaled, panel, unit)


def _reduce_sums(design: OwnDesign, scaled: _Scaled, panel: Panel, unit: np.ndarray) -> OwnStats:
    """Statistics of responses (c,) that are read; their weights are to be divided by ``unit`` (c,)."""
    kind, p = scaled.Y.dtype, design.n_fixef
    rounding = max(0.5 * np.finfo(kind).eps if kind.kind == "f" else 0.0, NOISE)
    with np.errstate(all="ignore"):
        finite = scaled.finite & (panel.n_used > 0)
        noise = panel.weight / unit * (rounding * panel.largest) ** 2
        stats, good, explained = _shared_basis(design, panel, unit)
    stats.scale[:], stats.noise[:], stats.finite[:] = scaled.scale, noise, finite
    stats.unit_w[:] = unit * scaled.unit
    rank_left = stats.n_used > p
    stats.too_few[finite & ~rank_left] = True
    faint = np.flatnonzero(finite & good & (stats.rest < FAINT * explained))
    again = np.flatnonzero(finite & rank_left & ~(good & design.clear))
    if len(faint) or len(again):
        stats = stats.writable()
    if len(faint):
        _reduce_faint(design, *scaled.columns(faint), unit[faint], faint, stats)
    if len(again):
        _reduce_alone(design, *scaled.columns(again), unit[again], again, stats)
    if design.n_groups:
        groups = np.sum(stats.N > 0, axis=1)
        pw = np.sum(np.einsum("cjj->cj", stats.W[:, :p, :p]) > 0, axis=1)
        few = (groups < 2) | (groups + pw <= p) | (stats.n_used - groups - pw < 1)
        stats.too_few[:] |= few & finite
    return stats


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Responses Y (n_obs, c) over ``scale``, with weights W over ``unit`` if they have some; ``finite`` (c,)."""

    Y: np.ndarray
    W: np.ndarray | None
    scale: np.ndarray
    unit: np.ndarray
    finite: np.ndarray

    @classmethod
    def of(cls, Y: np.ndarray, W: np.ndarray | None, unit: np.ndarray) -> _Scaled:
        """With 0 for a response that is not finite. Both are powers of two, so that scaling is exact."""
        y = Y.astype(np.float64)
        absent = np.isnan(y)
        np.copyto(y, 0.0, where=absent)
        largest = np.maximum(y.max(axis=0), -y.min(axis=0))
        finite = np.isfinite(largest)
        y[:, ~finite], largest[~finite] = 0.0, 0.0
        extreme = _is_extreme(largest)
        scale = np.where(extreme, np.exp2(np.floor(np.log2(np.where(extreme, largest, 1.0)))), 1.0)
        y /= scale
        np.copyto(y, np.nan, where=absent)
        if W is None:
            return cls(y, None, scale, np.ones(len(scale)), finite)
        unit = np.where(_is_extreme(unit), unit, 1.0)
        return cls(y, W / unit, scale, unit, finite)

    def columns(self, where: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Some of the responses, and their weights."""
        y = np.asarray(self.Y[:, where], dtype=np.float64)
        return y, None if self.W is None else np.asarray(self.W[:, where], dtype=np.float64)


def _is_extreme(largest: np.ndarray) -> np.ndarray:
    return ~((largest <= EXTREME) & ((largest >= 1 / EXTREME) | (largest <= 1e-300)))


def _read(design: OwnDesign, of: _Scaled) -> Panel:
    shifted = design.reducer.projection.columns.constant is not None
    return design.sums.read(of.Y, of.W, shifted=shifted)


def _unit_of(design: OwnDesign, panel: Panel) -> np.ndarray:
    """A power of two (c,) for weights of the responses' own: the largest group weighs, over it, at most as much as
    the complete design's, and half at least; without groups all rows."""
    if not panel.own:
        return np.ones(len(panel.shift))
    if design.n_groups:
        heaviest, most = panel.N.max(axis=0), design.reducer.projection.sizes.max()
    else:
        heaviest, most = panel.weight, float(panel.sums.n_obs)
    return np.asarray(np.exp2(np.ceil(np.log2(np.where(heaviest > 0, heaviest, most) / most))))


def _shared_basis(design: OwnDesign, panel: Panel, unit: np.ndarray) -> tuple[OwnStats, np.ndarray, np.ndarray]:
    """Statistics of a panel, with its weights over ``unit``, on the complete design's basis, and for whom that is
    good enough.

    Also returns the sum of squares of what is fitted beside ``rest``, within a digit.
    """
    projection, c = design.reducer.projection, len(unit)
    G, p = padded_shape(design.n_groups, design.n_fixef)
    width, n_groups = block_width(c, WIDTHS), design.n_groups

    def padded(a: np.ndarray, *shape: int) -> np.ndarray:
        return np.ascontiguousarray(widened(a, (*shape, width)))  # JAX is slow to copy what is not

    pw = design.sums.n_columns
    divisor = np.ones(width)
    divisor[:c] = unit
    arrays: list[Any] = [
        padded(panel.N, G), padded(panel.columns, pw, G), padded(panel.pairs, len(panel.pairs)),
        padded(panel.by_group, G), padded(panel.onto, pw), padded(panel.squares), divisor,
        widened(design.q_mean, (G, p)), np.asarray(design.n_fixef),
    ]  # fmt: skip
    sums = Sums(*arrays)
    found = jax.tree.map(np.asarray, on_basis(sums, None, c))
    close = np.flatnonzero(found.close[:c])
    if len(close):
        parts = panel.leave(close, found.level[close, :n_groups].T, found.first[close].T)
        again: list[Any] = [np.zeros((G, width)), np.zeros((pw, width)), np.zeros(width), np.zeros(width, dtype=bool)]
        again[0][:n_groups, close], again[1][:, close], again[2][close] = parts
        again[3][close] = True
        found = jax.tree.map(np.asarray, on_basis(sums, Again(*again), c))
    constant = projection.columns.constant if projection.columns.constant is not None else np.zeros(design.n_fixef)

    def each(a: np.ndarray) -> np.ndarray:
        return np.broadcast_to(a, (c, *a.shape))

    stats = OwnStats(
        found.N[:c], found.b[:c], found.e[:c], found.W[:c], found.rest[:c],
        found.base[:c, : design.n_fixef],
        np.zeros((c, design.n_fixef)), each(projection.columns.shift), each(design.basis.unit),
        np.full(c, design.basis.logdet), panel.log_w - panel.n_used * np.log(unit), each(constant),
        panel.n_used.copy(), panel.shift.copy(), np.ones(c), np.zeros(c), unit.copy(), np.ones(c, dtype=bool),
        np.zeros(c, dtype=bool),
    )  # fmt: skip
    return stats, found.good[:c], found.explained[:c]


def _reduce_faint(
    design: OwnDesign, y: np.ndarray, w: np.ndarray | None, unit: np.ndarray, cols: np.ndarray, stats: OwnStats
) -> None:
    """Take what was fitted off the columns ``cols`` (n_obs, c), and reduce what is left."""
    root = np.sqrt(stats.N[cols])
    level = stats.e[cols] / np.where(root > 0, root, 1.0)
    start, left = design.basis.subtract(
        np.where(np.isnan(y), 0.0, y),
        design.reducer.projection,
        stats.base[cols].T,
        stats.shift[cols],
        level[:, : design.n_groups].T,
    )
    np.copyto(left, np.nan, where=np.isnan(y))
    one = np.ones(len(cols))
    with np.errstate(all="ignore"):
        second, _, _ = _shared_basis(design, _read(design, _Scaled(left, w, one, one, one > 0)), unit)
    stats.start[cols], stats.e[cols] = start.T, second.e + root * level
    stats.base[cols], stats.rest[cols], stats.shift[cols] = second.base, second.rest, second.shift


def _reduce_alone(
    design: OwnDesign, y: np.ndarray, w: np.ndarray | None, unit: np.ndarray, cols: np.ndarray, stats: OwnStats
) -> None:
    """Statistics of the columns ``cols`` (n_obs, c) on designs of their own."""
    missing = np.isnan(y)
    np.copyto(y, 0.0, where=missing)
    if w is None:
        for rows, some in patterns(missing):
            _own_basis(design, y[:, some], rows, cols[some], None, stats)
    else:
        for j, k in enumerate(cols):
            _own_basis(design, y[:, [j]], ~missing[:, j], np.array([k]), w[:, j] / unit[j], stats)


def _own_basis(
    design: OwnDesign, y: np.ndarray, rows: np.ndarray, cols: np.ndarray, weights: np.ndarray | None, stats: OwnStats
) -> None:
    """Statistics of y (n_obs, c), the columns ``cols`` of ``stats``, which have these ``rows``, on a design of their
    own."""
    whole = design.design
    try:
        own = whole.take(rows, None if weights is None else weights[rows])
    except ValueError:
        stats.too_few[cols] = True
        return
    projection = project_design(own)
    basis = SplitBasis.make(projection)
    pw = projection.n_within
    part = y[rows]
    shift, base, e, rest, explained = _on_basis(projection, basis, part)
    start, faint = np.zeros_like(base), rest < FAINT * explained
    if faint.any():
        root = np.sqrt(projection.sizes)[:, None]
        level = e[:, faint] / root
        start[:, faint], left = basis.subtract(part[:, faint], projection, base[:, faint], shift[faint], level)
        shift[faint], base[:, faint], e[:, faint], rest[faint], _ = _on_basis(projection, basis, left)
        e[:, faint] += root * level
    present = np.unique(whole.random[0].codes[rows]) if whole.random else np.zeros(0, dtype=np.intp)
    for array in (stats.N, stats.b, stats.e, stats.W):
        array[cols] = 0.0
    at = np.ix_(cols, present)
    p = own.n_fixef
    stats.N[at], stats.e[at] = projection.sizes, e.T
    stats.b[np.ix_(cols, np.arange(p), present)] = basis.between.T
    varies = np.arange(stats.W.shape[1])
    stats.W[cols] = np.diag((varies < pw) | (varies >= p)).astype(np.float64)
    stats.rest[cols], stats.start[cols], stats.base[cols] = rest, start.T, base.T
    stats.logdet[cols], stats.shift[cols] = basis.logdet, shift
    stats.centring[cols], stats.unit[cols] = basis.columns.shift, basis.unit
    stats.constant[cols] = 0.0 if basis.columns.constant is None else basis.columns.constant


def _on_basis(projection: Projection, basis: SplitBasis, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Shift (c,), coefficients (p, c), residuals of the groups (G, c), ``rest`` and explained squares (c,) of y."""
    shift = y[0].copy() if projection.columns.constant is not None else np.zeros(y.shape[1])
    left = projection.weighted(y - shift)
    coords = projection.to_coords(left)
    left -= projection.from_coords(coords)
    more = projection.to_coords(left)
    left -= projection.from_coords(more)
    coef, e = basis.solve(coords + more)
    return shift, coef, e, np.einsum("ij,ij->j", left, left), np.einsum("ij,ij->j", coords, coords)


def padded_shape(n_groups: int, n_fixef: int) -> tuple[int, int]:
    """Numbers of groups and columns that stand for these: designs share compiled code."""
    return _padded(n_groups, 8), _padded(n_fixef, 2)


def _padded(n: int, first: int) -> int:
    """n rounded up to 0 or one of 1 to 8, 10, 12, 14, 16, 20, ... times ``first``."""
    unit = first
    while n > 8 * unit:
        unit *= 2
    return -(-n // unit) * unit


def widened(a: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``a``, or where ``shape`` is larger, with zeros after it along each axis."""
    if a.shape == shape:
        return a
    out = np.zeros(shape)
    out[tuple(slice(n) for n in a.shape)] = a
    return out
