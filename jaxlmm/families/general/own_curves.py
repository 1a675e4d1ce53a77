"""Covariances of contrasts of responses that each have a design of their own, one grouping factor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxlmm.families.base import Curves

__all__ = ["OwnMatrices"]


@dataclass(frozen=True, eq=False)
class OwnMatrices:
    """Of m responses at their phi, as ``families.base.Provider``.

    Attributes
    ----------
    value, first : ndarray, (m, p, p), (m, k, p, p)
        Covariances over sigma2 of the coefficients of a basis that all share, and derivatives in phi.
    second : function
        Gives the second derivatives (m, k, k, p, p), for which the observations are read again.
    l1, l2 : ndarray, (m, k), (m, k, k)
        Derivatives of the log-determinant of the fits' own method.
    reml : bool
        The method that they are of.
    basis : function
        Contrasts (q, p) of the coefficients of that basis, of contrasts (q, p) of the user's.
    """

    value: np.ndarray
    first: np.ndarray
    second: Callable[[], np.ndarray]
    l1: np.ndarray
    l2: np.ndarray
    reml: bool
    basis: Callable[[np.ndarray], np.ndarray]

    def contrasts(self, phi: np.ndarray, L: np.ndarray, *, joint: bool) -> Curves:
        """Curves of contrasts L (q, p) of the user's coefficients, at the phi that this was made for."""
        own = self.basis(L)
        return self._joint(own) if joint else self._one_by_one(own)

    def orthonormal(self, phi: np.ndarray, L: np.ndarray) -> tuple[Curves, np.ndarray]:
        """See ``families.base.Provider``."""
        columns, R = np.linalg.qr(self.basis(L).T)
        return self._joint(columns.T), np.broadcast_to(R.T, (len(phi), *R.shape))

    def information(self, phi: np.ndarray, *, reml: bool) -> tuple[np.ndarray, np.ndarray]:
        """See ``families.base.Provider``; of the fits' own method alone."""
        if reml != self.reml:
            raise ValueError("these derivatives are those of another method")
        return self.l1, self.l2

    @functools.cached_property
    def _second(self) -> np.ndarray:
        return self.second()

    def _joint(self, own: np.ndarray) -> Curves:
        return Curves(own @ self.value @ own.T, own @ self.first @ own.T, lambda: own @ self._second @ own.T)

    def _one_by_one(self, own: np.ndarray) -> Curves:
        def diagonals(matrices: np.ndarray) -> np.ndarray:
            return np.asarray(np.einsum("qi,...ij,qj->...q", own, matrices, own, optimize=True))

        return Curves(diagonals(self.value), diagonals(self.first), lambda: diagonals(self._second))
