"""Responses as a profile takes them: complete ones, or such as have rows or weights of their own (``incomplete``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jaxlmm.design.random import RandomTerm
from jaxlmm.families.general.family import General, make_general
from jaxlmm.families.general.incomplete import MOST_PHI, OwnKernel, computed, solved, stats_of
from jaxlmm.families.general.layout import Core, Reducer
from jaxlmm.families.general.own_rows import RowSums
from jaxlmm.families.parameters import phi_from_theta
from jaxlmm.sources.weighted import WeightedMatrix, values_of

__all__ = ["CompleteDesign", "OwnDesign", "Profiled", "Reduced", "Responses", "less", "some"]

# Searches that run at once, and the memory that the designs which they bring along take.
SEARCHES, SEARCH_BYTES = 4096, 128 * 2**20

Responses = np.ndarray | WeightedMatrix


@dataclass(frozen=True, eq=False)
class Reduced:
    """c responses, reduced.

    Attributes
    ----------
    family : General or OwnKernel
    stats : pytree of arrays
        As ``family`` takes them.
    nu : float, or ndarray, (c,)
        Numbers of observations.
    scale, root_unit : ndarray, (c,)
        Standard deviations and coefficients are those of ``stats`` times ``scale``, sigma also times ``root_unit``.
    usable : ndarray of bool, (c,)
        Which have a fit that ``stats`` lead to.
    """

    family: General | OwnKernel
    stats: Any
    nu: Any
    scale: np.ndarray
    root_unit: np.ndarray
    usable: np.ndarray


class Profiled(Protocol):
    """A design, and how its responses are reduced. phi and theta are those of ``kernel``."""

    @property
    def kernel(self) -> General:
        """The design of complete responses."""
        ...

    @property
    def searches(self) -> int:
        """How many may run at once."""
        ...

    def without(self, Q: np.ndarray, terms: Sequence[RandomTerm]) -> Profiled:
        """With Q (n_obs, p - 1), orthonormal, in the place of the basis of X."""
        ...

    def reduce(self, Y: Responses) -> Reduced:
        """The responses Y (n_obs, c)."""
        ...

    def solutions(self, theta: np.ndarray, reduced: Reduced, L: np.ndarray) -> tuple[np.ndarray, ...]:
        """pwrss (c,), coefficients (p, c) of the basis of X, variances (q, c) over sigma2 of contrasts L (q, p) of
        these; and where theta is not too far out for them to be right (c,)."""
        ...


@dataclass(frozen=True, eq=False)
class CompleteDesign:
    """``Profiled`` of responses that miss nothing."""

    kernel: General

    @property
    def searches(self) -> int:
        """See :class:`Profiled`."""
        return SEARCHES

    def without(self, Q: np.ndarray, terms: Sequence[RandomTerm]) -> CompleteDesign:
        """See :class:`Profiled`."""
        return CompleteDesign(_with_basis(self.kernel, Q, terms, strata=True))

    def reduce(self, Y: Responses) -> Reduced:
        """See :class:`Profiled`."""
        values = np.asarray(values_of(Y))
        stats, scaling = self.kernel.reduce(values)
        usable = scaling.finite & ~scaling.constant & ~scaling.exact
        return Reduced(self.kernel, stats, float(len(values)), scaling.scale, np.ones(len(usable)), usable)

    def solutions(self, theta: np.ndarray, reduced: Reduced, L: np.ndarray) -> tuple[np.ndarray, ...]:
        """See :class:`Profiled`."""
        return *self.kernel.solutions(theta, reduced.stats, L), np.ones(theta.shape[1], dtype=bool)


@dataclass(frozen=True, eq=False)
class OwnDesign:
    """``Profiled`` of responses with rows, or weights, of their own; ``kernel`` is one of ``layout``."""

    kernel: General
    sums: RowSums

    @property
    def searches(self) -> int:
        """See :class:`Profiled`."""
        return int(np.clip(SEARCH_BYTES // self._own.bytes_per_design, 1, SEARCHES))

    @property
    def _own(self) -> OwnKernel:
        return OwnKernel.of(self.kernel)

    def without(self, Q: np.ndarray, terms: Sequence[RandomTerm]) -> OwnDesign:
        """See :class:`Profiled`."""
        kernel = _with_basis(self.kernel, Q, terms, strata=False)
        assert isinstance(kernel.core, Core) and isinstance(kernel.reducer, Reducer)
        return OwnDesign(kernel, RowSums.make(kernel.core, kernel.reducer, terms, kernel.whiteners))

    def reduce(self, Y: Responses) -> Reduced:
        """See :class:`Profiled`."""
        rows = self.sums.reduce(Y)
        nu = rows.n_used.astype(np.float64)
        return Reduced(self._own, stats_of(rows), nu, rows.scale, np.sqrt(rows.unit), rows.good)

    def solutions(self, theta: np.ndarray, reduced: Reduced, L: np.ndarray) -> tuple[np.ndarray, ...]:
        """See :class:`Profiled`."""
        phi = phi_from_theta(theta, self.kernel.sizes)
        # Nothing of this depends on the method; that of most fits is compiled.
        pwrss, fixef, variance, *_ = computed(self._own, solved, phi, reduced.stats, L, reml=True)
        return pwrss, fixef, variance, np.abs(phi).max(axis=0) < MOST_PHI


def _with_basis(kernel: General, Q: np.ndarray, terms: Sequence[RandomTerm], *, strata: bool) -> General:
    assert kernel.reducer is not None
    return make_general(Q, kernel.reducer.root_w, terms, strata=strata)


def some(Y: Responses, at: np.ndarray) -> Responses:
    """The columns ``at`` of Y, as float64."""
    values = np.asarray(values_of(Y)[:, at], dtype=np.float64)
    return WeightedMatrix(values, Y.weights[:, at]) if isinstance(Y, WeightedMatrix) else values


def less(Y: Responses, change: np.ndarray) -> Responses:
    """Y less ``change`` (n_obs, c), with its weights."""
    return WeightedMatrix(Y.Y - change, Y.weights) if isinstance(Y, WeightedMatrix) else Y - change
