"""Covariances of contrasts of responses that each have a design of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxlmm.families.base import Curves

__all__ = ["OwnRows"]


@dataclass(frozen=True, eq=False)
class OwnRows:
    """C and its derivatives at the phi of m responses, in coefficients of each response's own basis.

    The user's contrast L is (L - L shift) unit of them: not one matrix, since the centring of columns far from
    zero would be lost in it.

    Attributes
    ----------
    curves : Curves
        Of all p coefficients together, k = 1.
    l1, l2 : ndarray, (m,)
        Derivatives in phi of the log-determinant of the fits' own method.
    shift, unit : ndarray, (m, p, p)
    reml : bool
        The method that ``l1`` and ``l2`` are of.
    """

    curves: Curves
    l1: np.ndarray
    l2: np.ndarray
    shift: np.ndarray
    unit: np.ndarray
    reml: bool

    def contrasts(self, phi: np.ndarray, L: np.ndarray, *, joint: bool) -> Curves:
        """Curves of contrasts L (q, p) of the user's coefficients, at the phi that this was made for."""
        own = self._own(L)
        if joint:
            return self._joint(own)
        return Curves(
            np.einsum("mqi,mij,mqj->mq", own, self.curves.value, own, optimize=True),
            np.einsum("mqi,mkij,mqj->mkq", own, self.curves.first, own, optimize=True),
            np.einsum("mqi,mklij,mqj->mklq", own, self.curves.second, own, optimize=True),
        )

    def orthonormal(self, phi: np.ndarray, L: np.ndarray) -> tuple[Curves, np.ndarray]:
        """See ``families.base.Provider``."""
        columns, R = np.linalg.qr(np.swapaxes(self._own(L), 1, 2))
        return self._joint(np.swapaxes(columns, 1, 2)), np.swapaxes(R, 1, 2)

    def information(self, phi: np.ndarray, *, reml: bool) -> tuple[np.ndarray, np.ndarray]:
        """See ``families.base.Provider``; of the fits' own method alone."""
        if reml != self.reml:
            raise ValueError("these derivatives are those of another method")
        return self.l1[:, None], self.l2[:, None, None]

    def _own(self, L: np.ndarray) -> np.ndarray:
        return np.asarray((L - L @ self.shift) @ self.unit)

    def _joint(self, own: np.ndarray) -> Curves:
        turned = np.swapaxes(own, 1, 2)
        return Curves(
            own @ self.curves.value @ turned,
            own[:, None] @ self.curves.first @ turned[:, None],
            own[:, None, None] @ self.curves.second @ turned[:, None, None],
        )
