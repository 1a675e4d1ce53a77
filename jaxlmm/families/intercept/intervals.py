"""Profile likelihood limits on one spectrum: blocks through ``profile``, and back to the user's units."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm._types import float64_scope
from jaxlmm.engine.blocks import block_width
from jaxlmm.engine.stream import stream_blocks
from jaxlmm.families.intercept.block import block_arrays
from jaxlmm.families.intercept.estimates import se2_weights
from jaxlmm.families.intercept.objective import make_terms
from jaxlmm.families.intercept.profile import ProfileConstants, profile_block
from jaxlmm.families.intercept.reduce import Reducer, Stats
from jaxlmm.optimize.search import make_grid
from jaxlmm.runtime.progress import advance

__all__ = ["profile_limits"]


def profile_limits(
    reducer: Reducer, Y: np.ndarray, good: np.ndarray, cut: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the profiled deviance has risen by ``cut``; fitted by maximum likelihood on the way.

    See ``families.base.Family.profile``.
    """
    projection, spectrum = reducer.projection, reducer.spectrum
    m, p = Y.shape[1], len(spectrum.f)
    random, sigma, coef = np.empty((m, 1, 2)), np.empty((m, 2)), np.empty((m, p, 2))
    width = block_width(m)
    terms = make_terms(spectrum, projection.n_obs, "ML")
    grid = make_grid(np.asarray(terms.d))
    logdets = np.log1p(np.outer(np.expm1(grid) / terms.d_max, terms.d)) @ np.asarray(terms.m)
    with float64_scope():
        # The coefficients of the user's X, one by one, as contrasts of those of its basis.
        A = spectrum.basis.contrast(np.eye(p))
        xtx_inv, limit, _ = se2_weights(spectrum)
        each = map(jnp.asarray, (grid, A @ spectrum.f, xtx_inv, limit, np.float64(cut), logdets))
        const = ProfileConstants(jax.device_put(terms), *each)

    def start(stats: Stats) -> tuple[jax.Array, ...]:
        ols, u, rest = block_arrays(stats, width)
        raw: tuple[jax.Array, ...] = profile_block(const, spectrum.basis.coef(ols), u, rest)
        return raw

    def store(cols: slice, stats: Stats, raw: tuple[jax.Array, ...]) -> None:
        c = cols.stop - cols.start
        random[cols, 0] = np.asarray(raw[0])[:c] * stats.scale[:, None]
        sigma[cols] = np.asarray(raw[1])[:c] * stats.scale[:, None]
        b = (np.asarray(raw[2])[:, :c] + stats.start[:, :, None]) * stats.scale[:, None]
        if projection.columns.constant is not None:
            b = b + projection.columns.constant[:, None, None] * (stats.shift * stats.scale)[:, None]
        coef[cols] = b.transpose(1, 0, 2)
        advance(int(np.count_nonzero(good[cols])))

    stream_blocks(reducer, Y, width, start, store)
    for array in (random, sigma, coef):
        array[~good] = np.nan
    return random[:, : int(projection.n_groups > 0)], sigma, coef
