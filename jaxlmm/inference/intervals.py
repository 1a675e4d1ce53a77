"""Profile likelihood intervals of all responses: blocks through ``profile``, and back to the user's units."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from jaxlmm._types import float64_scope
from jaxlmm.engine.block import block_arrays, block_width
from jaxlmm.engine.stream import stream_blocks
from jaxlmm.families.intercept.objective import make_terms
from jaxlmm.families.intercept.reduce import Reducer, Stats
from jaxlmm.inference.distributions import check_level
from jaxlmm.inference.profile import ProfileConstants, profile_block
from jaxlmm.inference.tabular import Table, Tabular
from jaxlmm.optimize.search import make_grid

__all__ = ["Profile", "profile_intervals"]


@dataclass(frozen=True, eq=False, repr=False)
class Profile(Tabular):
    """Profile likelihood intervals of m responses; NaN where a search did not end.

    Attributes
    ----------
    level : float
    group_sd, sigma : ndarray, (m, 2)
        Lower and upper limit of the group and the residual standard deviation. ``group_sd`` is
        NaN without a random effect.
    coef : ndarray, (m, p, 2)
    names : tuple of str
        Of the coefficients.
    """

    level: float
    group_sd: np.ndarray
    sigma: np.ndarray
    coef: np.ndarray
    names: tuple[str, ...] = ()

    def _table(self, level: float) -> Table:
        limits = np.concatenate([self.group_sd[:, None], self.sigma[:, None], self.coef], axis=1)
        names = self.names or tuple(f"x{j}" for j in range(self.coef.shape[1]))
        axes = {"parameter": ("group_sd", "sigma", *names)}
        title = f"Profile likelihood intervals, level {self.level:g}"
        return Table(title, axes, {"conf_low": limits[..., 0], "conf_high": limits[..., 1]})


def profile_intervals(reducer: Reducer, Y: np.ndarray, good: np.ndarray, level: float) -> Profile:
    """Profile likelihood intervals; the models are fitted by maximum likelihood on the way.

    Parameters
    ----------
    reducer : Reducer
    Y : ndarray, (n_obs, m)
    good : ndarray of bool, (m,)
        Responses that have a fit; the others get NaN.
    level : float
    """
    check_level(level)
    projection, spectrum = reducer.projection, reducer.spectrum
    m, p = Y.shape[1], len(spectrum.f)
    out = Profile(level, np.empty((m, 2)), np.empty((m, 2)), np.empty((m, p, 2)))
    width = block_width(m)
    terms = make_terms(spectrum, projection.n_obs, "ML")
    grid = make_grid(np.asarray(terms.d))
    logdets = np.log1p(np.outer(np.expm1(grid) / terms.d_max, terms.d)) @ np.asarray(terms.m)
    cut = np.float64(scipy.special.chdtri(1, 1 - level))
    with float64_scope():
        # The coefficients of the user's X, one by one, as contrasts of those of its basis.
        A = spectrum.basis.contrast(np.eye(p))
        each = (A @ spectrum.f, A @ A.T, A @ spectrum.c0 @ A.T, cut, logdets)
        f, xtx_inv, c0, cut_, logdets_ = map(jnp.asarray, each)
        const = ProfileConstants(jax.device_put(terms), jnp.asarray(grid), f, xtx_inv, c0, cut_, logdets_)

    def start(stats: Stats) -> tuple[jax.Array, ...]:
        ols, u, rest = block_arrays(stats, width)
        raw: tuple[jax.Array, ...] = profile_block(const, spectrum.basis.coef(ols), u, rest)
        return raw

    def store(cols: slice, stats: Stats, raw: tuple[jax.Array, ...]) -> None:
        c = cols.stop - cols.start
        group, sigma, coef = np.asarray(raw[0])[:c], np.asarray(raw[1])[:c], np.asarray(raw[2])[:, :c]
        out.group_sd[cols] = group * stats.scale[:, None]
        out.sigma[cols] = sigma * stats.scale[:, None]
        coef = coef * stats.scale[:, None]
        if projection.columns.constant is not None:
            coef = coef + projection.columns.constant[:, None, None] * (stats.shift * stats.scale)[:, None]
        out.coef[cols] = coef.transpose(1, 0, 2)

    stream_blocks(reducer, Y, width, start, store)
    for array in (out.group_sd, out.sigma, out.coef):
        array[~good] = np.nan
    if not projection.n_groups:
        out.group_sd[:] = np.nan
    return out
