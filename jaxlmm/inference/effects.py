"""Variance explained: arrays in, arrays out."""

from __future__ import annotations

import numpy as np

__all__ = ["variance_parts"]


def variance_parts(X: np.ndarray, coef: np.ndarray) -> np.ndarray:
    """Sample variance of the fixed part X coef (n_obs, m) of each response, (m,), for ``coef`` (m, p)."""
    centred = X - X.mean(axis=0)
    covariance = centred.T @ centred / (len(X) - 1)
    return np.einsum("mi,ij,mj->m", coef, covariance, coef)
