"""One pass over Y: what the general family keeps of a response.

By least squares y = Q a3 + Z2 a2 + Z1 a1 + r with r off all columns. Kept are a3 (``ols``), a2 (``a``),
the coordinates Q1'Z1 a1 (``b``) and r'r (``rest``): at any phi the fit is a combination of these, and
no sum of squares is ever the difference of larger ones. Where the split is not unique (nested factors
share columns), as much as can be is given to Z2.

They are linear in the sums [Q1, Z2, Q]'y, and r'r is y'y less what these explain. So one pass does where that costs
at most ``LOSS`` in precision, which it mostly does; every other response (a large mean, a huge variance ratio, NaN)
is centred and scaled, and where that does not suffice projected twice, so that its squares are those of residuals.

Where the terms commute (``strata``) they are y's coordinates on the strata's shares of Q, and the sums of squares of
what is left in each stratum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxlmm.families.base import Scaling
from jaxlmm.families.general.layout import Core, Reducer
from jaxlmm.families.general.moments import Stats
from jaxlmm.families.general.strata import StrataCore, StrataReducer
from jaxlmm.families.general.strata_moments import StrataStats
from jaxlmm.runtime.threads import by_chunks

__all__ = [
    "coordinates", "reduce_responses", "reduce_to_strata", "stats_of_coordinates", "strata_coordinates",
    "strata_of_coordinates",
]  # fmt: skip

# Responses are handled in panels of about this many bytes. Smaller ones would stay in a core's own cache, but the
# threads would wait for each other between many short steps.
PANEL_BYTES = 4 * 2**20
# Root mean square of the arithmetic's rounding errors, relative to the largest value.
NOISE = 4 * np.finfo(np.float64).eps
# A sum of squares is the difference of two others where that loses at most this factor,
LOSS = 32
# and coefficients come from sums where solving for them loses at most this one.
LOSS_SOLVED = 1e4


def reduce_responses(core: Core, reducer: Reducer, Y: np.ndarray) -> tuple[Stats, Scaling]:
    """Statistics of the responses Y (n_obs, c), real of any type."""
    c, q2 = Y.shape[1], core.q2
    stats = dict(
        rest=np.ones(c), b=np.zeros((core.r1 * core.G, c)), a=np.zeros((core.q2, c)), ols=np.zeros((core.p, c))
    )

    steady = bool(reducer.n_rest) and np.linalg.norm(reducer.W_pinv, 2) < LOSS_SOLVED

    def quick(y: np.ndarray, total: np.ndarray, cols: slice, scaling: Scaling) -> np.ndarray:
        if not steady:
            return np.zeros(y.shape[1], bool)
        a, b, off, rest = _from_sums(reducer, y, total)
        safe = _safe(rest, total)
        scale = _power(np.where(safe, off, 1.0) / len(y))
        scaling.scale[cols] = scale
        stats["rest"][cols] = rest / scale**2
        stats["b"][:, cols], stats["a"][:, cols], stats["ols"][:, cols] = b / scale, a[:q2] / scale, a[q2:] / scale
        return safe

    def fill(y: np.ndarray, cols: np.ndarray, centred: _Centred) -> None:
        total = np.einsum("ij,ij->j", y, y)
        a, b, _, rest = _from_sums(reducer, y, total)
        again = ~_safe(rest, total) | (not steady)
        if again.any():
            part, own_a, own_b = y[:, again], np.zeros((len(a), again.sum())), np.zeros((len(b), again.sum()))
            for _ in range(2):  # twice is enough (Kahan), for residuals that are small beside the effects
                part = _remove(reducer, part, own_a, own_b)
            a[:, again], b[:, again], rest[again] = own_a, own_b, np.einsum("ij,ij->j", part, part)
        rest = rest if reducer.n_rest else np.zeros(y.shape[1])
        bad = centred.bad(rest, reducer.n_rest)
        stats["rest"][cols] = np.where(bad, 1.0, rest)  # a bad response must not slow the loops that all share
        stats["b"][:, cols] = np.where(bad, 0.0, b)
        stats["a"][:, cols] = np.where(bad, 0.0, a[:q2])
        stats["ols"][:, cols] = np.where(bad, 0.0, centred.ols + a[q2:])

    scaling = _by_panels(reducer, Y, quick, fill)
    return Stats(**stats), scaling  # type: ignore[arg-type]


def reduce_to_strata(core: StrataCore, reducer: StrataReducer, Y: np.ndarray) -> tuple[StrataStats, Scaling]:
    """Statistics of the responses Y (n_obs, c) of a design whose terms commute."""
    c, basis, F = Y.shape[1], reducer.basis, np.asarray(core.F)
    stats = dict(rest=np.ones((len(core.rest_values), c)), h=np.zeros((len(core.F), c)), ols=np.zeros((core.p, c)))

    def quick(y: np.ndarray, total: np.ndarray, cols: slice, scaling: Scaling) -> np.ndarray:
        coords = reducer.onto_basis(y)
        left = total - np.einsum("ij,ij->j", coords, coords)
        safe = _safe(left, total) & (reducer.n_rest > 0)
        h = coords[reducer.rows]
        ols = F.T @ h
        scale = _power((np.where(safe, total, 1.0) - np.einsum("ij,ij->j", ols, ols) * safe) / len(y))
        coords /= scale
        scaling.scale[cols] = scale
        stats["rest"][:, cols] = np.concatenate([reducer.rest @ (coords * coords), (left / scale**2)[None]])
        stats["ols"][:, cols], stats["h"][:, cols] = ols / scale, (h - F @ ols) / scale
        return safe

    def fill(y: np.ndarray, cols: np.ndarray, centred: _Centred) -> None:
        total = np.einsum("ij,ij->j", y, y)
        coords = basis.T @ y
        left = total - np.einsum("ij,ij->j", coords, coords)
        small = left < total / LOSS
        if small.any():
            part, own = y[:, small], coords[:, small]
            part -= basis @ own
            more = basis.T @ part
            part -= basis @ more
            coords[:, small] += more
            left[small] = np.einsum("ij,ij->j", part, part)
        rest = np.concatenate([reducer.rest @ (coords * coords), left[None] * (reducer.n_rest > 0)])
        bad = centred.bad(rest[-1], reducer.n_rest)
        stats["rest"][:, cols] = np.where(bad, 1.0, rest)
        stats["h"][:, cols] = np.where(bad, 0.0, coords[reducer.rows])
        stats["ols"][:, cols] = np.where(bad, 0.0, centred.ols)

    scaling = _by_panels(reducer, Y, quick, fill)
    return StrataStats(**stats), scaling  # type: ignore[arg-type]


@dataclass(eq=False)
class _Centred:
    """What was done to the columns of a panel: coefficients of Q taken off, in units of what is left; flags (c,)."""

    ols: np.ndarray
    noise: np.ndarray
    n_obs: int
    finite: np.ndarray
    constant: np.ndarray
    exact: np.ndarray

    def bad(self, rest: np.ndarray, n_rest: int) -> np.ndarray:
        """Which have no fit, where ``rest`` (c,) is left; notes which of them X and the effects explain."""
        self.exact = (rest <= self.n_obs * self.noise**2) & ~self.constant & (n_rest > 0)
        return self.constant | self.exact | ~self.finite


def _safe(rest: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Where ``rest``, the difference of ``total`` and another sum of squares, has lost little; never for NaN."""
    with np.errstate(invalid="ignore"):
        return np.asarray((rest * LOSS > total) & (total > 1e-200) & (total < 1e200))


def _power(squares: np.ndarray) -> np.ndarray:
    """Powers of two next to the roots, so that scaling is exact."""
    return np.asarray(np.exp2(np.floor(0.5 * np.log2(squares))))


def _from_sums(
    reducer: Reducer, y: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients a (d, c) and b (r1 * G, c) of y; the sums of squares (c,) that Q and that all columns leave."""
    q2 = reducer.Z2.shape[1]
    first, ols = reducer.Q1t @ y, reducer.Q.T @ y
    onto = np.concatenate([reducer.Z2t @ y, ols]) if q2 else ols
    onto = onto - reducer.C.T @ first
    alpha = reducer.W_pinv @ onto
    rest = total - np.einsum("ij,ij->j", first, first) - np.einsum("ij,ij->j", onto, alpha)
    first -= reducer.C @ alpha
    _give_to_others(reducer, alpha, first)
    return alpha, first, total - np.einsum("ij,ij->j", ols, ols), rest


def _by_panels(
    reducer: Reducer | StrataReducer,
    Y: np.ndarray,
    quick: Callable[[np.ndarray, np.ndarray, slice, Scaling], np.ndarray],
    fill: Callable[[np.ndarray, np.ndarray, _Centred], None],
) -> Scaling:
    """``quick(y, y'y, columns, scaling)`` of every panel, which says what is done, and ``fill(residuals off X,
    columns, what was done to them)`` of all else."""
    n, c = Y.shape
    scaling = Scaling(np.zeros(c), np.ones(c), np.ones(c, bool), np.zeros(c, bool), np.zeros(c, bool))
    rounding = max(0.5 * np.finfo(Y.dtype).eps if Y.dtype.kind == "f" else 0.0, NOISE)
    width = int(np.clip(PANEL_BYTES // (8 * n), 4, 2048))

    def panel(cols: slice) -> None:
        with np.errstate(all="ignore"):  # a signalling NaN, squares that overflow
            y = Y[:, cols].astype(np.float64, order="C", copy=True)
            weighted = y if reducer.root_w is None else reducer.root_w[:, None] * y
            left = ~quick(weighted, np.einsum("ij,ij->j", weighted, weighted), cols, scaling)
        if left.any():
            _careful(reducer, y[:, left], np.flatnonzero(left) + cols.start, fill, scaling, rounding)

    by_chunks(c, width, panel)
    return scaling


def _careful(
    reducer: Reducer | StrataReducer,
    y: np.ndarray,
    cols: np.ndarray,
    fill: Callable[[np.ndarray, np.ndarray, _Centred], None],
    scaling: Scaling,
    rounding: float,
) -> None:
    """``fill`` of responses y (n_obs, c) after these have been centred and scaled; y is overwritten."""
    finite: np.ndarray = np.asarray(np.isfinite(y).all(axis=0))
    if not finite.all():
        y[:, ~finite] = 0.0
    largest = np.maximum(y.max(axis=0), -y.min(axis=0))
    # A power of two, so that scaling is exact; subnormal responses are taken as 0.
    scale = np.where(largest > 1e-300, np.exp2(np.floor(np.log2(np.maximum(largest, 1e-300)))), 1.0)
    root_w = reducer.root_w
    y *= (1 / scale) if root_w is None else (root_w[:, None] / scale)
    ols = reducer.Q.T @ y
    y -= reducer.Q @ ols
    # Residuals are small beside a large mean: scaled again, so that all that is kept is about 1.
    size = np.sqrt(np.einsum("ij,ij->j", y, y) / len(y))
    noise = rounding * (largest / scale) * (1.0 if root_w is None else np.sqrt(np.mean(root_w**2)))
    constant: np.ndarray = np.asarray(size <= noise)
    again = np.where(constant, 1.0, np.exp2(np.floor(np.log2(np.where(constant, 1.0, size)))))
    y /= again
    centred = _Centred(ols / again, noise / again, len(y), finite, constant, constant)
    fill(y, cols, centred)
    scaling.scale[cols] = scale * again
    scaling.finite[cols], scaling.constant[cols], scaling.exact[cols] = finite, constant & finite, centred.exact


def coordinates(reducer: Reducer, Y: np.ndarray) -> np.ndarray:
    """Coefficients (r1 G + q2 + p, c) of complete responses Y (n_obs, c), linear in Y: ``b``, ``a`` and ``ols``."""
    y = Y if reducer.root_w is None else reducer.root_w[:, None] * Y
    ols = reducer.Q.T @ y
    y = y - reducer.Q @ ols
    b = np.zeros((reducer.C.shape[0], y.shape[1]))
    a = np.zeros((reducer.C.shape[1], y.shape[1]))
    for _ in range(2):
        y = _remove(reducer, y, a, b)
    a[reducer.Z2.shape[1] :] += ols
    return np.concatenate([b, a])


def stats_of_coordinates(
    core: Core, gram: np.ndarray, coordinates: np.ndarray, rest: np.ndarray
) -> tuple[Stats, Scaling]:
    """Statistics of c responses that are known by their :func:`coordinates` and what these leave (c,).

    ``gram`` holds the cross-products of the columns that the coordinates belong to.
    """
    c, n1 = len(rest), core.r1 * core.G
    effects = coordinates[: n1 + core.q2]
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.einsum("ij,ij->j", coordinates, gram @ coordinates) + rest
        finite = np.isfinite(size)
        usable = finite & (size > 0)
        scale = np.exp2(np.floor(0.5 * np.log2(np.where(usable, size / core.n_obs, 1.0))))
        left = np.maximum(rest, 0.0)
        inside = np.einsum("ij,ij->j", effects, gram[: len(effects), : len(effects)] @ effects)
        noise = core.n_obs * (NOISE * scale) ** 2
        constant = finite & (left + inside <= noise)
    exact = usable & ~constant & (left <= noise) & (core.n_rest > 0)
    bad = constant | exact | ~finite
    scaled = np.where(bad, 0.0, coordinates / scale)
    b, a, ols = np.split(scaled, [n1, n1 + core.q2])
    stats = Stats(np.where(bad, 1.0, left / scale**2), b, a, ols)  # type: ignore[arg-type]
    return stats, Scaling(np.zeros(c), scale, finite, constant, exact)


def strata_coordinates(reducer: StrataReducer, Y: np.ndarray) -> np.ndarray:
    """Coordinates (b, c) of complete responses Y (n_obs, c) on ``StrataReducer.basis``, which is orthonormal."""
    y = Y if reducer.root_w is None else reducer.root_w[:, None] * Y
    found = reducer.basis.T @ y
    return np.asarray(found + reducer.basis.T @ (y - reducer.basis @ found))


def strata_of_coordinates(
    core: StrataCore, reducer: StrataReducer, coordinates: np.ndarray, rest: np.ndarray
) -> tuple[StrataStats, Scaling]:
    """As :func:`stats_of_coordinates`, of :func:`strata_coordinates`."""
    c, F = len(rest), np.asarray(core.F)
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.einsum("ij,ij->j", coordinates, coordinates) + rest
        finite = np.isfinite(size)
        usable = finite & (size > 0)
        scale = np.exp2(np.floor(0.5 * np.log2(np.where(usable, size / core.n_obs, 1.0))))
        scaled = np.where(usable, coordinates / scale, 0.0)
        left = np.where(usable, np.maximum(rest, 0.0) / scale**2, 1.0)
    ols = F.T @ scaled[reducer.rows]
    h = scaled[reducer.rows] - F @ ols
    inner = np.concatenate([reducer.rest @ (scaled * scaled), left[None]])
    noise = core.n_obs * (8 * NOISE) ** 2  # coordinates were rounded when they were made
    constant = finite & (np.einsum("ij,ij->j", h, h) + inner.sum(axis=0) <= noise) | finite & ~usable
    exact = usable & ~constant & (left <= noise) & (core.n_rest > 0)
    bad = constant | exact | ~finite
    h, ols = np.where(bad, 0.0, h), np.where(bad, 0.0, ols)
    stats = StrataStats(np.where(bad, 1.0, inner), h, ols)  # type: ignore[arg-type]
    return stats, Scaling(np.zeros(c), scale, finite, constant, exact)


def _remove(reducer: Reducer, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """y less its least squares fit, whose coefficients are added to a (d, c) and b (r1 * G, c)."""
    q2 = reducer.Z2.shape[1]
    first = reducer.Q1t @ y
    off = y - reducer.Q1 @ first
    onto = np.concatenate([reducer.Z2t @ off, reducer.Q.T @ off]) - reducer.C.T @ (reducer.Q1t @ off)
    alpha = reducer.W_pinv @ onto
    first -= reducer.C @ alpha
    _give_to_others(reducer, alpha, first)
    a += alpha
    b += first
    return y - reducer.Q1 @ first - reducer.Z2 @ alpha[:q2] - reducer.Q @ alpha[q2:]


def _give_to_others(reducer: Reducer, alpha: np.ndarray, first: np.ndarray) -> None:
    """Where the split is not unique, as much as can be goes from ``first`` (r1 * G, c) to ``alpha`` (d, c)."""
    if reducer.null.shape[1]:
        shared = reducer.null_pinv @ first
        first -= reducer.C @ (reducer.null @ shared)
        alpha += reducer.null @ shared
