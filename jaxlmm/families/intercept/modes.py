"""Conditional modes of the group intercepts."""

from __future__ import annotations

import numpy as np

from jaxlmm.families.intercept.reduce import Reducer, group_means

__all__ = ["group_modes"]

# Responses whose group means are formed at once.
CHUNK = 2048


def group_modes(reducer: Reducer, Y: np.ndarray, coef: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """Conditional modes of the group intercepts, (m, G).

    Parameters
    ----------
    reducer : Reducer
    Y : ndarray, (n_obs, m)
    coef : ndarray, (m, p)
        In units of the user's X.
    lam : ndarray, (m,)
    """
    projection = reducer.projection
    modes = np.empty((len(lam), projection.n_groups))
    if not projection.n_groups:
        return modes
    for start in range(0, len(lam), CHUNK):
        rows = slice(start, start + CHUNK)
        means, shift = group_means(projection, Y[:, rows])
        weight = lam[rows, None] * projection.sizes
        with np.errstate(invalid="ignore"):
            fixed = projection.x_mean @ projection.columns.unit_coef(coef[rows].T) - shift
            modes[rows] = (means - fixed).T * (weight / (1 + weight))
    return modes
