"""Global minimum of the deviance over the covariances of several random terms, for a batch of responses.

theta holds the Cholesky factors T of the relative covariances Phi = T T' (in units in which 1 is a moderate
value). The search of each response goes:

1. The deviance at nodes of theta that all responses share, which is a matrix product. The lowest node, and
   the next ones that are below all their neighbours, are starts (``starts``).
2. From each start, Newton steps within a trust region (``trust_region``).
3. A covariance that is all but singular is made exactly singular: eigenvalues to 0, columns of T to 0, and
   the rest polished again.
4. The answer is checked on the cone of covariance matrices (``covariances``), where theta's own gradient says
   too little (it vanishes wherever a column of T does): with D the derivative of the deviance in Phi, a minimum
   has D >= 0 and D Phi = 0. Along an eigenvector of D with a negative eigenvalue the deviance falls; so the
   search goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from jaxlmm._types import float64_scope
from jaxlmm.optimize.covariances import (
    cone,
    factors,
    free_parameters,
    is_singular,
    orientation,
    rounded,
    semidefinite_factor,
    theta_of,
)
from jaxlmm.optimize.starts import BYTES_PER_NODE, Shared, effort, find_starts, lowest_of
from jaxlmm.optimize.trust_region import (
    MAX_STEPS,
    Problem,
    State,
    compiled,
    empty_state,
    problem_of,
    roundoff,
)
from jaxlmm.runtime import programs
from jaxlmm.runtime.batches import few, in_batches, narrower, padded, put, take, width_for
from jaxlmm.runtime.threads import N_THREADS, by_chunks

__all__ = ["SeveralOptimum", "Windows", "descend", "minimise_several"]

# Steps from a start at first: what takes longer is mostly on its way to a singular covariance, which is tried then.
FIRST_STEPS = 12
# Steps from another start until it is looked whether they lead to the minimum that is known, and how close to it, in
# lengths of the next step, that one must lead.
LOOKING = 4
NEAR = 0.2
# Of the starts, those whose deviance is above the best node's by no more than this, and this times the way down from
# that.
# On small designs with slopes and outliers that mattered (benchmarks/structures_optimum.py --only small).
ABOVE, LONGER = 6.0, 0.5
# Responses of a batch whose windows are checked.
CHECKED = 16
# Memory that the evaluation of a response takes where it costs little.
CHEAP_BYTES = 8192
# What counts as converged: gradient in theta (or in log theta where theta > 1), relative to nu. Steps go on below it.
TOL_CONVERGED = 1e-9
# What rounding leaves of the gradient counts as converged too, where the steps lead no further, up to a gradient
# (relative to nu) whose square is nothing.
ROUNDING_GRADIENT, MOST_ROUNDING = 1e-11, 4e-6
# The same for minima of which only the value counts: its error is this squared.
TOL_DESCENT = 1e-6
# Eigenvalues of Phi below this are tried as 0.
NEARLY_SINGULAR = 1e-4
# And those of a response whose search is slow, below this: Newton steps bend round the small Cholesky factor.
OFTEN_SINGULAR = 0.1
# Deviances that differ by less than this, relative to nu, are the same minimum.
SAME = 1e-11


class Windows(Protocol):
    """A problem of which many values on a grid, and a close approximation around a point, cost little."""

    def starts(self, stats: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nodes theta (k, K) of a grid, the values there (K, c), and the nodes (K, 8) next to each."""
        ...

    def around(self, theta: np.ndarray, stats: Any) -> tuple[Problem, Any]:
        """The problem, and its statistics, which is exact to TOL_CONVERGED near theta (k, c), infinite elsewhere."""
        ...


@dataclass(frozen=True, eq=False)
class SeveralOptimum:
    """Per response, at the minimum.

    ``theta`` (k, c), diagonals not negative, with exact zeros where a covariance is singular; ``value`` (c,);
    ``gradient`` (k, c), ``hessian`` (k, k, c) in theta; ``converged`` (c,); ``singular`` (terms, c): whose
    covariance is singular.
    """

    theta: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    converged: np.ndarray
    singular: np.ndarray


def minimise_several(
    problem: Shared, stats: Any, *, n_starts: int | None = None, windows: Windows | None = None
) -> SeveralOptimum:
    """Global minimum of c responses.

    Parameters
    ----------
    problem : Problem
    stats : pytree of arrays
        Response axis last.
    n_starts : int
        Starts of each response at most; by default as many as the design is worth.
    windows : Windows
        The same function by other means, which cost less.
    """
    c = int(jax.tree.leaves(stats)[0].shape[-1])
    search, everyone = _Search.of(problem, stats), np.arange(c)
    if n_starts is None:
        n_starts = effort(problem)[1]
    with float64_scope():
        if windows is None or not search.from_windows(windows, n_starts):
            search.from_nodes(*find_starts(problem, stats, n_starts))
        search.to_boundary(everyone)
        search.to_the_end()
        search.off_saddles(everyone)
    singular = np.stack([is_singular(T) for T in factors(search.theta, problem.sizes)])
    sign = orientation(search.theta, problem.sizes)
    theta, gradient, hessian = sign * search.theta, sign * search.gradient, sign[:, None] * search.hessian * sign
    return SeveralOptimum(theta, search.value, gradient, hessian, search.converged(), singular)


def descend(
    problem: Problem, stats: Any, start: np.ndarray, free: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The minimum of c responses below their own starts, without a search for others.

    Parameters
    ----------
    problem : Problem
    stats : pytree of arrays
        Response axis last.
    start : ndarray, (k, c)
        Where a column of a factor T is 0 there, it stays so: the derivative vanishes.
    free : ndarray, (k, c)
        1 for parameters that move, 0 for those that stay; all move by default.

    Returns
    -------
    theta, value, converged : ndarray, (k, c), (c,), (c,)
        ``converged`` to TOL_DESCENT.
    """
    search = _Search.of(problem, stats)
    found = search.polish(np.arange(start.shape[1]), start, free)
    with np.errstate(invalid="ignore"):
        steep = np.abs(found.at.gradient) * found.free * np.maximum(np.abs(found.theta), 1)
        converged = np.isfinite(found.at.value) & (steep.max(axis=0) <= TOL_DESCENT * problem.nu)
    return found.theta, np.asarray(found.at.value), np.asarray(converged & (found.steps > 0))


# The search ----------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Search:
    """The lowest minimum of each response that has been found so far."""

    problem: Problem
    stats: Any
    theta: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    slope: np.ndarray
    settled: np.ndarray

    @classmethod
    def of(cls, problem: Problem, stats: Any) -> _Search:
        """Nothing is found yet."""
        c, k = int(jax.tree.leaves(stats)[0].shape[-1]), sum(r * (r + 1) // 2 for r in problem.sizes)
        zeros = np.zeros((k, c))
        return cls(problem, stats, zeros, np.full(c, np.inf), zeros.copy(), np.zeros((k, k, c)), zeros.copy(),
                   np.zeros(c, bool))  # fmt: skip

    def from_nodes(self, starts: np.ndarray, height: np.ndarray) -> None:
        """Down from the ``starts`` (n, k, c), where the deviance is ``height`` (n, c)."""
        everyone = np.arange(starts.shape[2])
        self.keep(everyone, self.polish(everyone, starts[0], limit=FIRST_STEPS))
        for start, above in zip(starts[1:], height[1:], strict=True):
            self.try_another(everyone[self._within_reach(height[0], above)], start)

    def from_windows(self, windows: Windows, n_starts: int) -> bool:
        """Down in windows around the lowest nodes of a grid; what leaves its window goes on by itself.

        Says whether the windows are what they should be; else nothing is found yet.
        """
        nodes, value, neighbours = windows.starts(self.stats)
        everyone = np.arange(value.shape[1])
        width = width_for(len(everyone), BYTES_PER_NODE * len(value))

        def lowest(index: np.ndarray) -> Any:
            with float64_scope():
                return lowest_of(value[:, index], neighbours, n_starts)

        order, height = in_batches(lowest, len(everyone), width)
        self._down_window(windows, everyone, nodes[:, order[0]])
        if not self._as_windows(everyone):
            self.value[:] = np.inf
            return False
        for at, above in zip(order[1:], height[1:], strict=True):
            if len(rows := everyone[self._within_reach(height[0], above)]):
                self._down_window(windows, rows, nodes[:, at[rows]])
        return True

    def _within_reach(self, best: np.ndarray, above: np.ndarray) -> np.ndarray:
        """Whether another start, ``above`` (c,) the best one, may lead lower than the minimum that is known."""
        return np.asarray(above < best + ABOVE + LONGER * np.maximum(best - self.value, 0))

    def _down_window(self, windows: Windows, rows: np.ndarray, start: np.ndarray) -> None:
        """Down from ``start`` (k, len(rows)) in the windows around it."""
        draft = _Search.of(*windows.around(start, take(self.stats, rows)))
        everyone = np.arange(len(rows))
        draft.keep(everyone, draft.polish(everyone, start, limit=FIRST_STEPS))
        draft.to_boundary(everyone)
        arrived = np.isfinite(draft.value) & (draft._steepness() <= TOL_CONVERGED * self.problem.nu)
        lower = arrived & (draft.value < self.value[rows] - SAME * self.problem.nu)
        for name in ("theta", "value", "gradient", "hessian", "slope"):
            getattr(self, name)[..., rows[lower]] = getattr(draft, name)[..., lower]
        if len(rest := rows[~arrived]):
            onward = np.where(np.isfinite(draft.value), draft.theta, start)[:, ~arrived]
            self.keep(rest, self.polish(rest, onward, limit=FIRST_STEPS))

    def _as_windows(self, everyone: np.ndarray) -> bool:
        """Whether some responses have at their minima the derivatives that their windows gave."""
        some = everyone[:: max(1, len(everyone) // CHECKED)][:CHECKED]
        at = self.polish(some, self.theta[:, some], limit=1).at
        nu, smallest = self.problem.nu, TOL_CONVERGED * np.maximum(np.abs(self.theta[:, some]), 1)
        near = np.abs(at.gradient - self.gradient[:, some]) <= nu * smallest
        return bool(np.all(near | ~np.isfinite(at.gradient)))

    def converged(self) -> np.ndarray:
        """Whether each response stands at a minimum, to TOL_CONVERGED or to rounding."""
        nu = self.problem.nu
        rounding = np.minimum(ROUNDING_GRADIENT * (self.theta**2).max(axis=0), MOST_ROUNDING * nu)
        flat = self._steepness() <= np.maximum(TOL_CONVERGED * nu, rounding)
        return np.asarray(self.settled & np.isfinite(self.value) & flat)

    def _steepness(self) -> np.ndarray:
        return np.asarray((np.abs(self.gradient) * np.maximum(np.abs(self.theta), 1)).max(axis=0))

    def polish(
        self, rows: np.ndarray, start: np.ndarray, free: np.ndarray | None = None, limit: int = MAX_STEPS
    ) -> State:
        """At most ``limit`` steps of the ``free`` parameters of responses ``rows`` from ``start`` (k, len(rows))."""
        c = start.shape[1]
        out, width = empty_state(start, free, limit), self._width(c)
        share = max(width, -(-c // N_THREADS))
        by_chunks(c, share, lambda part: self._polish_share(rows, out, np.arange(part.start, part.stop), width))
        return out

    @property
    def few(self) -> bool:
        """Whether all responses take less time than compiling well for them."""
        return len(self.value) <= programs.FEW_RESPONSES

    @property
    def cheap(self) -> bool:
        """Whether a step takes about as long as moving a response to another batch."""
        return self.problem.bytes_per_response <= CHEAP_BYTES

    def _width(self, c: int) -> int:
        return width_for(c, self.problem.bytes_per_response)

    def _few(self, width: int) -> int:
        """How many responses go on in narrower batches: where a step costs little, what fits in one."""
        return narrower(width) if self.cheap else few(width)

    def _polish_share(self, rows: np.ndarray, out: State, waiting: np.ndarray, width: int) -> None:
        """The responses ``waiting`` of ``out``, ``width`` at once: who is done makes room for the next."""
        active = waiting[:0]
        with float64_scope():
            while len(active) or len(waiting):
                room = width - len(active)
                active, waiting = np.concatenate([active, waiting[:room]]), waiting[room:]
                while not len(waiting) and len(active) <= self._few(width):
                    width = narrower(width)
                    active, waiting = active[:width], active[width:]
                index = padded(slice(0, len(active)), width, len(active))
                left = self._advance_until(rows, out, active[index], len(active), len(waiting) > 0)
                active = active[left]

    def _advance_until(self, rows: np.ndarray, out: State, index: np.ndarray, n: int, more: bool) -> np.ndarray:
        """Steps of the responses ``index``, the first n of them not padding, until it pays to regroup.

        That is when enough are done to let others in, or so few are left that narrower batches take less. Where a
        step takes no longer than the moving, only when most are done.
        Returns which of the n are not done.
        """
        width = len(index)
        state, stats, problem = take(out, index), take(self.stats, rows[index]), problem_of(self.problem, rows[index])
        state.done[n:] = 1.0
        enough = (width // 4 if self.cheap else n - width // 2) if more else self._few(width)
        state = compiled(self.few)(state, problem, stats, min(enough, n - 1))
        left = np.asarray(state.done)[:n] == 0
        put(out, index[:n], state)
        return left

    def keep(self, rows: np.ndarray, new: State, *, better: np.ndarray | None = None) -> np.ndarray:
        """Take over what is lower than before, or what ``better`` says; returns which."""
        nu = np.broadcast_to(self.problem.nu, self.value.shape)[rows]
        value = np.where(np.isfinite(new.at.value), new.at.value, np.inf)
        if better is None:
            with np.errstate(invalid="ignore"):
                better = value < self.value[rows] - SAME * nu - roundoff(value, new.theta, nu)
        at = rows[better]
        self.theta[:, at] = new.theta[:, better]
        self.value[at] = value[better]
        self.gradient[:, at] = (new.at.gradient * new.free)[:, better]
        self.hessian[:, :, at] = new.at.hessian[:, :, better]
        self.slope[:, at] = new.at.slope[:, better]
        return better

    def try_another(self, rows: np.ndarray, start: np.ndarray) -> None:
        """Down from another ``start`` (k, all), but not all the way to the minimum that is known already."""
        if not len(rows):
            return
        new = self.polish(rows, start[:, rows], limit=LOOKING)
        self.keep(rows, new)
        going = (new.steps >= LOOKING) & ~self._arriving(rows, new)
        if going.any():
            rows = rows[going]
            self.keep(rows, self.polish(rows, new.theta[:, going], limit=FIRST_STEPS - LOOKING))

    def _arriving(self, rows: np.ndarray, at: State) -> np.ndarray:
        """Whether the next of Newton's steps leads from ``at`` to where the lowest minimum is."""
        k = len(at.theta)
        hessian = np.moveaxis(np.asarray(at.at.hessian), -1, 0)
        values, vectors = np.linalg.eigh(np.where(np.isfinite(hessian), hessian, -np.eye(k)))
        along = np.einsum("cab,ac->cb", vectors, np.asarray(at.at.gradient))
        step = -np.einsum("cab,cb->ac", vectors, along / np.where(values > 0, values, 1.0))
        gap = np.abs(at.theta + step - self.theta[:, rows]).max(axis=0)
        near = gap < NEAR * np.maximum(np.abs(step).max(axis=0), NEAR)
        return (values[:, 0] > 0) & near & (np.abs(step).max(axis=0) < 1)

    def to_boundary(self, rows: np.ndarray, near: float = NEARLY_SINGULAR) -> None:
        """Covariances with eigenvalues below ``near`` are made singular where that is a minimum too."""
        sizes = self.problem.sizes
        theta, close = rounded(self.theta[:, rows], sizes, near)
        close &= (theta != self.theta[:, rows]).any(axis=0)
        rows, theta = rows[close], theta[:, close]
        if not len(rows):
            return
        new = self.polish(rows, theta, free_parameters(theta, sizes))
        nu = np.broadcast_to(self.problem.nu, self.value.shape)[rows]
        lowest = np.stack([v[0] for v in cone(new.theta, new.at.slope, sizes)]).min(axis=0)
        higher = new.at.value - self.value[rows]
        ok = (higher <= 1e-10 * nu + roundoff(new.at.value, new.theta, nu)) & (lowest >= 0)
        self.keep(rows, new, better=ok)

    def to_the_end(self) -> None:
        """Those that have not arrived in FIRST_STEPS: to a singular covariance, or on from where they are."""
        if len(rows := self._unfinished()):
            self.to_boundary(rows, OFTEN_SINGULAR)
        if len(rows := self._unfinished()):
            self.keep(rows, self.polish(rows, self.theta[:, rows]), better=np.ones(len(rows), bool))
            self.to_boundary(rows)

    def _unfinished(self) -> np.ndarray:
        return np.flatnonzero(self._steepness() > TOL_CONVERGED * self.problem.nu)

    def off_saddles(self, rows: np.ndarray) -> None:
        """Go on along negative eigenvectors of D until there are none (see the module's docstring)."""
        sizes = self.problem.sizes
        for _ in range(4):
            cones = cone(self.theta[:, rows], self.slope[:, rows], sizes)
            lowest = np.stack([value for value, _ in cones])
            term = lowest.argmin(axis=0)
            bad = lowest.min(axis=0) < 0
            self.settled[rows] = ~bad
            rows = rows[bad]
            if not len(rows):
                return
            start = self._downhill(rows, term[bad], [vector[bad] for _, vector in cones])
            moved = self.keep(rows, self.polish(rows, start))
            # What goes no lower stands at a minimum, as far as rounding shows.
            self.settled[rows[~moved]] = True
            rows = rows[moved]
            self.to_boundary(rows)

    def _downhill(self, rows: np.ndarray, term: np.ndarray, vectors: Sequence[np.ndarray]) -> np.ndarray:
        """theta after a step along the eigenvector of ``term``, of the length that lowers the deviance most."""
        sizes = self.problem.sizes
        best, lowest = self.theta[:, rows].copy(), np.full(len(rows), np.inf)
        for length in 10.0 ** np.arange(-4, 2):
            parts = []
            for t, T in enumerate(factors(self.theta[:, rows], sizes)):
                v = vectors[t] * (term == t)[:, None]
                parts.append(
                    theta_of(semidefinite_factor(T @ T.swapaxes(1, 2) + length * v[:, :, None] * v[:, None, :]))
                )
            theta = np.concatenate(parts)
            value = self._values(rows, theta)
            lower = value < lowest
            best[:, lower], lowest = theta[:, lower], np.minimum(value, lowest)
        return best

    def _values(self, rows: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """The deviance of the responses ``rows`` at theta, infinite where it is not finite."""

        def values(index: np.ndarray) -> Any:
            with float64_scope():
                state, problem = empty_state(theta[:, index], limit=1), problem_of(self.problem, rows[index])
                return compiled(self.few)(state, problem, take(self.stats, rows[index]), 0).at.value

        out = in_batches(values, len(rows), self._width(len(rows)))
        return np.where(np.isfinite(out), out, np.inf)
