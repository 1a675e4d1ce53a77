"""Profile likelihood intervals of any random terms: standard deviations, correlations, sigma and coefficients.

As R's ``confint(fit, method = "profile")``, all by maximum likelihood. For one quantity held fixed the deviance is
minimised over all others (``held``); the limits are where its root, above that of its minimum, reaches the root of
the chi-square quantile, which is nearly linear (``optimize.crossing``). The inner minima start from the last one;
what they find at a limit is checked from other starts. A standard deviation whose column could be left out at less
than the quantile has the lower limit 0, and its correlations may be anything.

A coefficient b_k is held by fitting y - b_k d to the rest of X, d the part of column k that is orthogonal to it. For
a response with rows or weights of its own, d is that of the complete design: what it has of the rest of X there is
fitted along.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.linalg

from jaxlmm.design.columns import Basis
from jaxlmm.design.random import RandomTerm
from jaxlmm.families.base import covariances
from jaxlmm.families.general.family import General, block_matrix
from jaxlmm.families.general.held import Held, HeldDeviance
from jaxlmm.families.general.layout import whitener
from jaxlmm.families.general.profiled import Profiled, Responses, less, some
from jaxlmm.families.parameters import lower_triangle
from jaxlmm.optimize.covariances import semidefinite_factor
from jaxlmm.optimize.crossing import Bracket, crossings, expand
from jaxlmm.optimize.several import descend, minimise_several
from jaxlmm.optimize.trust_region import problem_of
from jaxlmm.runtime.batches import take
from jaxlmm.runtime.progress import advance

__all__ = ["profile_limits"]

# Diagonals of T closer to 0 than this start at START_DIAGONAL: at 0 the derivative says nothing.
NEAR_ZERO = 0.02
START_DIAGONAL = 0.1
# And a standard deviation whose descent went past 0 starts again at this part of where it did.
NEARER_ZERO = 1e-2
# Other starts of the inner minima, times the first.
OTHER_STARTS = (0.1, 3.0)
# A root of the deviance that is lower than another by more than this belongs to another minimum.
LOWER = 1e-6
# A residual variance is at least this, since 0 says that none is held.
SMALLEST = 1e-300
# How often a search goes on from a limit at which a lower minimum was found.
ROUNDS = 3
# Standard deviations smaller than this part of what their column could show are 0.
ZERO_SD = 1e-9


@dataclass(frozen=True, eq=False)
class Quantity:
    """A standard deviation, a correlation or sigma, with the columns of its term so ordered that its own come first.

    Attributes
    ----------
    columns : tuple of int
        () for sigma, (i,) for a standard deviation, (i, j) for a correlation.
    term, start, size : int
        Its term, where theta of that begins, and how many columns it has.
    factor : ndarray, (r, r)
        A: T of the columns as given, in this order, is A times T of the whitened ones.
    to_kernel : ndarray, (k, k)
        phi of the kernel from that in this order.
    """

    columns: tuple[int, ...]
    term: int
    start: int
    size: int
    factor: np.ndarray
    to_kernel: np.ndarray


def profile_limits(
    design: Profiled, basis: Basis, terms: Sequence[RandomTerm], Y: Responses, where: np.ndarray, cut: float
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Limits of the columns ``where`` of Y, as ``families.base.Family.profile`` has them; whose searches failed."""
    m, p = len(where), design.kernel.core.p
    quantities = _quantities(design.kernel, terms)
    K = len(quantities) - 1
    out, failed = np.full((m, K + 1 + p, 2), np.nan), np.zeros(m, dtype=bool)
    others = [_without(design, basis, terms, j) for j in range(p)]
    size = max(design.searches // (2 * len(quantities)), 1)
    for begin in range(0, m, size):
        at = slice(begin, min(begin + size, m))
        out[at], failed[at] = _block(design, basis, quantities, others, some(Y, where[at]), cut)
        advance(at.stop - begin)
    return (out[:, :K], out[:, K], out[:, K + 1 :]), failed


def _quantities(kernel: General, terms: Sequence[RandomTerm]) -> list[Quantity]:
    """In the order of ``design.random.parameter_labels``; sigma last."""
    assert kernel.reducer is not None
    out = []
    eyes = [np.eye(r) for r in kernel.sizes]
    for t, term in enumerate(terms):
        r = term.size
        for own in [c for i in range(r) for c in ((i,), *((i, j) for j in range(i + 1, r)))]:
            order = [*own, *(j for j in range(r) if j not in own)]
            factor = whitener(dataclasses.replace(term, Z=term.Z[:, order]), kernel.reducer.root_w)
            change = scipy.linalg.solve_triangular(kernel.whiteners[t], np.eye(r)[order].T @ factor, lower=True)
            to_kernel = block_matrix([*eyes[:t], change, *eyes[t + 1 :]], _congruence)
            out.append(Quantity(own, t, kernel.core.offsets[t], r, factor, to_kernel))
    k = kernel.n_phi
    return [*out, Quantity((), -1, 0, 0, np.eye(1), np.eye(k))]


def _congruence(A: np.ndarray, E: np.ndarray) -> np.ndarray:
    return A @ (E + E.T - np.diag(np.diag(E))) @ A.T


def _without(design: Profiled, basis: Basis, terms: Sequence[RandomTerm], j: int) -> tuple[Profiled, np.ndarray]:
    """The model without column j of X, and the direction d of its coefficient."""
    reducer = design.kernel.reducer
    assert reducer is not None
    contrast = basis.contrast(np.eye(reducer.Q.shape[1])[[j]])[0]
    full = np.linalg.qr(contrast[:, None], mode="complete").Q
    direction = reducer.Q @ (contrast / np.sum(contrast**2))
    rest = design.without(np.ascontiguousarray(reducer.Q @ full[:, 1:]), terms)
    return rest, direction if reducer.root_w is None else direction / reducer.root_w


# One block ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Best:
    """Maximum likelihood fits: theta (k, c) of the kernel, deviance, sigma, and which there are; (c,)."""

    theta: np.ndarray
    value: np.ndarray
    sigma: np.ndarray
    usable: np.ndarray


def _block(
    design: Profiled,
    basis: Basis,
    quantities: Sequence[Quantity],
    others: Sequence[tuple[Profiled, np.ndarray]],
    Y: Responses,
    cut: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Limits (c, parameters, 2) of the responses Y (n_obs, c); which of these miss one that there is, (c,)."""
    c, p = Y.shape[1], len(others)
    reduced = design.reduce(Y)
    problem, scale, n = HeldDeviance(reduced.family, reduced.nu), reduced.scale, reduced.nu
    optimum = minimise_several(problem, _nothing_held(reduced.stats, design.kernel.n_phi))
    pwrss, fixef, variance, known = design.solutions(optimum.theta, reduced, basis.contrast(np.eye(p)))
    usable = optimum.converged & reduced.usable & known
    best = _Best(optimum.theta, optimum.value, np.sqrt(pwrss / n), usable)
    limits, defined = _random_limits(problem, design.kernel, quantities, reduced.stats, best, cut)
    for q, one in enumerate(quantities):
        limits[q] *= (reduced.root_unit * scale, scale, 1.0)[len(one.columns)]
    se = np.sqrt(variance) * best.sigma * scale
    coef = basis.coef(fixef * scale)
    minimum = best.value + 2 * n * np.log(scale)
    fixed = []
    for j, (rest, direction) in enumerate(others):
        curve = _CoefficientCurve(rest, Y, direction, coef[j], se[j], best.theta)
        searches = _searches(np.zeros(c), np.sqrt(cut), best.usable, minimum, cut)
        fixed.append(coef[j] + _limits(curve, searches, cut).reshape(2, c) * se[j])
    failed = np.any(np.isnan(limits) & defined[:, None], axis=(0, 1)) | np.isnan(fixed).any(axis=(0, 1))
    return np.moveaxis(np.concatenate([limits, np.reshape(fixed, (p, 2, c))]), 2, 0), failed


def _nothing_held(stats: Any, k: int) -> Held:
    c = stats.rest.shape[-1]
    eye = np.repeat(np.eye(k)[:, :, None], c, axis=2)
    return Held(stats, np.zeros(c), np.ones(c), np.zeros((k, c)), eye, eye)


def _random_limits(
    problem: HeldDeviance,
    kernel: General,
    quantities: Sequence[Quantity],
    stats: Any,
    best: _Best,
    cut: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Limits (quantities, 2, c), sigma last, of scaled data; which quantities are defined, (quantities, c)."""
    c = len(best.value)
    starts, searches, known, ceilings = [], [], [], []
    there = np.ones((len(quantities), c), dtype=bool)
    left_out: dict[tuple[int, int], np.ndarray] = {}
    for one in quantities:
        theta = _reordered(one, kernel, best.theta)
        if len(one.columns) == 1:
            left_out[one.term, one.columns[0]] = _left_out(problem, one, stats, theta) - best.value
    for q, one in enumerate(quantities):
        theta = _reordered(one, kernel, best.theta)
        T = one.factor @ np.moveaxis(_triangle(one, theta), 2, 0) if one.columns else np.zeros((c, 0, 0))
        fixed = np.full((2, c), np.nan)
        if not one.columns:
            found = _searches(np.log(best.sigma), np.sqrt(cut / (2 * problem.nu)), best.usable, best.value, cut)
        elif len(one.columns) == 1:
            sd, unit = T[:, 0, 0] * best.sigma, one.factor[0, 0] * best.sigma
            found = _searches(sd, np.maximum(0.3 * sd, 0.1 * unit), best.usable, best.value, cut)
            rise = left_out[one.term, one.columns[0]]
            fixed[0, rise < cut] = 0.0
            found.active[:c] &= np.isfinite(rise)
            found.end(0, np.zeros(c), np.sqrt(np.maximum(rise, 0)) - np.sqrt(cut))
        else:
            sds = np.abs(T[:, 0, 0]), np.hypot(T[:, 1, 0], T[:, 1, 1])
            there[q] = defined = (sds[0] > ZERO_SD * one.factor[0, 0]) & (sds[1] > ZERO_SD * one.factor[1, 1])
            anything = np.minimum(*(left_out[one.term, i] for i in one.columns)) < cut
            fixed[:, anything] = np.array([-1.0, 1.0])[:, None]
            fixed[:, ~defined] = np.nan
            found = _searches(np.arctan2(T[:, 1, 0], T[:, 1, 1]), 0.5, best.usable & defined, best.value, cut)
            for side in (0, 1):
                found.end(side, np.full(c, (side - 0.5) * np.pi), np.full(c, np.nan))
            theta[one.start + 1], theta[one.start + one.size] = 0.0, sds[1] / one.factor[1, 1]
        found.active &= np.isnan(fixed).reshape(-1)
        ceiling = np.full(c, np.inf)
        if len(one.columns) == 2:
            ceiling = best.value + np.minimum(*(left_out[one.term, i] for i in one.columns))
        ceilings.append(np.tile(ceiling, 2))
        starts.append(np.tile(theta, 2))
        searches.append(found)
        known.append(fixed)
    count = len(quantities)
    which, response = np.repeat(np.arange(count), 2 * c), np.tile(np.arange(c), 2 * count)
    curve = _Curve(
        problem, quantities, stats, which, response, np.concatenate(ceilings), np.concatenate(starts, axis=1),
        best.sigma[response],
    )  # fmt: skip
    limits = _limits(curve, _Searches.joined(searches), cut).reshape(count, 2, c)
    for q, one in enumerate(quantities):
        limits[q] = (np.exp, np.abs, np.sin)[len(one.columns)](limits[q])
    limits = np.where(np.isnan(known), limits, known)
    limits[:, :, ~best.usable] = np.nan
    return np.asarray(limits), there


def _triangle(one: Quantity, theta: np.ndarray) -> np.ndarray:
    """T (r, r, c) of the whitened columns of the quantity's term."""
    rows, columns = lower_triangle(one.size)
    T = np.zeros((one.size, one.size, theta.shape[1]))
    T[rows, columns] = theta[one.start : one.start + len(rows)]
    return T


def _reordered(one: Quantity, kernel: General, theta: np.ndarray) -> np.ndarray:
    """theta (k, c) with the columns in the quantity's order, from that of the kernel."""
    out = theta.copy()
    if one.columns:
        Phi = covariances(kernel.to_user(theta).T, kernel.sizes)[one.term]
        order = [*one.columns, *(j for j in range(one.size) if j not in one.columns)]
        back = np.linalg.inv(one.factor)
        T = semidefinite_factor(back @ Phi[:, order][:, :, order] @ back.T)
        rows, columns = lower_triangle(one.size)
        out[one.start : one.start + len(rows)] = T[:, rows, columns].T
    return out


def _left_out(problem: HeldDeviance, one: Quantity, stats: Any, theta: np.ndarray) -> np.ndarray:
    """The least deviance (c,) without the column of a standard deviation."""
    held = _nothing_held(stats, len(theta))
    held = dataclasses.replace(held, M=np.repeat(one.to_kernel[:, :, None], theta.shape[1], axis=2))
    free = np.ones(theta.shape)
    free[one.start : one.start + one.size] = 0.0
    lowest = np.full(theta.shape[1], np.inf)
    diagonal = _diagonal(problem.sizes)
    even = np.zeros_like(theta)
    even[diagonal] = 1.0
    for start in (theta, 0.1 * even, even, 10 * even):
        _, value, converged = descend(problem, held, _off_zero(start, diagonal) * free, free)
        lowest = np.where(converged & (value < lowest), value, lowest)
    return np.where(np.isfinite(lowest), lowest, np.nan)


def _diagonal(sizes: Sequence[int]) -> np.ndarray:
    """Where theta holds diagonals of T."""
    parts = [np.equal(*lower_triangle(r)) for r in sizes]
    return np.flatnonzero(np.concatenate(parts))


def _off_zero(theta: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    out = theta.copy()
    out[diagonal] = np.where(np.abs(out[diagonal]) < NEAR_ZERO, START_DIAGONAL, out[diagonal])
    return out


# Curves ---------------------------------------------------------------------------------------------


class _Lowest(Protocol):
    """The deviance along N searches, minimised over all else."""

    theta: np.ndarray

    def lowest(self, rows: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Of the searches ``rows`` at x, from ``theta`` (k, N), which moves to the minimum; NaN where not found."""
        ...


@dataclass(eq=False)
class _Curve:
    """Random quantities: search i is of ``which[i]`` and ``response[i]``; theta (k, N) and sigma (N,) found last.

    ``ceiling`` (N,) is the deviance without one of a correlation's columns, which no correlation exceeds.
    """

    problem: HeldDeviance
    quantities: Sequence[Quantity]
    stats: Any
    which: np.ndarray
    response: np.ndarray
    ceiling: np.ndarray
    theta: np.ndarray
    sigma: np.ndarray

    def lowest(self, rows: np.ndarray, x: np.ndarray) -> np.ndarray:
        k, N = len(self.theta), len(rows)
        eye = np.repeat(np.eye(k)[:, :, None], N, axis=2)
        held = Held(take(self.stats, self.response[rows]), np.zeros(N), np.ones(N), np.zeros((k, N)), eye, eye.copy())
        start, free = _off_zero(self.theta[:, rows], _diagonal(self.problem.sizes)), np.ones((k, N))
        sigma, problem = self.sigma[rows], problem_of(self.problem, self.response[rows])
        for q, one in enumerate(self.quantities):
            at = np.flatnonzero(self.which[rows] == q)
            if not len(at):
                continue
            held.M[:, :, at] = one.to_kernel[:, :, None]
            first, A = one.start, one.factor
            if not one.columns:
                held.x2[at] = np.maximum(np.exp(2 * x[at]), SMALLEST)
                with np.errstate(over="ignore"):
                    start[:, at] *= sigma[at] / np.exp(x[at])
            elif len(one.columns) == 1:
                held.x2[at] = np.maximum(x[at] ** 2, SMALLEST)
                held.g0[at], held.g[first, at] = 0.0, A[0, 0] ** 2
                own = x[at] / (A[0, 0] * sigma[at]) - start[first, at]
                start[first : first + one.size, at] += np.outer(np.linalg.inv(A)[:, 0] * A[0, 0], own)
            else:
                w = first + one.size
                held.B[first + 1, :, at] = 0.0
                held.B[first + 1, first, at] = -A[1, 0] / A[1, 1]
                held.B[first + 1, w, at], held.B[w, w, at] = np.sin(x[at]), np.cos(x[at])
                free[first + 1, at] = start[first + 1, at] = 0.0
        theta, value, converged = descend(problem, held, start, free)
        crossed = np.flatnonzero(self._crossed(rows, theta))
        if len(crossed):
            # Over a standard deviation of 0 to the other sign: once more, from so near 0 that only the slope counts.
            start = start[:, crossed]
            for q, one in enumerate(self.quantities):
                if len(one.columns) == 2:
                    start[one.start + one.size, self.which[rows[crossed]] == q] *= NEARER_ZERO
            again = descend(problem_of(problem, crossed), take(held, crossed), start, free[:, crossed])
            theta[:, crossed], value[crossed], converged[crossed] = again
        crossed = self._crossed(rows, theta)
        value = np.where(crossed, np.inf, value)
        ceiling = self.ceiling[rows]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # of what has not converged
            scale = held.g0 + (held.g * theta**2).sum(0)
            sigma = np.where(held.x2 > 0, np.sqrt(held.x2 / scale), sigma)
        kept = converged & ~crossed
        self.theta[:, rows[kept]], self.sigma[rows[kept]] = theta[:, kept], sigma[kept]
        return np.where(converged, np.minimum(value, ceiling), np.nan)

    def _crossed(self, rows: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Whether the correlation has the other sign than the one held."""
        sign = np.ones(len(rows))
        for q, one in enumerate(self.quantities):
            if len(one.columns) == 2:
                at = np.flatnonzero(self.which[rows] == q)
                sign[at] = theta[one.start, at] * theta[one.start + one.size, at]
        return sign < 0


@dataclass(eq=False)
class _CoefficientCurve:
    """One coefficient, in units of its standard errors from its estimate; both sides of c responses."""

    rest: Profiled
    Y: Responses
    direction: np.ndarray
    coef: np.ndarray
    se: np.ndarray
    theta: np.ndarray

    def __post_init__(self) -> None:
        self.theta = np.tile(self.theta, 2)

    def lowest(self, rows: np.ndarray, x: np.ndarray) -> np.ndarray:
        response = rows % len(self.coef)
        b = self.coef[response] + x * self.se[response]
        reduced = self.rest.reduce(less(self.Y[:, response], self.direction[:, None] * b))
        problem = HeldDeviance(reduced.family, reduced.nu)
        start = _off_zero(self.theta[:, rows], _diagonal(problem.sizes))
        theta, value, converged = descend(problem, _nothing_held(reduced.stats, len(start)), start)
        converged = converged & reduced.usable
        self.theta[:, rows[converged]] = theta[:, converged]
        return np.where(converged, value + 2 * reduced.nu * np.log(reduced.scale), np.nan)


# Searches -------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Searches:
    """N searches for where a deviance crosses ``minimum`` + cut; ``ends`` tells whose bracket ends for good."""

    active: np.ndarray
    minimum: np.ndarray
    bracket: Bracket
    step: np.ndarray
    ends: np.ndarray

    def end(self, side: int, x: np.ndarray, value: np.ndarray) -> None:
        """The range of all searches of a side ends at x; value NaN where it is not known there."""
        at = slice(side * len(x), (side + 1) * len(x))
        self.bracket.outside[at], self.bracket.outside_value[at], self.ends[at] = x, value, True

    @classmethod
    def joined(cls, parts: Sequence[_Searches]) -> _Searches:
        """All searches, one after another."""

        def join(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])

        names = [field.name for field in dataclasses.fields(Bracket)]
        bracket = Bracket(*(np.concatenate([getattr(part.bracket, name) for part in parts]) for name in names))
        return cls(join("active"), join("minimum"), bracket, join("step"), join("ends"))


def _searches(estimate: np.ndarray, step: Any, active: np.ndarray, minimum: np.ndarray, cut: float) -> _Searches:
    """Both sides of c estimates, the lower ones first."""
    c = len(estimate)
    bracket = Bracket(
        np.tile(estimate, 2), np.full(2 * c, -np.sqrt(cut)), np.full(2 * c, np.nan), np.full(2 * c, np.nan)
    )
    size = np.broadcast_to(step, c)
    return _Searches(np.tile(active, 2), np.tile(minimum, 2), bracket, np.concatenate([-size, size]),
                     np.zeros(2 * c, bool))  # fmt: skip


def _limits(curve: _Lowest, searches: _Searches, cut: float) -> np.ndarray:
    """Where each search (N,) crosses; the end of its range where it does not; NaN where it fails."""
    bracket, limits = searches.bracket, np.full(len(searches.active), np.nan)

    def above(rows: np.ndarray, deviance: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(deviance - searches.minimum[rows], 0)) - np.sqrt(cut)

    def once(rows: np.ndarray, x: np.ndarray) -> np.ndarray:
        value = curve.lowest(rows, x)
        failed = np.flatnonzero(np.isnan(value))
        if len(failed):
            value[failed] = _from_all(curve, rows[failed], x[failed])
        return above(rows, value)

    def everywhere(rows: np.ndarray, x: np.ndarray) -> np.ndarray:
        return above(rows, _from_all(curve, rows, x))

    def along(rows: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Also from the last minimum inside, which may be another than those outside."""
        value = above(rows, _least(curve, rows, x, [curve.theta[:, rows].copy(), inside[:, rows]]))
        under = value < 0
        inside[:, rows[under]] = curve.theta[:, rows[under]]
        return value

    rows, inside = np.flatnonzero(searches.active), curve.theta.copy()
    unknown = rows[np.isfinite(bracket.outside[rows]) & np.isnan(bracket.outside_value[rows])]
    if len(unknown):
        bracket.outside_value[unknown] = everywhere(unknown, bracket.outside[unknown])
        never = unknown[bracket.outside_value[unknown] < 0]
        limits[never] = bracket.outside[never]
        rows = np.setdiff1d(rows, never)
    for turn in range(ROUNDS):
        function = once if turn == 0 else along
        expand(function, bracket, searches.step, rows[np.isnan(bracket.outside[rows])])
        limits[rows] = crossings(function, bracket, rows)
        rows = rows[np.isfinite(limits[rows])]
        if not len(rows):
            break
        value = everywhere(rows, limits[rows])
        limits[rows[value > LOWER]] = np.nan  # a jump is no root
        lower = value < -LOWER
        rows = rows[lower]
        # The deviance is less than it seemed: the limit lies further out.
        bracket.inside[rows], bracket.inside_value[rows] = limits[rows], value[lower]
        again = rows[~searches.ends[rows]]
        bracket.outside[again] = bracket.outside_value[again] = np.nan
        inside[:, rows] = curve.theta[:, rows]
        limits[rows] = np.nan
    return limits


def _least(curve: _Lowest, rows: np.ndarray, x: np.ndarray, starts: Sequence[np.ndarray]) -> np.ndarray:
    """The least deviance that any start (k, len(rows)) leads to; the curve goes on from there."""
    best, least = curve.theta[:, rows].copy(), np.full(len(rows), np.nan)
    for start in starts:
        curve.theta[:, rows] = start
        value = curve.lowest(rows, x)
        better = ~np.isnan(value) & ~(value >= least)
        best[:, better], least[better] = curve.theta[:, rows[better]], value[better]
    curve.theta[:, rows] = best
    return least


def _from_all(curve: _Lowest, rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    theta = curve.theta[:, rows].copy()
    return _least(curve, rows, x, [theta, *(factor * theta for factor in OTHER_STARTS)])
