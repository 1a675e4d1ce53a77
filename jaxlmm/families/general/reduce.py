"""One pass over Y: what the general family keeps of a response.

By least squares y = Q a3 + Z2 a2 + Z1 a1 + r with r off all columns. Kept are a3 (``ols``), a2 (``a``),
the coordinates Q1'Z1 a1 (``b``) and r'r (``rest``): at any phi the fit is a combination of these, and
no sum of squares is ever the difference of larger ones. Where the split is not unique (nested factors
share columns), as much as can be is given to Z2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlmm.families.base import Scaling
from jaxlmm.families.general.layout import Core, Reducer
from jaxlmm.families.general.moments import Stats
from jaxlmm.runtime.threads import by_chunks

__all__ = ["coordinates", "reduce_responses", "stats_of_coordinates"]

# Responses are handled in panels of about this many bytes, to stay in cache.
PANEL_BYTES = 2**20
# Root mean square of the arithmetic's rounding errors, relative to the largest value.
NOISE = 4 * np.finfo(np.float64).eps


def reduce_responses(core: Core, reducer: Reducer, Y: np.ndarray) -> tuple[Stats, Scaling]:
    """Statistics of the responses Y (n_obs, c), real of any type."""
    n, c = Y.shape
    stats = dict(
        rest=np.ones(c), b=np.zeros((core.r1 * core.G, c)), a=np.zeros((core.q2, c)), ols=np.zeros((core.p, c))
    )
    scaling = Scaling(np.zeros(c), np.ones(c), np.ones(c, bool), np.zeros(c, bool), np.zeros(c, bool))
    rounding = max(0.5 * np.finfo(Y.dtype).eps if Y.dtype.kind == "f" else 0.0, NOISE)
    width = int(np.clip(PANEL_BYTES // (8 * n), 4, 2048))
    by_chunks(c, width, lambda columns: _panel(reducer, Y, columns, stats, scaling, rounding))
    return Stats(**stats), scaling  # type: ignore[arg-type]


def _panel(
    reducer: Reducer, Y: np.ndarray, cols: slice, stats: dict[str, Any], scaling: Scaling, rounding: float
) -> None:
    with np.errstate(invalid="ignore"):  # a signalling NaN
        y = Y[:, cols].astype(np.float64, order="C", copy=True)
    finite = np.isfinite(y).all(axis=0)
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
    constant = size <= noise
    again = np.where(constant, 1.0, np.exp2(np.floor(np.log2(np.where(constant, 1.0, size)))))
    y /= again
    b = np.zeros((reducer.C.shape[0], y.shape[1]))
    a = np.zeros((reducer.C.shape[1], y.shape[1]))
    for _ in range(2):  # twice is enough (Kahan), for residuals that are small beside the effects
        y = _remove(reducer, y, a, b)
    q2 = reducer.Z2.shape[1]
    rest = np.einsum("ij,ij->j", y, y) if reducer.n_rest else np.zeros(y.shape[1])
    exact = (rest <= len(y) * (noise / again) ** 2) & ~constant & (reducer.n_rest > 0)
    bad = constant | exact | ~finite
    stats["rest"][cols] = np.where(bad, 1.0, rest)  # a bad response must not slow the loops that all share
    stats["b"][:, cols] = np.where(bad, 0.0, b)
    stats["a"][:, cols] = np.where(bad, 0.0, a[:q2])
    stats["ols"][:, cols] = np.where(bad, 0.0, ols / again + a[q2:])
    scaling.scale[cols] = scale * again
    scaling.finite[cols], scaling.constant[cols], scaling.exact[cols] = finite, constant & finite, exact


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


def _remove(reducer: Reducer, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """y less its least squares fit, whose coefficients are added to a (d, c) and b (r1 * G, c)."""
    q2 = reducer.Z2.shape[1]
    first = reducer.Q1t @ y
    off = y - reducer.Q1 @ first
    onto = np.concatenate([reducer.Z2t @ off, reducer.Q.T @ off]) - reducer.C.T @ (reducer.Q1t @ off)
    alpha = reducer.W_pinv @ onto
    first -= reducer.C @ alpha
    if reducer.null.shape[1]:
        shared = reducer.null_pinv @ first
        first -= reducer.C @ (reducer.null @ shared)
        alpha += reducer.null @ shared
    a += alpha
    b += first
    return y - reducer.Q1 @ first - reducer.Z2 @ alpha[:q2] - reducer.Q @ alpha[q2:]
