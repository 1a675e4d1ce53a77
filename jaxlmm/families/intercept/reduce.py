"""One pass over Y: every response becomes its sufficient statistics, its coordinates on the spectrum.

``q`` are the coordinates on the columns of X, ``u`` those on the spectrum (see ``spectrum``), and
``rest`` is the sum of squares that [X, Z] leaves. Very few groups: all coordinates are one dense matrix
product. Up to a hundred: sums of a few groups at a time, [Z_g, Qw_g]'y_g, which is a small product for rows
that stay in cache, and the coordinates from them. Many groups: group sums first, which are sparse, and the
spectrum from them.

``rest`` is y'y less the squared coordinates where that costs at most ``MAX_LOSS`` in precision, if
need be after a shift. Every other response (a huge variance ratio, NaN) is shifted, scaled and
projected twice, so that its squares are formed from residuals and lose nothing. Where these are small beside
the response, a first fit is subtracted in twice the working precision (``design.exact``) before.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from jaxlmm.design.design import Design
from jaxlmm.families.intercept.crossprod import Projection, project_design
from jaxlmm.families.intercept.spectrum import Spectrum, make_spectrum
from jaxlmm.families.own.basis import SplitBasis
from jaxlmm.runtime.threads import single_threaded_blas

__all__ = [
    "FAINT", "Reducer", "Stats", "design_reducer", "group_means", "make_reducer", "reduce_panel",
    "stats_of_coordinates",
]  # fmt: skip

# Coordinates are one dense matrix up to this many rows and bytes; beyond, group sums go first.
DENSE_ROWS = 96
DENSE_BYTES = 64 * 2**20
# From this many groups on rows are taken group by group, so many at a time.
BLOCK_GROUPS = 12
BLOCK_ROWS = 64
# rest = y'y - ||coordinates||^2 loses log10(MAX_LOSS) digits at most; past it another way is taken.
MAX_LOSS = 32.0
# Residuals whose sum of squares is a smaller part of the response's than this are formed in twice the precision.
FAINT = 1e-8
# Where less of a column than this lies within groups, its coefficient is too large to be taken off exactly.
LEAST_WITHIN = 1e-10
# Responses are handled in panels of about this many bytes, to stay in cache.
PANEL_BYTES = 16 * 2**20
# Root mean square of the arithmetic's rounding errors, relative to the largest value.
NOISE = 4 * np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class Stats:
    """Sufficient statistics of c responses, of (y - shift) / scale; the response axis is last.

    Attributes
    ----------
    ols : ndarray, (p, c)
        Least squares coefficients of the basis of X.
    u : ndarray, (J, c)
        Coordinates on the spectrum; for merged terms the root of their summed squares.
    rest, shift, scale : ndarray, (c,)
        ``shift`` is 0 unless the constant lies in the span of X.
    start : ndarray, (p, c)
        Coefficients of the user's X that were subtracted from the response before all else.
    finite, constant, exact_within : ndarray of bool, (c,)
        What tells the responses that cannot be fitted.
    """

    ols: np.ndarray
    u: np.ndarray
    rest: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    start: np.ndarray
    finite: np.ndarray
    constant: np.ndarray
    exact_within: np.ndarray

    @classmethod
    def empty(cls, reducer: Reducer, c: int) -> Stats:
        """Room for c responses, to be filled by :func:`reduce_panel`."""
        spectrum = reducer.spectrum
        return cls(
            np.empty((len(spectrum.f), c)), np.zeros((len(spectrum.d), c)), np.empty(c), np.zeros(c), np.ones(c),
            np.zeros((len(spectrum.f), c)), np.ones(c, dtype=bool), np.zeros(c, dtype=bool), np.zeros(c, dtype=bool),
        )  # fmt: skip

    def take(self, where: np.ndarray | slice) -> Stats:
        """Those of some of the responses."""
        return Stats(*(getattr(self, f.name)[..., where] for f in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Stats]) -> Stats:
        """Those of several blocks, one after the other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts], axis=-1) for f in fields(cls)))


@dataclass(frozen=True, eq=False)
class Reducer:
    """How a design turns responses into statistics.

    Attributes
    ----------
    projection : Projection
    spectrum : Spectrum
    A : ndarray, (rows, n_obs), or None
        Orthonormal rows on which y has the coordinates q, then u of the single terms, then those
        of each merged term; None if there are too many groups for that.
    blocks : tuple of (rows, groups, ndarray)
        Rows of some groups, these groups, and the columns of B (see ``crossprod``) that are not 0 there, transposed;
        none if A is as fast.
    W : ndarray, (rows, G + pw)
        A from B'.
    """

    projection: Projection
    spectrum: Spectrum
    A: np.ndarray | None
    blocks: tuple[tuple[slice | np.ndarray, slice, np.ndarray], ...] = ()
    W: np.ndarray | None = None

    @functools.cached_property
    def split(self) -> SplitBasis:
        """The basis of X by its parts within and between groups."""
        return SplitBasis.make(self.projection)

    def panels(self, c: int) -> list[slice]:
        """Split c responses into panels that fit in a cache."""
        width = int(np.clip(PANEL_BYTES // (8 * self.projection.n_obs), 4, 2048))
        return [slice(k, min(k + width, c)) for k in range(0, c, width)]

    def room(self, c: int) -> Stats:
        """Room for c responses."""
        return Stats.empty(self, c)

    def reduce_panel(self, Y: np.ndarray, cols: slice, stats: Stats) -> None:
        """See :func:`reduce_panel`."""
        reduce_panel(self, Y, cols, stats)

    def coords(self, y: np.ndarray) -> np.ndarray:
        """Coordinates (rows, c) of y (n_obs, c) on an orthonormal basis."""
        if self.W is not None and self.blocks:
            G = self.projection.n_groups
            sums = np.zeros((G + self.projection.n_within, y.shape[1]))
            for rows, groups, B in self.blocks:
                part = B @ y[rows]
                k = groups.stop - groups.start
                sums[groups] = part[:k]
                sums[G:] += part[k:]
            return self.W @ sums
        return self.A @ y if self.A is not None else self.projection.to_coords(y)

    def remove(self, y: np.ndarray, coords: np.ndarray) -> np.ndarray:
        """y less what the coordinates span."""
        return y - (self.A.T @ coords if self.A is not None else self.projection.from_coords(coords))


def design_reducer(design: Design) -> Reducer:
    """All the work that depends on the design only: basis, spectrum, and how to reduce responses."""
    with single_threaded_blas():  # many small matrices: threads would only wait for each other
        projection = project_design(design)
        return make_reducer(projection, make_spectrum(projection))


def make_reducer(projection: Projection, spectrum: Spectrum) -> Reducer:
    """Choose dense or sparse, and build the dense matrix."""
    G, pw = projection.n_groups, projection.n_within
    if G > DENSE_ROWS or (G + pw) * projection.n_obs * 8 > DENSE_BYTES:
        return Reducer(projection, spectrum, None)
    off_x = np.eye(G + pw) - spectrum.Q @ spectrum.Q.T
    inside = [off_x[spectrum.single], *(H.T @ off_x[at] for at, H in spectrum.merged), off_x[G:]]
    rows = [spectrum.Q.T, spectrum.T @ np.concatenate(inside)]
    for at, H in spectrum.merged:
        complement = np.linalg.qr(H, mode="complete").Q[:, H.shape[1] :]
        block = np.zeros((complement.shape[1], G + pw))
        block[:, at] = complement.T
        rows.append(block)
    W = np.concatenate(rows)
    A = W[:, G:] @ projection.Qw.T
    if G:
        A += projection.weighted((W[:, :G] / np.sqrt(projection.sizes))[:, projection.codes].T).T
    return Reducer(projection, spectrum, A, _blocks(projection), W)


def _blocks(projection: Projection) -> tuple[tuple[slice | np.ndarray, slice, np.ndarray], ...]:
    """See ``Reducer.blocks``."""
    G = projection.n_groups
    if G < BLOCK_GROUPS:
        return ()
    order = np.argsort(projection.codes, kind="stable")
    ends = np.searchsorted(projection.codes[order], np.arange(G + 1))
    entries = projection.weighted(1 / np.sqrt(projection.sizes)[projection.codes][:, None])[:, 0]  # of Zt
    is_sorted, out, first = bool(np.all(np.diff(projection.codes) >= 0)), [], 0
    while first < G:
        last = max(int(np.searchsorted(ends, ends[first] + BLOCK_ROWS, side="right")) - 1, first + 1)
        at = order[ends[first] : ends[last]]
        Z = np.zeros((last - first, len(at)))
        Z[projection.codes[at] - first, np.arange(len(at))] = entries[at]
        B = np.concatenate([Z, projection.Qw[at].T])
        out.append((slice(int(ends[first]), int(ends[last])) if is_sorted else at, slice(first, last), B))
        first = last
    return tuple(out)


def reduce_panel(reducer: Reducer, Y: np.ndarray, cols: slice, stats: Stats) -> None:
    """Statistics of the columns ``cols`` of ``Y`` (n_obs, c), real of any type, into ``stats``.

    One pass; responses that it would cost digits, or that are bad, are taken again with more care.
    """
    # The sparse product wants rows in one piece; the dense one takes a view as it is.
    order: Literal["C", "K"] = "K" if reducer.A is not None else "C"
    with np.errstate(invalid="ignore"):  # a signalling NaN
        y = Y[:, cols].astype(np.float64, order=order, copy=False)
    weighted = reducer.projection.weighted
    where = np.arange(cols.start, cols.stop)
    unsafe = ~_one_pass(reducer, weighted(y), cols, stats)
    y, where = _columns(y, unsafe), where[unsafe]
    if not len(where):
        return
    finite = np.asarray(np.isfinite(y).all(axis=0))
    stats.finite[where] = finite
    y, where = _columns(y, finite), where[finite]
    if len(where) and reducer.projection.columns.constant is not None:
        # A large mean is the usual reason, and shifting by the first row removes it.
        shift = y[0].copy()
        with np.errstate(all="ignore"):
            shifted = weighted(y - shift)
        stats.shift[where] = shift
        unsafe = ~_one_pass(reducer, shifted, where, stats)
        y, where = _columns(y, unsafe), where[unsafe]
    if len(where):
        # What is below the roundings of the arithmetic, or of the data's own type, is taken as zero.
        rounding = 0.5 * np.finfo(Y.dtype).eps if Y.dtype.kind == "f" else 0.0
        _reduce_careful(reducer, y, where, stats, max(rounding, NOISE))


def stats_of_coordinates(reducer: Reducer, coords: np.ndarray, rest: np.ndarray) -> Stats:
    """Statistics of c responses that are known by their coordinates (rows, c) and what these leave (c,)."""
    c = len(rest)
    stats = Stats.empty(reducer, c)
    where = slice(0, c)
    total = np.einsum("ij,ij->j", coords, coords) + rest
    with np.errstate(invalid="ignore", over="ignore"):
        stats.finite[:] = np.isfinite(total)
        usable = stats.finite & (total > 0)
        scale = np.exp2(np.floor(0.5 * np.log2(np.where(usable, total, 1.0))))
        scaled = np.where(usable, coords / scale, 0.0)
        stats.rest[:] = np.where(usable, np.maximum(rest, 0.0) / scale**2, 1.0)
    _spectral(reducer, scaled, where, stats)
    stats.scale[:] = scale
    left = np.einsum("ij,ij->j", stats.u, stats.u) + stats.rest
    noise = len(coords) * NOISE**2  # of a response whose sum of squares is about 1
    stats.constant[:] = ~usable & stats.finite | (left <= noise)
    stats.exact_within[:] = (stats.rest <= noise) & (left > noise) & (reducer.projection.n_rest > 0)
    return stats


def _columns(y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return y if mask.all() else y[:, mask]


def _one_pass(reducer: Reducer, y: np.ndarray, where: slice | np.ndarray, stats: Stats) -> np.ndarray:
    """Statistics of y with ``rest`` by subtraction; returns which columns lose little by it."""
    with np.errstate(all="ignore"):
        total = np.einsum("ij,ij->j", y, y)
        usable = np.isfinite(total)
        if 2 * np.count_nonzero(usable) < len(usable):
            # Most miss observations, and are reduced elsewhere.
            found, at = np.zeros(len(usable), dtype=bool), np.flatnonzero(usable)
            if len(at):
                numbers = np.arange(where.start, where.stop) if isinstance(where, slice) else where
                found[at] = _one_pass(reducer, y[:, at], numbers[at], stats)
            return found
        coords = reducer.coords(y)
        stats.rest[where] = rest = total - np.einsum("ij,ij->j", coords, coords)
        _spectral(reducer, coords, where, stats)
        safe: np.ndarray = (rest * MAX_LOSS > total) & (total > 1e-200) & (total < 1e200)
    return safe


def group_means(projection: Projection, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of the groups (G, c) of Y - shift, and the shift (c,): Y's first row."""
    with np.errstate(all="ignore"):  # responses that could not be fitted
        shift = np.asarray(Y[0], dtype=np.float64)
        means = projection.Zt @ projection.weighted(Y - shift)
        return means / np.sqrt(projection.sizes)[:, None], shift


def _reduce_careful(reducer: Reducer, y: np.ndarray, where: np.ndarray, stats: Stats, rounding: float) -> None:
    """Shift, scale, and form residuals twice (Kahan: twice is enough) before squaring."""
    projection = reducer.projection
    largest = np.max(np.abs(y), axis=0)
    # A power of two, so that scaling is exact; subnormal responses are taken as 0.
    scale = np.where(largest > 1e-300, np.exp2(np.floor(np.log2(np.maximum(largest, 1e-300)))), 1.0)
    y = y / scale
    largest = largest / scale
    # The difference of close numbers is exact, so the first row is as good as the mean.
    shift = y[0].copy() if projection.columns.constant is not None else np.zeros(y.shape[1])
    shifted = projection.weighted(y - shift)
    coords, left = _project_twice(reducer, shifted)
    rest = _squares(left) if projection.n_rest else np.zeros(y.shape[1])
    stats.rest[where], stats.shift[where], stats.scale[where] = rest, shift, scale
    _spectral(reducer, coords, where, stats)
    faint = (rest < FAINT * _squares(shifted)) & (projection.n_rest > 0)
    if faint.any() and reducer.split.smallest > LEAST_WITHIN:
        rest[faint] = _reduce_faint(reducer, y[:, faint], shift[faint], where[faint], stats)
    weight = projection.n_obs if projection.root_w is None else np.sum(projection.root_w**2)
    noise = weight * (rounding * largest) ** 2
    u = stats.u[:, where]
    total = np.einsum("ij,ij->j", u, u) + rest
    stats.constant[where] = total <= noise
    # Without degrees of freedom within groups rest is 0 by construction, which says nothing.
    stats.exact_within[where] = (rest <= noise) & (total > noise) & (projection.n_rest > 0)


def _project_twice(reducer: Reducer, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of ``Reducer.coords``, and what they leave of y."""
    coords = reducer.coords(y)
    y = reducer.remove(y, coords)
    again = reducer.coords(y)
    return coords + again, reducer.remove(y, again)


def _squares(y: np.ndarray) -> np.ndarray:
    """Sum of squares of each column."""
    return np.asarray(np.einsum("ij,ij->j", y, y))


def _reduce_faint(reducer: Reducer, y: np.ndarray, shift: np.ndarray, where: np.ndarray, stats: Stats) -> np.ndarray:
    """Subtract a fit of X and of the groups' means exactly, and reduce what is left; returns ``rest``."""
    # Group sums first: levels of the groups are zero within groups then, however large they are.
    projection, plain = reducer.projection, replace(reducer, A=None, W=None, blocks=())
    base, left = reducer.split.solve(projection.to_coords(projection.weighted(y - shift)))
    root = np.sqrt(projection.sizes)[:, None]
    level = left / root
    start, y = reducer.split.subtract(y, projection, base, shift, level)
    coords, y = _project_twice(plain, projection.weighted(y))
    coords[: len(level)] += root * level
    stats.rest[where] = rest = _squares(y)
    stats.shift[where], stats.start[:, where] = 0.0, start
    _spectral(plain, coords, where, stats)
    return rest


def _spectral(reducer: Reducer, coords: np.ndarray, where: slice | np.ndarray, stats: Stats) -> None:
    """Coordinates of ``Reducer.coords`` -> ``ols`` and ``u``."""
    spectrum, G = reducer.spectrum, reducer.projection.n_groups
    p, J_u = len(spectrum.f), len(spectrum.T)
    energy = []
    if reducer.A is not None:
        q, u, start = coords[:p], coords[p : p + J_u], p + J_u
        for at, H in spectrum.merged:
            part = coords[start : start + len(at) - H.shape[1]]
            start += len(part)
            energy.append(np.einsum("ij,ij->j", part, part))
    else:
        q = spectrum.Q.T @ coords
        off_x = coords - spectrum.Q @ q
        parts = [off_x[spectrum.single]]
        for at, H in spectrum.merged:
            part = off_x[at]
            inside = H.T @ part
            part -= H @ inside
            parts.append(inside)
            energy.append(np.einsum("ij,ij->j", part, part))
        u = spectrum.T @ np.concatenate([*parts, off_x[G:]])
    stats.ols[:, where] = q
    stats.u[:J_u, where] = u
    for k, e in enumerate(energy):
        stats.u[spectrum.n_single + k, where] = np.sqrt(e)
