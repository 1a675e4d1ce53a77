"""The family of one random intercept, and of none: everything on the spectrum of Z'MZ."""

from __future__ import annotations

import collections
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm._types import float64_scope
from jaxlmm.design.columns import Basis
from jaxlmm.design.design import Design
from jaxlmm.engine.finish import empty_results
from jaxlmm.engine.stream import stream_blocks
from jaxlmm.families.base import Curves, Family, Modes, Provider
from jaxlmm.families.intercept import curves, modes, null
from jaxlmm.families.intercept.block import BlockFitter, Raw, Results
from jaxlmm.families.intercept.intervals import profile_limits
from jaxlmm.families.intercept.objective import make_terms
from jaxlmm.families.intercept.reduce import Reducer, Stats, design_reducer, stats_of_coordinates
from jaxlmm.families.intercept.stream_device import fit_on_device
from jaxlmm.families.known import KnownCurves
from jaxlmm.families.own.incomplete import cross_matrices, cross_modes, fit_incomplete
from jaxlmm.families.own.profile import own_profile
from jaxlmm.families.own.provider import OwnRows
from jaxlmm.families.own.reduce import OwnDesign
from jaxlmm.families.patterns import MIN_SHARED
from jaxlmm.runtime.device import DeviceMatrix
from jaxlmm.runtime.threads import single_threaded_blas
from jaxlmm.sources.weighted import WeightedMatrix, values_of

__all__ = ["Intercept"]


@dataclass(frozen=True, eq=False)
class Intercept(Family):
    """One random intercept (k = 1), or ordinary least squares (k = 0)."""

    design: Design
    reducer: Reducer
    min_shared = MIN_SHARED

    @classmethod
    def make(cls, design: Design) -> Intercept:
        """All the work that depends on the design alone."""
        return cls(design, design_reducer(design))

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the design, from which all else is made again."""
        return Intercept.make, (self.design,)

    @property
    def basis(self) -> Basis:  # type: ignore[override]
        """Orthonormal basis of X."""
        return self.reducer.spectrum.basis

    @functools.cached_property
    def own(self) -> OwnDesign:
        """The design as responses with missing observations need it."""
        with single_threaded_blas():  # threads of small products would still wait for work while responses are fitted
            return OwnDesign.make(self.design, self.reducer)

    def take(self, rows: np.ndarray, weights: np.ndarray | None = None) -> Intercept:
        """The same structure on some rows of the design, with other weights if given."""
        return Intercept.make(self.design.take(rows, weights))

    def fit(self, Y: Any, method: str) -> dict[str, np.ndarray]:
        """See :class:`jaxlmm.families.base.Family`."""
        m = Y.shape[1]
        out = empty_results(m, self.design.n_fixef, self.n_theta)
        out["n_used"][:] = self.design.n_obs
        if isinstance(Y, DeviceMatrix):
            left = np.flatnonzero(fit_on_device(self.reducer, Y, method, out))
            for at, columns in Y.fetch(left):
                for name, value in self.fit(columns, method).items():
                    out[name][left[at]] = value
            return out
        with float64_scope():
            fitter = BlockFitter.make(self.reducer, method, m)
        results = Results(fitter, out)
        stream_blocks(self.reducer, Y, fitter.width, fitter.start, results.store)
        return results.settled()

    def coordinates(self, Y: np.ndarray) -> np.ndarray:
        """See :class:`jaxlmm.families.base.Family`; orthonormal."""
        y = self.reducer.projection.weighted(np.asarray(Y, dtype=np.float64))
        return self.reducer.coords(np.ascontiguousarray(y))

    def explained(self, coordinates: np.ndarray) -> np.ndarray:
        """See :class:`jaxlmm.families.base.Family`."""
        return np.asarray(np.einsum("ij,ij->j", coordinates, coordinates))

    def fit_coordinates(self, coordinates: np.ndarray, rest: np.ndarray, method: str) -> dict[str, np.ndarray]:
        """See :class:`jaxlmm.families.base.Family`."""
        m = len(rest)
        out = empty_results(m, self.design.n_fixef, self.n_theta)
        out["n_used"][:] = self.design.n_obs
        with float64_scope(), single_threaded_blas():  # many small products: threads would only wait for each other
            fitter = BlockFitter.make(self.reducer, method, m)
            results, waiting = Results(fitter, out), collections.deque[tuple[slice, Stats, Raw]]()
            for start in range(0, m, fitter.width):
                cols = slice(start, min(start + fitter.width, m))
                stats = stats_of_coordinates(self.reducer, coordinates[:, cols], rest[cols])
                waiting.append((cols, stats, fitter.start(stats)))
                if len(waiting) > 1:  # JAX works on this block while the one before is stored
                    results.store(*waiting.popleft())
            for entry in waiting:
                results.store(*entry)
            return results.settled()

    def fit_own(
        self,
        Y: np.ndarray | WeightedMatrix,
        where: np.ndarray,
        method: str,
        known: KnownCurves | None = None,
    ) -> dict[str, np.ndarray]:
        return fit_incomplete(self.own, Y, where, method == "REML", known)

    def know(self, known: KnownCurves, at: np.ndarray, theta: np.ndarray, method: str) -> None:
        """See :class:`jaxlmm.families.base.Family`."""
        phi = self.phi(theta)
        found = self.contrasts(phi, np.eye(self.design.n_fixef), joint=False)
        l1, l2 = self.information(phi, reml=method == "REML")
        known.put(at, KnownCurves(phi, found.first, found.second, l1, l2))

    def incomplete(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, phi: np.ndarray, *, reml: bool
    ) -> list[tuple[np.ndarray, Provider]]:
        """See :class:`jaxlmm.families.base.Family`."""
        C, C1, C2, l1, l2, shift, unit = cross_matrices(self.own, Y, where, _lam(phi), reml)
        own = OwnRows(Curves(C, C1[:, None], C2[:, None, None]), l1, l2, shift, unit, reml)
        return [(np.arange(len(where)), own)]

    def curves(self, phi: np.ndarray, L: np.ndarray, *, joint: bool) -> Curves:
        """See :class:`jaxlmm.families.base.Family`."""
        found = curves.spectral_curves(self.reducer.spectrum, _lam(phi), L, joint=joint)
        return found if self.n_theta else Curves(found.value, found.first[:, :0], found.second[:, :0, :0])

    def information(self, phi: np.ndarray, *, reml: bool) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`jaxlmm.families.base.Family`."""
        k, terms = self.n_theta, make_terms(self.reducer.spectrum, self.design.n_obs, "REML" if reml else "ML")
        l1, l2 = curves.information(terms, _lam(phi))
        return l1[:, None][:, :k], l2[:, None, None][:, :k, :k]

    def modes(
        self,
        Y: np.ndarray | WeightedMatrix,
        coef: np.ndarray,
        theta: np.ndarray,
        *,
        incomplete: np.ndarray,
        reml: bool,
    ) -> tuple[Modes, ...]:
        """See :class:`jaxlmm.families.base.Family`."""
        if not self.n_theta:
            return ()
        lam = theta[:, 0] ** 2
        if len(incomplete) < len(lam):
            values = modes.group_modes(self.reducer, values_of(Y), coef, lam)
        else:
            values = np.empty((len(lam), self.design.n_groups))
        sizes = np.broadcast_to(self.reducer.projection.sizes, values.shape)
        if len(incomplete):
            sizes = sizes.copy()
            values[incomplete], sizes[incomplete] = cross_modes(self.own, Y, incomplete, lam[incomplete], reml)
        spread = lam[:, None] / (1 + lam[:, None] * sizes)
        return (Modes(values[:, :, None], spread[:, :, None, None]),)

    def profile(self, Y: np.ndarray, good: np.ndarray, cut: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`jaxlmm.families.base.Family`."""
        return profile_limits(self.reducer, Y, good, cut)

    def profile_incomplete(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, cut: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`jaxlmm.families.base.Family`."""
        return own_profile(self.own, Y, where, cut)

    def null_distribution(self, n_sim: int, seed: int, method: str) -> np.ndarray:
        """Likelihood ratios (n_sim,) of group variance 0, simulated where that is true; sorted."""
        return null.null_distribution(self.reducer.spectrum, self.design.n_obs, n_sim=n_sim, seed=seed, method=method)


def _lam(phi: np.ndarray) -> np.ndarray:
    return phi[:, 0] if phi.shape[1] else np.zeros(len(phi))
