"""Covariances of contrasts from what fits have kept, and computed anew where that is not enough."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxlmm.families.base import Curves, Provider
from jaxlmm.families.known import KnownCurves

__all__ = ["KeptCurves"]


@dataclass(frozen=True, eq=False)
class KeptCurves:
    """Tests of the coefficients one by one, from what the fits of m responses have kept; all else is computed anew.

    Attributes
    ----------
    known : KnownCurves
        Of all m responses.
    value : ndarray, (m, p)
        Variances of the coefficients over sigma2.
    compute : function
        Makes the providers of all else, each with the positions of its responses.
    """

    known: KnownCurves
    value: np.ndarray
    compute: Callable[[], Sequence[tuple[np.ndarray, Provider]]]

    @functools.cached_property
    def _parts(self) -> Sequence[tuple[np.ndarray, Provider]]:
        return self.compute()

    def contrasts(self, phi: np.ndarray, L: np.ndarray, *, joint: bool) -> Curves:
        """Curves of contrasts L (q, p) of the user's coefficients."""
        if joint or np.any(np.count_nonzero(L, axis=1) != 1):
            found = [(at, part.contrasts(phi[at], L, joint=joint)) for at, part in self._parts]
            return Curves.joined(len(phi), found)
        at, by = np.nonzero(L)[1], L[L != 0] ** 2
        known = self.known

        def second() -> np.ndarray:
            if np.isfinite(known.second).all():
                return known.second[..., at] * by
            found = [(at, part.contrasts(phi[at], L, joint=joint)) for at, part in self._parts]
            return Curves.joined(len(phi), found).second

        return Curves(self.value[:, at] * by, known.first[..., at] * by, second)

    def orthonormal(self, phi: np.ndarray, L: np.ndarray) -> tuple[Curves, np.ndarray]:
        """See ``families.base.Provider``."""
        P, found = np.full((len(phi), len(L), len(L)), np.nan), []
        for at, part in self._parts:
            curves, P[at] = part.orthonormal(phi[at], L)
            found.append((at, curves))
        return Curves.joined(len(phi), found), P

    def information(self, phi: np.ndarray, *, reml: bool) -> tuple[np.ndarray, np.ndarray]:
        """See ``families.base.Provider``; of the fits' own method."""
        return self.known.l1, self.known.l2
