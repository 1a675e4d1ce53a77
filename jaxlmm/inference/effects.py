"""Random effects and variance explained: arrays in, arrays out."""

from __future__ import annotations

import numpy as np

from jaxlmm.families.intercept.reduce import Reducer, group_means

__all__ = ["group_modes", "mode_sd", "variance_parts"]

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


def mode_sd(sizes: np.ndarray, lam: np.ndarray, sigma2: np.ndarray) -> np.ndarray:
    """Conditional standard deviations of the modes, (m, G), for groups of ``sizes`` (m, G)."""
    return np.sqrt(sigma2[:, None] * lam[:, None] / (1 + lam[:, None] * sizes))


def variance_parts(X: np.ndarray, coef: np.ndarray) -> np.ndarray:
    """Sample variance of the fixed part X coef (n_obs, m) of each response, (m,), for ``coef`` (m, p)."""
    centred = X - X.mean(axis=0)
    covariance = centred.T @ centred / (len(X) - 1)
    return np.einsum("mi,ij,mj->m", coef, covariance, coef)
