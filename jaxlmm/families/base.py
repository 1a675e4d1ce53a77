"""What a model family is: the one seam between a random structure and everything above it.

The model of one response is

    y = Q b + sum_t Z_t b_t + e,     var(e) = sigma2 I,     cov(b_t of one level) = sigma2 Phi_t

with Q (n_obs, p) an orthonormal basis of the columns of X (``design.columns.Basis``; rows of Q, Z_t and y
are multiplied by the roots of their weights before). The relative covariances of all terms, one after
another, each by the columns of its lower triangle, are the vector ``phi`` (k,): V = I + sum_s phi_s G_s
is linear in it. ``theta`` (k,) are lme4's parameters, the lower triangles of the Cholesky factors of
Phi_t in the same order; ``parameters`` takes one to the other, and derivatives along.

The deviance, up to constants, is nu log s(phi) + l(phi), with s the penalised weighted residual sum of
squares (pwrss) and l = log|V| for ML, log|V| + log|Q'V^-1Q| for REML.

A family needs no more than the abstract methods of :class:`Family`. What is built on them here (responses with
missing observations or weights of their own, tests of contrasts together) is right for any family; a family that
knows a faster way brings its own. Tests, degrees of freedom, intervals, tables and files stand above
and name no family.
"""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from jaxlmm._types import Status
from jaxlmm.design.columns import Basis
from jaxlmm.design.design import Design
from jaxlmm.engine.finish import Scaling, empty_results
from jaxlmm.families.known import KnownCurves
from jaxlmm.families.parameters import lower_triangle, phi_from_theta
from jaxlmm.families.patterns import cells, misses_some, missing_mask, probed, shared_designs
from jaxlmm.runtime.threads import by_chunks
from jaxlmm.sources.weighted import WeightedMatrix, values_of

__all__ = [
    "Covariance", "Curves", "Family", "Modes", "Moments", "Provider", "Scaling", "covariances", "fill",
]  # fmt: skip

# Columns of one pattern that are copied together.
COLUMNS_AT_ONCE = 8192
# Designs whose rows, and weights, are held together, to be fitted side by side.
DESIGNS_AT_ONCE = 64
# Columns that are looked at before it is assumed that most are complete, as they are in most data.
PROBED_COLUMNS = 32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """pwrss ``s`` and log-determinants ``l`` at phi, with derivatives in phi.

    ``s``, ``l`` (c,); ``s1``, ``l1`` (k, c); ``s2``, ``l2`` (k, k, c).
    """

    s: jax.Array
    s1: jax.Array
    s2: jax.Array
    l: jax.Array  # noqa: E741
    l1: jax.Array
    l2: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Covariance:
    """L C L' for C = (Q'V^-1Q)^-1 and contrasts L (q, p), with derivatives in phi.

    ``value`` (q, q, c), ``first`` (k, q, q, c), ``second`` (k, k, q, q, c).
    """

    value: jax.Array
    first: jax.Array
    second: jax.Array


@dataclass(frozen=True, eq=False)
class Curves:
    """L C L' for contrasts L of the user's coefficients, with derivatives in phi; numpy, the response axis first.

    For q contrasts one by one: ``value`` (m, q), ``first`` (m, k, q), ``second`` (m, k, k, q); for q
    contrasts together (m, q, q), (m, k, q, q), (m, k, k, q, q). ``later`` is ``second``, or a function that gives it:
    most tests need none.
    """

    value: np.ndarray
    first: np.ndarray
    later: np.ndarray | Callable[[], np.ndarray]

    @functools.cached_property
    def second(self) -> np.ndarray:
        """Second derivatives."""
        return self.later() if callable(self.later) else self.later

    def rows(self, where: Any) -> Curves:
        """Those of some responses."""
        return Curves(self.value[where], self.first[where], lambda: self.second[where])

    @classmethod
    def empty(cls, m: int, k: int, q: int, joint: bool) -> Curves:
        """Room for m responses."""
        shape = (q, q) if joint else (q,)
        return cls(np.full((m, *shape), np.nan), np.full((m, k, *shape), np.nan), np.full((m, k, k, *shape), np.nan))

    @classmethod
    def joined(cls, m: int, parts: Sequence[tuple[np.ndarray, Curves]]) -> Curves:
        """Of m responses, from parts of them; NaN where a response is in none."""

        def put(arrays: Sequence[np.ndarray]) -> np.ndarray:
            out = np.full((m, *arrays[0].shape[1:]), np.nan)
            for (where, _), array in zip(parts, arrays, strict=True):
                out[where] = array
            return out

        value, first = put([part.value for _, part in parts]), put([part.first for _, part in parts])
        return cls(value, first, lambda: put([part.second for _, part in parts]))


@dataclass(frozen=True, eq=False)
class Modes:
    """Conditional modes of one random term, (m, levels, r), and their covariances over sigma2, (m, levels, r, r)."""

    values: np.ndarray
    covariance: np.ndarray


class Provider(Protocol):
    """What tests and intervals need of a set of responses at given phi (m, k)."""

    def contrasts(self, phi: np.ndarray, L: np.ndarray, *, joint: bool) -> Curves:
        """Curves of contrasts L (q, p) of the user's coefficients."""
        ...

    def orthonormal(self, phi: np.ndarray, L: np.ndarray) -> tuple[Curves, np.ndarray]:
        """Joint curves of an orthonormal basis O of the contrasts L, and lower triangles P (m, q, q) with L = P O."""
        ...

    def information(self, phi: np.ndarray, *, reml: bool) -> tuple[np.ndarray, np.ndarray]:
        """First (m, k) and second derivatives (m, k, k) of the log-determinant l in phi."""
        ...


class Family(abc.ABC):
    """A random structure on one design."""

    design: Design
    basis: Basis
    # Patterns of missing observations, and weights, of at least so many responses get a design of their own.
    min_shared = 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Columns of each random term."""
        return tuple(term.size for term in self.design.random)

    @property
    def n_theta(self) -> int:
        """k, the number of variance parameters beside sigma2."""
        return sum(r * (r + 1) // 2 for r in self.sizes)

    def phi(self, theta: np.ndarray) -> np.ndarray:
        """phi (m, k) of theta (m, k)."""
        return phi_rows(theta, self.sizes)

    @abc.abstractmethod
    def take(self, rows: np.ndarray, weights: np.ndarray | None = None) -> Family:
        """The same structure on some rows of the design, with other weights if given; ValueError for no design."""

    # -- responses in, results out ------------------------------------------------------------

    @abc.abstractmethod
    def fit(self, Y: Any, method: str) -> dict[str, np.ndarray]:
        """Fit the columns of Y (n_obs, m), array or ``DeviceMatrix``; a column with NaN is not fitted.

        Returns
        -------
        dict
            The arrays of ``engine.finish.empty_results``.
        """

    def fit_columns(
        self, Y: Any, method: str, *, keep: bool = False
    ) -> tuple[dict[str, np.ndarray], KnownCurves | None]:
        """Fit all columns of Y, those that miss observations or have weights of their own too.

        Also returns, if ``keep``, what is known for tests of the latter; None where there are none.
        """
        sizes = Y.shape[1], self.design.n_fixef, self.n_theta
        if isinstance(Y, WeightedMatrix):
            known = KnownCurves.empty(*sizes) if keep else None
            return self.fit_incomplete(Y, np.arange(sizes[0]), method, known), known
        out, known = self._fit_complete(Y, method) if _is_mostly_incomplete(Y) else self.fit(Y, method), None
        where = np.flatnonzero(out["status"] == Status.NONFINITE)
        if len(where) and Y.dtype.kind == "f":
            known = KnownCurves.empty(*sizes) if keep else None
            fill(out, known, where, lambda some: self.fit_incomplete(Y, where, method, some))
        return out, known

    def _fit_complete(self, Y: np.ndarray, method: str) -> dict[str, np.ndarray]:
        """:meth:`fit` of the columns of Y that miss nothing, for where most do."""
        out = failed_results(Y.shape[1], self.design.n_fixef, self.n_theta, Status.NONFINITE)
        columns = np.arange(Y.shape[1])
        complete = np.flatnonzero(~misses_some(Y, columns, probed(Y, columns)))
        for start in range(0, len(complete), COLUMNS_AT_ONCE):
            at = complete[start : start + COLUMNS_AT_ONCE]
            for name, value in self.fit(Y[:, at], method).items():
                out[name][at] = value
        return out

    def fit_incomplete(
        self,
        Y: np.ndarray | WeightedMatrix,
        where: np.ndarray,
        method: str,
        known: KnownCurves | None = None,
    ) -> dict[str, np.ndarray]:
        """Fit the columns ``where`` of Y (n_obs, any), each to the rows where it is not NaN, with its weights.

        Without weights, a column without NaN is not fitted: it has the status of what is not finite. What a
        family has computed for tests anyway goes to ``known``, which has room for these columns.
        """
        out, alone = self.fit_shared(Y, where, method, known, self.min_shared)
        if alone.any():
            fill(out, known, alone, lambda some: self.fit_own(Y, where[alone], method, some))
        _name_nonfinite(out, values_of(Y), where)
        return out

    def fit_shared(
        self,
        Y: np.ndarray | WeightedMatrix,
        where: np.ndarray,
        method: str,
        known: KnownCurves | None,
        least: int,
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """As :meth:`fit_incomplete`, of designs that at least ``least`` of the responses share, made one by one.

        Also returns which responses are of other designs, or have no observation.
        """
        out = failed_results(len(where), self.design.n_fixef, self.n_theta, Status.TOO_FEW)
        alone, values, few = np.ones(len(where), dtype=bool), values_of(Y), None
        if not isinstance(Y, WeightedMatrix):
            few = probed(Y, where)
            # Where nothing is missing, something is infinite.
            alone = misses_some(Y, where, few)
            out["status"][~alone], out["n_used"][~alone] = Status.NONFINITE, self.design.n_obs

        def fit(rows: np.ndarray, weights: np.ndarray | None, columns: np.ndarray) -> None:
            out["n_used"][columns] = np.count_nonzero(rows)
            try:
                shared = self._take(rows, weights)
            except ValueError:
                return
            for start in range(0, len(columns), COLUMNS_AT_ONCE):
                at = columns[start : start + COLUMNS_AT_ONCE]
                for name, value in shared.fit(cells(values, rows, where[at]), method).items():
                    out[name][at] = value
                if known is not None:
                    shared.know(known, at, out["theta"][at], method)

        found = (one for one in shared_designs(Y, where, least, few) if one[0].any() and alone[one[2][0]])
        at_once = 1  # the first compiles what the others, side by side, need too
        while designs := list(itertools.islice(found, at_once)):
            at_once = DESIGNS_AT_ONCE
            for _, _, columns in designs:
                alone[columns] = False
            by_chunks(len(designs), 1, lambda some: fit(*designs[some.start]))
        return out, alone

    def know(self, known: KnownCurves, at: np.ndarray, theta: np.ndarray, method: str) -> None:
        """Write to ``known``, of its responses ``at``, which have theta (c, k) on this design, if that is cheap."""
        return None

    def designs(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Family]]:
        """The designs of the columns ``where`` of Y, which miss observations or have weights of their own.

        Each with the positions in ``where`` of its responses and the mask of its rows; those that share one together.
        """
        for rows, weights, columns in shared_designs(Y, where):
            yield columns, rows, self._take(rows, weights)

    def _take(self, rows: np.ndarray, weights: np.ndarray | None) -> Family:
        return self.take(rows) if weights is None else self.take(rows, weights)

    def fit_own(
        self,
        Y: np.ndarray | WeightedMatrix,
        where: np.ndarray,
        method: str,
        known: KnownCurves | None = None,
    ) -> dict[str, np.ndarray]:
        """Fit the columns ``where`` of Y, whose patterns of missing observations, or weights, few others share.

        ``known`` as in :meth:`fit_incomplete`.
        """
        return failed_results(len(where), self.design.n_fixef, self.n_theta, Status.TOO_FEW) | {
            "n_used": np.sum(~missing_mask(Y, where), axis=0)
        }

    def incomplete(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, phi: np.ndarray, *, reml: bool
    ) -> list[tuple[np.ndarray, Provider]]:
        """Providers for the columns ``where`` of Y, incomplete or weighted, which have phi (len(where), k).

        Each with the positions in ``where`` of its responses.
        """
        return [(columns, self._take(rows, weights)) for rows, weights, columns in shared_designs(Y, where)]

    # -- covariances of contrasts of the coefficients of Q ----------------------------------------

    @abc.abstractmethod
    def curves(self, phi: np.ndarray, L: np.ndarray, *, joint: bool) -> Curves:
        """Of contrasts L (q, p) of the coefficients of Q, at phi (m, k)."""

    @abc.abstractmethod
    def information(self, phi: np.ndarray, *, reml: bool) -> tuple[np.ndarray, np.ndarray]:
        """First (m, k) and second derivatives (m, k, k) of the log-determinant l in phi."""

    def contrasts(self, phi: np.ndarray, L: np.ndarray, *, joint: bool) -> Curves:
        """Of contrasts L (q, p) of the user's coefficients."""
        return self.curves(phi, self.basis.contrast(L), joint=joint)

    def orthonormal(self, phi: np.ndarray, L: np.ndarray) -> tuple[Curves, np.ndarray]:
        """Joint curves of an orthonormal basis O of the user's contrasts L, and triangles P (m, q, q) with L = P O.

        Nothing is lost in O where contrasts are nearly parallel.
        """
        columns, R = np.linalg.qr(self.basis.contrast(L).T)
        curves = self.curves(phi, columns.T, joint=True)
        return curves, np.broadcast_to(R.T, (len(phi), *R.shape))

    # -- resampled responses: what a family may know a faster way to --------------------------------------

    def coordinates(self, Y: np.ndarray) -> np.ndarray | None:
        """Coordinates (r, c) of complete responses on the columns of [X, Z], linear in Y (n_obs, c).

        With the sum of squares that they leave they are all that :meth:`fit_coordinates` needs, so that responses
        that are sums of others (with other signs, with simulated effects) need no pass over the observations. None:
        the family knows no such way.
        """
        return None

    def explained(self, coordinates: np.ndarray) -> np.ndarray:
        """Sum of squares (c,) of what the coordinates (r, c) span."""
        raise NotImplementedError

    def fit_coordinates(self, coordinates: np.ndarray, rest: np.ndarray, method: str) -> dict[str, np.ndarray]:
        """Fit responses given by coordinates (r, c) and the sum of squares (c,) that these leave; see :meth:`fit`."""
        raise NotImplementedError

    # -- profiles, null distributions: what a family may know a way to ------------------------------------

    def profile(self, Y: np.ndarray, good: np.ndarray, cut: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Limits at which the profiled deviance (ML) has risen by ``cut``, for the responses ``good`` (m,).

        Returns
        -------
        random, sigma, coef : ndarray, (m, K, 2), (m, 2), (m, p, 2)
            Of the K standard deviations and correlations, term by term as lme4's ``confint``; NaN where not found.
        """
        terms = " + ".join(term.label for term in self.design.random)
        raise ValueError(f"there are no profile intervals of a model with {terms}; use conf_int.")

    def profile_incomplete(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, cut: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`profile`, of the columns ``where`` of Y, which miss observations or have weights of their own."""
        found, alone = self._profile_shared(Y, where, cut, self.min_shared)
        if alone.any():
            for whole, part in zip(found, self.profile_own(Y, where[alone], cut), strict=True):
                whole[alone] = part
        return found

    def profile_own(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, cut: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`profile_incomplete`, of columns whose patterns, or weights, few others share."""
        return self._profile_shared(Y, where, cut, least=1)[0]

    def _profile_shared(
        self, Y: np.ndarray | WeightedMatrix, where: np.ndarray, cut: float, least: int
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        """:meth:`profile_incomplete` of designs that at least ``least`` of the responses share, made one by one.

        Also returns which responses are of other designs.
        """
        values, alone = values_of(Y), np.ones(len(where), dtype=bool)
        found = self.no_limits(len(where))
        for rows, weights, columns in shared_designs(Y, where, least):
            part, alone[columns] = self._take(rows, weights), False
            limits = part.profile(cells(values, rows, where[columns]), np.ones(len(columns), dtype=bool), cut)
            for whole, some in zip(found, limits, strict=True):
                whole[columns] = some
        return found, alone

    def no_limits(self, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Room for what :meth:`profile` returns, NaN."""
        return (
            np.full((m, self.n_theta, 2), np.nan),
            np.full((m, 2), np.nan),
            np.full((m, self.design.n_fixef, 2), np.nan),
        )

    def null_distribution(self, n_sim: int, seed: int, method: str) -> np.ndarray:
        """Likelihood ratios (n_sim,) of no random effect, simulated where that is true; sorted."""
        raise NotImplementedError

    # -- random effects ---------------------------------------------------------------------------

    def modes(
        self,
        Y: np.ndarray | WeightedMatrix,
        coef: np.ndarray,
        theta: np.ndarray,
        *,
        incomplete: np.ndarray,
        reml: bool,
    ) -> tuple[Modes, ...]:
        """Conditional modes of each term, for columns of Y (n_obs, m).

        ``coef`` (m, p) are those of the user's X, at theta (m, k); the columns ``incomplete`` miss observations or
        have weights of their own. A level that a response has no observation of has the mode 0, and the covariance
        Phi.
        """
        values = values_of(Y)
        out = self.complete_modes(values, coef, theta)
        for rows, weights, columns in shared_designs(Y, incomplete) if len(incomplete) else ():
            at = incomplete[columns]
            part = self._take(rows, weights).complete_modes(cells(values, rows, at), coef[at], theta[at])
            Phi = covariances(theta[at], self.sizes)
            for whole, some, term, own in zip(out, part, self.design.random, Phi, strict=True):
                there = np.unique(term.codes[rows])
                whole.values[at], whole.covariance[at] = 0.0, own[:, None]
                whole.values[np.ix_(at, there)], whole.covariance[np.ix_(at, there)] = some.values, some.covariance
        return out

    def complete_modes(self, Y: np.ndarray, coef: np.ndarray, theta: np.ndarray) -> tuple[Modes, ...]:
        """As :meth:`modes`, of columns without missing observations."""
        raise NotImplementedError


def covariances(theta: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Phi (m, r, r) of each term, from theta (m, k)."""
    out, start = [], 0
    for r in sizes:
        rows, columns = lower_triangle(r)
        T = np.zeros((len(theta), r, r))
        T[:, rows, columns] = theta[:, start : start + len(rows)]
        start += len(rows)
        out.append(T @ np.swapaxes(T, 1, 2))
    return out


def _is_mostly_incomplete(Y: Any) -> bool:
    """Whether most of a few columns of Y, spread over all, miss observations."""
    if not isinstance(Y, np.ndarray) or Y.dtype.kind != "f" or Y.shape[1] < 8 * PROBED_COLUMNS:
        return False
    some = np.asarray(np.isnan(Y[:, :: Y.shape[1] // PROBED_COLUMNS]).any(axis=0))
    return 2 * int(np.count_nonzero(some)) > len(some)


def fill(
    out: dict[str, np.ndarray],
    known: KnownCurves | None,
    at: np.ndarray,
    fit: Callable[[KnownCurves | None], dict[str, np.ndarray]],
) -> None:
    """Write the results of the responses ``at`` into ``out``: those of ``fit``, which adds to what is known there."""
    some = None if known is None else known.at(at)
    for name, value in fit(some).items():
        out[name][at] = value
    if known is not None and some is not None:
        known.put(at, some)


def _name_nonfinite(out: dict[str, np.ndarray], values: np.ndarray, where: np.ndarray) -> None:
    """Of the columns ``where`` that have too few observations, say so of those that hold infinity, or nothing."""
    few = np.flatnonzero(out["status"] == Status.TOO_FEW)
    for start in range(0, len(few), COLUMNS_AT_ONCE):
        at = few[start : start + COLUMNS_AT_ONCE]
        infinite = np.isinf(values[:, where[at]]).any(axis=0)
        out["status"][at[infinite | (out["n_used"][at] == 0)]] = Status.NONFINITE


def failed_results(m: int, p: int, k: int, status: Status) -> dict[str, np.ndarray]:
    """Results of m responses of which none is fitted."""
    out = empty_results(m, p, k)
    for array in out.values():
        array[...] = np.nan if array.dtype.kind == "f" else 0
    out["status"][:] = status
    return out


def phi_rows(theta: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """phi (m, k) of theta (m, k)."""
    if not theta.shape[1]:
        return theta
    return np.ascontiguousarray(phi_from_theta(np.ascontiguousarray(theta.T), sizes).T)
