"""Roots of V of each response, for random terms of any structure.

With Z all columns of the random effects (rows times the roots of their weights), T the Cholesky factor of their
relative covariance, and T'Z'Z T = U diag(d) U', V = I + Z T T'Z' has

    V^a = I + Z A Z',   A = T U diag(((1 + d)^a - 1) / d) U'T'
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from jaxlmm.design.design import Design
from jaxlmm.design.random import RandomTerm
from jaxlmm.families.base import covariances

__all__ = ["Roots", "effect_columns", "make_roots", "symmetric_roots"]


@dataclass(frozen=True, eq=False)
class Roots:
    """V^-1/2 and V^1/2 of c responses.

    Attributes
    ----------
    Z : ndarray, (n_obs, q)
    root_w : ndarray, (n_obs, 1)
    inverse, root : ndarray, (c, q, q)
        A of the two powers.
    """

    Z: np.ndarray
    root_w: np.ndarray
    inverse: np.ndarray
    root: np.ndarray

    def whiten(self, r: np.ndarray) -> np.ndarray:
        """V^-1/2 r, for residuals (n_obs, c)."""
        return self._apply(self.inverse, self.root_w * r)

    def colour(self, r: np.ndarray) -> np.ndarray:
        """V^1/2 r, as residuals of the observations again."""
        return self._apply(self.root, r) / self.root_w

    def _apply(self, A: np.ndarray, r: np.ndarray) -> np.ndarray:
        inside = self.Z.T @ r
        return np.asarray(r + self.Z @ np.matmul(A, inside.T[:, :, None])[:, :, 0].T)


def make_roots(design: Design, theta: np.ndarray) -> Roots:
    """Roots of V at theta (c, k); NaN where theta is."""
    n, c = design.n_obs, len(theta)
    root_w = np.ones((n, 1)) if design.weights is None else np.sqrt(design.weights)[:, None]
    columns = [effect_columns(term).reshape(n, -1) for term in design.random]
    Z = root_w * np.concatenate([np.zeros((n, 0)), *columns], axis=1)
    gram, q = Z.T @ Z, Z.shape[1]
    inverse, root = np.full((c, q, q), np.nan), np.full((c, q, q), np.nan)
    relative = covariances(theta, tuple(term.size for term in design.random))
    for j in np.flatnonzero(np.isfinite(theta).all(axis=1)):
        # A symmetric root serves as T as well, and stands where a covariance is singular.
        parts = [
            np.kron(np.eye(t.n_levels), symmetric_roots(Phi[j]))
            for t, Phi in zip(design.random, relative, strict=True)
        ]
        T = scipy.linalg.block_diag(*parts) if parts else np.zeros((0, 0))
        d, U = np.linalg.eigh(T.T @ gram @ T)
        d, TU = np.maximum(d, 0.0), T @ U
        half = np.sqrt(1 + d)
        # (half - 1) / d and (1 / half - 1) / d, without a difference of close numbers.
        root[j] = (TU / (1 + half)) @ TU.T
        inverse[j] = -(TU / (half * (1 + half))) @ TU.T
    return Roots(Z, root_w, inverse, root)


def symmetric_roots(Phi: np.ndarray) -> np.ndarray:
    """Symmetric roots of covariance matrices (..., r, r), which may be singular."""
    values, vectors = np.linalg.eigh(Phi)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]) @ np.swapaxes(vectors, -1, -2))


def effect_columns(term: RandomTerm) -> np.ndarray:
    """The column of each effect of each level, (n_obs, levels, r)."""
    n = len(term.codes)
    Z = np.zeros((n, term.n_levels, term.size))
    Z[np.arange(n), term.codes] = term.Z
    return Z
