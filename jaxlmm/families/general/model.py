"""The family of any random terms on a design: blocks of responses through ``family``, in the user's units."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.design.columns import Basis
from jaxlmm.design.design import Design
from jaxlmm.engine.finish import Found, empty_results, finish
from jaxlmm.families.base import Curves, Family, Modes, Provider, Scaling, fill
from jaxlmm.families.deviance import Deviance
from jaxlmm.families.general.family import AnyStats, General, make_general
from jaxlmm.families.general.incomplete import OwnDesigns
from jaxlmm.families.general.layout import Reducer
from jaxlmm.families.general.profile import profile_limits
from jaxlmm.families.general.profiled import CompleteDesign, OwnDesign
from jaxlmm.families.general.reduce import (
    coordinates,
    stats_of_coordinates,
    strata_coordinates,
    strata_of_coordinates,
)
from jaxlmm.families.general.strata import StrataCore, StrataReducer
from jaxlmm.families.known import KnownCurves
from jaxlmm.optimize.several import minimise_several
from jaxlmm.runtime import programs
from jaxlmm.runtime.batches import FULL, on_gpu, padded, take, width_for
from jaxlmm.runtime.device import DeviceMatrix
from jaxlmm.runtime.progress import advance
from jaxlmm.sources.weighted import WeightedMatrix

__all__ = ["RandomTerms"]

# Responses that are fitted at once, on a CPU and on a GPU, and those whose random effects are.
BLOCK, GPU_BLOCK = 4096, 32768
CHUNK = 1024
# A design of its own for so many responses that share it takes less than their fits one by one.
MIN_SHARED = 32


@dataclass(frozen=True, eq=False)
class RandomTerms(Family):
    """Nested, crossed, slopes, several terms on one factor.

    Attributes
    ----------
    design : Design
    basis : Basis
    kernel : General
    """

    design: Design
    basis: Basis
    kernel: General

    @classmethod
    def make(cls, design: Design) -> RandomTerms:
        """All the work that depends on the design alone."""
        root_w, columns = design.root_w, design.columns
        Q, R = np.linalg.qr(columns.unit if root_w is None else root_w[:, None] * columns.unit)
        return cls(design, Basis(columns, R), make_general(Q, root_w, design.random))

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the design, from which all else is made again."""
        return RandomTerms.make, (self.design,)

    def take(self, rows: np.ndarray, weights: np.ndarray | None = None) -> RandomTerms:
        """The same structure on some rows of the design, with other weights if given."""
        return RandomTerms.make(self.design.take(rows, weights))

    def fit(self, Y: Any, method: str) -> dict[str, np.ndarray]:
        """See :class:`jaxlmm.families.base.Family`."""
        m = Y.shape[1]
        out = empty_results(m, self.design.n_fixef, self.n_theta)
        out["n_used"][:] = self.design.n_obs
        if isinstance(Y, DeviceMatrix):
            for at, columns in Y.fetch(np.arange(m)):
                for name, value in self.fit(columns, method).items():
                    out[name][at] = value
            return out
        block = GPU_BLOCK if on_gpu() else BLOCK
        for start in range(0, m, block):
            cols = slice(start, min(start + block, m))
            self._fit_block(Y[:, cols], method, out, cols)
        return out

    @functools.cached_property
    def own(self) -> OwnDesigns | None:
        """The design as responses with rows or weights of their own need it, if that is known."""
        return OwnDesigns.make(self.kernel.blocks, self.basis)

    @property
    def min_shared(self) -> int:  # type: ignore[override]
        """See :class:`jaxlmm.families.base.Family`."""
        return 1 if self.own is None else MIN_SHARED

    def fit_own(
        self,
        Y: np.ndarray | WeightedMatrix,
        where: np.ndarray,
        method: str,
        known: KnownCurves | None = None,
    ) -> dict[str, np.ndarray]:
        """See :class:`jaxlmm.families.base.Family`; what is not clear from sums is fitted on a design of its own."""
        if self.own is None:  # those without an observation
            return super().fit_own(Y, where, method, known)
        out, good = self.own.fit(Y, where, method == "REML", known)
        left = np.flatnonzero(~good)
        if len(left):
            fill(out, known, left, lambda some: self.fit_shared(Y, where[left], method, some, least=1)[0])
        return out

    def incomplete(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, phi: np.ndarray, *, reml: bool
    ) -> list[tuple[np.ndarray, Provider]]:
        """See :class:`jaxlmm.families.base.Family`."""
        if self.own is None:
            return super().incomplete(Y, where, phi, reml=reml)
        at, own = self.own.curves(Y, where, phi, reml)
        left = np.setdiff1d(np.arange(len(where)), at)
        rest = super().incomplete(Y, where[left], phi[left], reml=reml) if len(left) else []
        first: list[tuple[np.ndarray, Provider]] = [] if own is None else [(at, own)]
        return first + [(left[columns], provider) for columns, provider in rest]

    def _fit_block(self, Y: np.ndarray, method: str, out: dict[str, np.ndarray], cols: slice) -> None:
        self._fit_stats(*self.kernel.reduce(Y), method, out, cols)

    def _fit_stats(
        self, stats: AnyStats, scaling: Scaling, method: str, out: dict[str, np.ndarray], cols: slice
    ) -> None:
        kernel, reml = self.kernel, method == "REML"
        n, p = self.design.X.shape
        nu = float(n - p if reml else n)
        problem, contrasts, c = Deviance(kernel, nu, reml), self.basis.contrast(np.eye(p)), len(scaling.scale)
        width = width_for(c, kernel.bytes_per_response)
        some: Any = take(stats, padded(slice(0, c), width, c)) if width <= FULL else None

        def next_programs() -> None:
            anywhere = np.zeros((kernel.n_phi, width))
            kernel.solutions(anywhere, some, contrasts)
            kernel.own_curves(anywhere, contrasts)
            kernel.information(anywhere, reml=reml)

        # Of many responses the compiling is the least part.
        first = contextlib.nullcontext() if some is None else programs.ahead(next_programs, (kernel, some))
        with first:
            optimum = minimise_several(problem, stats, windows=kernel.windows(nu, reml, c))
        pwrss, fixef, variance = kernel.solutions(optimum.theta, stats, contrasts)
        theta = kernel.to_user(optimum.theta)
        found = Found(
            theta, pwrss, optimum.value, kernel.hessian_to_user(optimum.hessian), optimum.converged,
            np.any(optimum.singular, axis=0), self.basis.coef(fixef).T, variance.T,
        )  # fmt: skip
        log_w = 0.0 if self.design.weights is None else float(np.sum(np.log(self.design.weights)))
        logdet = (self.basis.logdet if reml else 0.0) - log_w
        finish(out, cols, found, scaling, intercept=None, nu=nu, logdet=logdet)

    def coordinates(self, Y: np.ndarray) -> np.ndarray:
        """See :class:`jaxlmm.families.base.Family`; those of ``general.reduce``, which are not orthonormal."""
        reducer, Y = self.kernel.reducer, np.asarray(Y, dtype=np.float64)
        assert reducer is not None  # outside of compiled code it is there
        return strata_coordinates(reducer, Y) if isinstance(reducer, StrataReducer) else coordinates(reducer, Y)

    @functools.cached_property
    def _gram(self) -> np.ndarray:
        """Cross-products of the columns that coordinates belong to."""
        reducer = self.kernel.reducer
        assert isinstance(reducer, Reducer)
        columns = np.concatenate([reducer.Q1.toarray(), reducer.Z2.toarray(), reducer.Q], axis=1)
        return np.asarray(columns.T @ columns)

    def explained(self, coordinates: np.ndarray) -> np.ndarray:
        """See :class:`jaxlmm.families.base.Family`."""
        if isinstance(self.kernel.reducer, StrataReducer):
            return np.asarray(np.einsum("ij,ij->j", coordinates, coordinates))
        return np.asarray(np.einsum("ij,ij->j", coordinates, self._gram @ coordinates))

    def fit_coordinates(self, coordinates: np.ndarray, rest: np.ndarray, method: str) -> dict[str, np.ndarray]:
        """See :class:`jaxlmm.families.base.Family`."""
        m = len(rest)
        out = empty_results(m, self.design.n_fixef, self.n_theta)
        out["n_used"][:] = self.design.n_obs
        block = GPU_BLOCK if on_gpu() else BLOCK
        for start in range(0, m, block):
            cols = slice(start, min(start + block, m))
            self._fit_stats(*self._stats(coordinates[:, cols], rest[cols]), method, out, cols)
        return out

    def _stats(self, coordinates: np.ndarray, rest: np.ndarray) -> tuple[AnyStats, Scaling]:
        core, reducer = self.kernel.core, self.kernel.reducer
        if isinstance(core, StrataCore):
            assert isinstance(reducer, StrataReducer)
            return strata_of_coordinates(core, reducer, coordinates, rest)
        return stats_of_coordinates(core, self._gram, coordinates, rest)

    def curves(self, phi: np.ndarray, L: np.ndarray, *, joint: bool) -> Curves:
        """See :class:`jaxlmm.families.base.Family`."""
        if joint:
            return Curves(*self.kernel.curves(np.ascontiguousarray(phi.T), L))

        def second() -> np.ndarray:
            out = np.empty((*phi.shape, phi.shape[1], len(L)))
            for start in range(0, len(phi), CHUNK):  # joint curves of all contrasts take q times the room
                rows = slice(start, start + CHUNK)
                found = self.kernel.curves(np.ascontiguousarray(phi[rows].T), L)[2]
                out[rows] = np.einsum("mklqq->mklq", found)
            return out

        return Curves(*self.kernel.own_curves(np.ascontiguousarray(phi.T), L), second)

    def information(self, phi: np.ndarray, *, reml: bool) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`jaxlmm.families.base.Family`."""
        return self.kernel.information(np.ascontiguousarray(phi.T), reml=reml)

    def profile(self, Y: np.ndarray, good: np.ndarray, cut: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`jaxlmm.families.base.Family`."""
        found = self.no_limits(len(good))
        limits, _ = profile_limits(
            CompleteDesign(self.kernel), self.basis, self.design.random, Y, np.flatnonzero(good), cut
        )
        for whole, part in zip(found, limits, strict=True):
            whole[good] = part
        return found

    def profile_own(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, cut: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :class:`jaxlmm.families.base.Family`; what does not end is searched for on a design of its own."""
        if self.own is None:
            return super().profile_own(Y, where, cut)
        own = OwnDesign(self.own.kernel, self.own.sums)
        found, failed = profile_limits(own, self.basis, self.design.random, Y, where, cut)
        left = np.flatnonzero(failed)
        if len(left):
            advance(-len(left))
            for whole, part in zip(found, super().profile_own(Y, where[left], cut), strict=True):
                whole[left] = part
        return found

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
        if self.own is None or not len(incomplete):
            return super().modes(Y, coef, theta, incomplete=incomplete, reml=reml)
        known, found = self.own.modes(Y, incomplete, theta[incomplete])
        out = super().modes(Y, coef, theta, incomplete=np.delete(incomplete, known), reml=reml)
        for whole, part in zip(out, found, strict=False):  # none where no response is known
            whole.values[incomplete[known]], whole.covariance[incomplete[known]] = part.values, part.covariance
        return out

    def complete_modes(self, Y: np.ndarray, coef: np.ndarray, theta: np.ndarray) -> tuple[Modes, ...]:
        """See :class:`jaxlmm.families.base.Family`."""
        m = len(coef)
        out = tuple(
            Modes(np.empty((m, t.n_levels, t.size)), np.empty((m, t.n_levels, t.size, t.size)))
            for t in self.design.random
        )
        phi = self.phi(theta)
        for start in range(0, m, CHUNK):
            rows = slice(start, min(start + CHUNK, m))
            fixef = self.basis.coords(coef[rows].T)
            found = self.kernel.modes(np.ascontiguousarray(phi[rows].T), fixef, np.asarray(Y[:, rows]))
            for whole, (values, covariance) in zip(out, found, strict=True):
                whole.values[rows] = np.moveaxis(values, -1, 0)
                whole.covariance[rows] = np.moveaxis(covariance, -1, 0)
        for part in out:
            part.values[np.isnan(theta).any(axis=1)] = np.nan
        return out
