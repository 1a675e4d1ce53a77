"""Global minimum of the deviance over the covariances of several random terms, for a batch of responses.

theta holds the Cholesky factors T of the relative covariances Phi = T T' (in units in which 1 is a moderate
value). The search of each response goes:

1. The deviance at nodes of theta that all responses share, which is a matrix product. The lowest node, and
   the next ones that are below all their neighbours, are starts.
2. From each start, Newton steps within a trust region; where the Hessian is not positive definite they go
   down along its negative directions too (Dauphin et al. 2014). The steps are run by jaxopt (``solver``).
3. A covariance that is all but singular is made exactly singular: eigenvalues to 0, columns of T to 0, and
   the rest polished again.
4. The answer is checked on the cone of covariance matrices, where theta's own gradient says too little (it
   vanishes wherever a column of T does): with D the derivative of the deviance in Phi, a minimum has D >= 0
   and D Phi = 0. Along an eigenvector of D with a negative eigenvalue the deviance falls; so the search goes
   on from there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import scipy.spatial
import scipy.stats

from jaxlmm._types import float64_scope
from jaxlmm.optimize.solver import iteration_step
from jaxlmm.runtime import programs
from jaxlmm.runtime.batches import few, in_batches, narrower, padded, put, take, width_for
from jaxlmm.runtime.threads import N_THREADS, by_chunks

__all__ = ["Evaluation", "Problem", "SeveralOptimum", "descend", "minimise_several", "semidefinite_factor"]

MAX_STEPS = 100
# Steps from a start at first: what takes longer is mostly on its way to a singular covariance, which is tried then.
FIRST_STEPS = 12
# Steps from another start until it is looked whether they lead to the minimum that is known, and how close to it, in
# lengths of the next step, that one must lead.
LOOKING = 4
NEAR = 0.2
# Starts of each response: the best node and the next lowest local minima among the nodes. More, and more nodes that
# are mostly close to correlations of 1, where a factor with slopes has few levels: there are often several minima
# there, most of all where there are few observations for each effect too. (Powers of two of nodes, starts.)
N_STARTS, FEW_LEVELS, FEW = 3, 30, (2, 5)
VERY_FEW_LEVELS, FEW_ROWS, SPARSE, SPARSEST = 8, 4.0, (4, 8), (5, 12)
# Of these, those whose deviance is above the best node's by no more than this, and this times the way down from that.
# On small designs with slopes and outliers that mattered (benchmarks/structures_optimum.py --only small).
ABOVE, LONGER = 6.0, 0.5
# Responses of a batch whose windows are checked.
CHECKED = 16
# Memory that the evaluation of a response takes where it costs little.
CHEAP_BYTES = 8192
# Memory that a response takes for each node.
BYTES_PER_NODE = 64
# What counts as converged: gradient in theta (or in log theta where theta > 1), relative to nu.
TOL_GRADIENT = 1e-11
TOL_CONVERGED = 1e-9
# Rounding of the deviance: relative to its size, and to the largest variance ratio (where a direction of the effects
# is also one of X or of another factor, log|V| is a sum of logarithms of pivots, each of which rounds like phi).
ROUNDING, ROUNDING_RATIO = 1e-14, 1e-16
# What that leaves of the gradient counts as converged too, where the steps lead no further, up to a gradient
# (relative to nu) whose square is nothing.
ROUNDING_GRADIENT, MOST_ROUNDING = 1e-11, 1e-6
# The same for minima of which only the value counts: its error is this squared.
TOL_DESCENT = 1e-6
# Eigenvalues of Phi below this are tried as 0.
NEARLY_SINGULAR = 1e-4
# And those of a response whose search is slow, below this: Newton steps bend round the small Cholesky factor.
OFTEN_SINGULAR = 0.1
# D may be negative by this much of its own size, which is what rounding leaves of 0.
TOL_CONE = 1e-7
# Deviances that differ by less than this, relative to nu, are the same minimum.
SAME = 1e-11


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Evaluation:
    """The deviance of c responses at theta: ``value`` (c,), ``gradient`` (k, c) and ``hessian`` (k, k, c) in
    theta, ``slope`` (k, c) the gradient in phi."""

    value: jax.Array
    gradient: jax.Array
    hessian: jax.Array
    slope: jax.Array


class Problem(Protocol):
    """What is minimised; a pytree. See ``families.deviance.Deviance``."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Columns of each random term: theta holds lower triangles, column by column, of these sizes."""
        ...

    @property
    def bytes_per_response(self) -> int:
        """Memory that the evaluation of one response takes."""
        ...

    @property
    def nu(self) -> Any:
        """The size of the deviance: degrees of freedom, scalar or (c,)."""
        ...

    def evaluate(self, theta: jax.Array, stats: Any) -> Evaluation:
        """Value and derivatives at theta (k, c)."""
        ...


class Shared(Problem, Protocol):
    """A problem whose values at points that all responses share cost little."""

    @property
    def n_levels(self) -> int:
        """The fewest levels of a factor: the fewer, the more minima."""
        ...

    @property
    def reach(self) -> tuple[float, ...]:
        """By how many powers of ten the standard deviations of each term's columns may go beyond moderate values."""
        ...

    def at_nodes(self, theta: jax.Array, stats: Any) -> jax.Array:
        """Value (K, c) at theta (k, K) that all responses share."""
        ...


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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    """Of c responses: the best theta so far, what is known there, and how far the next step may go.

    ``free`` is 1 for parameters that move; ``done`` is 1 where nothing is left to do, or ``steps`` is ``limit``.
    """

    theta: Any
    at: Any
    radius: Any
    free: Any
    done: Any
    steps: Any
    limit: Any


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
        n_starts = _effort(problem)[1]
    with float64_scope():
        if windows is None or not search.from_windows(windows, n_starts):
            search.from_nodes(*_starts(problem, stats, n_starts))
        search.to_boundary(everyone)
        search.to_the_end()
        search.off_saddles(everyone)
    singular = np.stack([_is_singular(T) for T in _factors(search.theta, problem.sizes)])
    sign = _orientation(search.theta, problem.sizes)
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


# Starts --------------------------------------------------------------------------------------------


def _effort(problem: Shared) -> tuple[int, int]:
    """Powers of two by which there are more nodes than for a factor of many levels, and the number of starts."""
    size, levels = max(problem.sizes), problem.n_levels
    if size == 1 or levels >= FEW_LEVELS:
        return 0, N_STARTS
    if np.mean(problem.nu) > FEW_ROWS * size * levels:
        return FEW
    return SPARSE if levels >= VERY_FEW_LEVELS else SPARSEST


@functools.cache
def _nodes(
    sizes: tuple[int, ...], more: int, reach: tuple[float, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes of theta (K, k), and the numbers (K, neighbours) of the nodes next to each.

    Standard deviations spread on a log scale, up to 50 times 10 to the ``reach`` of their column, correlations evenly
    or (where there are ``more``) mostly close to 1, by a Sobol sequence.
    """
    far = np.zeros(sum(sizes)) if reach is None else np.asarray(reach)
    k = sum(r * (r + 1) // 2 for r in sizes)
    if k == 1:
        u = np.linspace(0, 1, 12)[:, None]
    else:
        power = {2: 5, 3: 6 + more}.get(k, 7 + max(more - 2, 0) // 2) + int(far.max() > 0)
        u = scipy.stats.qmc.Sobol(k, scramble=True, rng=np.random.default_rng(1)).random_base2(power)
    out, start, column = [], 0, 0
    for r in sizes:
        sd = 10 ** (-0.9 + (2.6 + far[column : column + r]) * u[:, start : start + r])
        column += r
        T = np.zeros((len(u), r, r))
        at = start + r
        for i in range(r):
            left = np.ones(len(u))
            for j in range(i):
                partial = np.tanh(6 * u[:, at] - 3) if more else 1.8 * u[:, at] - 0.9
                at += 1
                T[:, i, j] = sd[:, i] * partial * np.sqrt(left)
                left = left * (1 - partial**2)
            T[:, i, i] = sd[:, i] * np.sqrt(left)
        at_column, at_row = _triangle(r)
        out.append(T[:, at_row, at_column])
        start = at
    return np.concatenate(out, axis=1), scipy.spatial.cKDTree(u).query(u, 2 + 4 * k)[1][:, 1:]


def _starts(problem: Shared, stats: Any, n_starts: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts (n_starts, k, c), and the deviance there (n_starts, c), infinite where there is no other minimum."""
    nodes, neighbours = _nodes(problem.sizes, _effort(problem)[0], problem.reach)
    c = int(jax.tree.leaves(stats)[0].shape[-1])
    width = width_for(c, BYTES_PER_NODE * len(nodes))

    def lowest(index: np.ndarray) -> Any:
        with float64_scope():
            return _lowest(_take_nu(problem, index), nodes.T, neighbours, take(stats, index), n_starts)

    order, height = in_batches(lowest, c, width)
    return np.moveaxis(nodes[order], 2, 1), height


@functools.partial(programs.jit, batch=3, keep=True, static_argnums=4)
def _lowest(
    problem: Shared, nodes: jax.Array, neighbours: jax.Array, stats: Any, n_starts: int
) -> tuple[jax.Array, jax.Array]:
    return _minima(problem.at_nodes(nodes, stats), neighbours, n_starts)


@functools.partial(programs.jit, static_argnums=2)
def _lowest_of(value: jax.Array, neighbours: jax.Array, n_starts: int) -> tuple[jax.Array, jax.Array]:
    return _minima(value, neighbours, n_starts)


def _minima(value: jax.Array, neighbours: jax.Array, n_starts: int) -> tuple[jax.Array, jax.Array]:
    """The best node of each response and the next ones that no neighbour is below, (n_starts, c); their heights."""
    value = jnp.where(jnp.isfinite(value), value, np.inf)

    def none_below(j: jax.Array, local: jax.Array) -> jax.Array:
        beside = jax.lax.dynamic_index_in_dim(neighbours, j, 1, keepdims=False)
        return local & (value <= jnp.take(value, beside, axis=0, mode="clip"))

    local = jax.lax.fori_loop(0, neighbours.shape[1], none_below, value == value)
    low, numbers = value, np.arange(len(value))[:, None]
    order, height = [], []
    for _ in range(n_starts):
        height.append(jnp.min(low, axis=0))
        at = jnp.min(jnp.where(low == height[-1], numbers, len(value)), axis=0)
        order.append(at)
        low = jnp.where(local & (numbers != at), low, np.inf)
    return jnp.stack(order), jnp.stack(height)


# The trust region ----------------------------------------------------------------------------------


def _eigen(H: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues (k, c) and eigenvectors (k, k, c) of symmetric H (k, k, c), by Jacobi's rotations."""
    k = H.shape[0]
    V = jnp.broadcast_to(np.eye(k, dtype=H.dtype)[:, :, None], H.shape)
    if k == 1:
        return H[0], V
    pairs = np.stack(np.triu_indices(k, 1), axis=1).astype(np.int32)
    n_pairs = len(pairs)
    row, put = jax.lax.dynamic_index_in_dim, jax.lax.dynamic_update_index_in_dim

    def rotate(step: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        A, V = state
        pair = row(pairs, step % n_pairs, 0, keepdims=False)
        p, q = pair[0], pair[1]
        Ap, Aq = row(A, p, 0, keepdims=False), row(A, q, 0, keepdims=False)
        off = row(Ap, q, 0, keepdims=False)
        apart = row(Aq, q, 0, keepdims=False) - row(Ap, p, 0, keepdims=False)
        ratio = apart / jnp.where(off == 0, 1.0, 2 * off)
        t = jnp.where(ratio >= 0, 1.0, -1.0) / (jnp.abs(ratio) + jnp.sqrt(1 + ratio * ratio))
        t = jnp.where(off == 0, 0.0, t)
        cosine = 1 / jnp.sqrt(1 + t * t)
        sine = t * cosine

        def turned(X: jax.Array) -> jax.Array:
            a, b = row(X, p, 0, keepdims=False), row(X, q, 0, keepdims=False)
            return put(put(X, cosine * a - sine * b, p, 0), sine * a + cosine * b, q, 0)

        A = turned(jnp.swapaxes(turned(A), 0, 1))
        return A, jnp.swapaxes(turned(jnp.swapaxes(V, 0, 1)), 0, 1)

    A, V = rotate(0, (H, V)) if k == 2 else jax.lax.fori_loop(0, n_pairs * 6, rotate, (H, V))
    return jnp.stack([A[i, i] for i in range(k)]), V


def _direction(state: _State) -> tuple[jax.Array, jax.Array]:
    """The next step (k, c), and by how much the quadratic model says that it lowers the deviance (c,)."""
    k = state.theta.shape[0]
    free = state.free
    gradient = state.at.gradient * free
    hessian = state.at.hessian * free[:, None] * free[None] + np.eye(k)[:, :, None] * (1 - free)[:, None]
    values, vectors = _eigen(hessian)
    along = (vectors * gradient[:, None]).sum(0)
    size = jnp.abs(values)
    # The least shift that keeps the step inside the radius, to a few digits.
    size = jnp.maximum(size, jnp.maximum(1e-9 * size.max(0), 1e-12))

    def shifted(shift: jax.Array) -> jax.Array:
        part = along / (size + shift)
        norm2 = (part * part).sum(0)
        change = (part * part / (size + shift)).sum(0)
        more = norm2 * (jnp.sqrt(norm2) / state.radius - 1) / jnp.where(change > 0, change, 1.0)
        return jnp.where(jnp.sqrt(norm2) > 1.001 * state.radius, shift + more, shift)

    none: Any = np.zeros(along.shape[1:], along.dtype)
    part = -along / (size + jax.lax.fori_loop(0, 3, lambda _, shift: shifted(shift), shifted(none)))
    norm = jnp.sqrt((part * part).sum(0))
    part = part * jnp.minimum(1.0, state.radius / jnp.where(norm > 0, norm, 1.0))
    gain = -(along * part + 0.5 * values * part * part).sum(0)
    return (vectors * part[None]).sum(1), gain


def _advance(state: _State, problem: Problem, stats: Any) -> _State:
    """One step of each response that is not done."""
    step, gain = jax.lax.optimization_barrier(_direction(state))
    nu = problem.nu
    active = state.done == 0
    trial = jnp.where(active, state.theta + step, state.theta)
    # Barriers, or the compiler would repeat the step's arithmetic in every part of the evaluation.
    new = jax.lax.optimization_barrier(problem.evaluate(jax.lax.optimization_barrier(trial), stats))
    noise = _rounding(new.value, trial, nu)
    finite = jnp.isfinite(new.value) & jnp.isfinite(new.gradient).all(0) & jnp.isfinite(new.hessian).all((0, 1))
    fall = state.at.value - new.value
    first = state.steps == 0
    smaller = _steepness(new, trial, state.free) <= _steepness(state.at, state.theta, state.free)
    better = (fall > 0) | ((fall > -20 * noise) & smaller) | first
    accept = jax.lax.optimization_barrier(active & finite & better)
    ratio = fall / jnp.where(gain > 0, gain, 1.0)
    norm = jnp.sqrt((step * step).sum(0))
    good = accept & ((ratio > 0.7) | (gain < 100 * noise)) & (norm > 0.9 * state.radius)
    radius = jnp.where(good, 3 * state.radius, state.radius)
    radius = jnp.where(~first & active & ((ratio < 0.2) & (gain > 100 * noise) | ~accept), 0.25 * norm, radius)

    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(accept, a, b)

    theta, at = choose(trial, state.theta), jax.tree.map(choose, new, state.at)
    steep = _steepness(at, theta, state.free)
    flat = steep <= TOL_GRADIENT * nu
    # Rounding: steps that gain nothing more that can be seen.
    spent = ~first & ((gain <= 0.01 * noise) & ~accept | (radius < 1e-12))
    failed = first & ~finite
    steps = state.steps + jnp.where(active, 1.0, 0.0)
    done = jnp.where(active & (flat & (accept | ~first) | spent | failed | (steps >= state.limit)), 1.0, state.done)
    return _State(theta, at, jnp.where(active, radius, state.radius), state.free, done, steps, state.limit)


def _rounding(value: Any, theta: Any, nu: Any) -> Any:
    """By how much rounding may change the deviance (c,) at theta (k, c)."""
    return ROUNDING * (nu + abs(value)) + ROUNDING_RATIO * (theta * theta).max(axis=0)


def _steepness(at: Evaluation, theta: jax.Array, free: jax.Array) -> jax.Array:
    """The largest derivative in theta, or in log theta where theta is above 1."""
    return jnp.max(jnp.abs(at.gradient) * free * jnp.maximum(jnp.abs(theta), 1.0), axis=0)


@functools.cache
def _compiled(first: bool = False) -> Any:
    """Steps of a batch until no more than ``enough`` of its responses are not done.

    ``first``: of a search of so few responses that it compiles for longer than it runs.
    """
    step = iteration_step(_advance)

    def run(state: _State, problem: Problem, stats: Any, enough: jax.Array) -> _State:
        def going(state: _State) -> jax.Array:
            return jnp.sum(state.done == 0) > enough

        return jax.lax.while_loop(going, lambda state: step(state, problem, stats), state)

    return programs.jit(run, keep=True, batch=0 if first else None)


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
                return _lowest_of(value[:, index], neighbours, n_starts)

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
    ) -> _State:
        """At most ``limit`` steps of the ``free`` parameters of responses ``rows`` from ``start`` (k, len(rows))."""
        c = start.shape[1]
        out, width = _empty_state(start, free, limit), self._width(c)
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

    def _polish_share(self, rows: np.ndarray, out: _State, waiting: np.ndarray, width: int) -> None:
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

    def _advance_until(self, rows: np.ndarray, out: _State, index: np.ndarray, n: int, more: bool) -> np.ndarray:
        """Steps of the responses ``index``, the first n of them not padding, until it pays to regroup.

        That is when enough are done to let others in, or so few are left that narrower batches take less. Where a
        step takes no longer than the moving, only when most are done.
        Returns which of the n are not done.
        """
        width = len(index)
        state, stats, problem = take(out, index), take(self.stats, rows[index]), _take_nu(self.problem, rows[index])
        state.done[n:] = 1.0
        enough = (width // 4 if self.cheap else n - width // 2) if more else self._few(width)
        state = _compiled(self.few)(state, problem, stats, min(enough, n - 1))
        left = np.asarray(state.done)[:n] == 0
        put(out, index[:n], state)
        return left

    def keep(self, rows: np.ndarray, new: _State, *, better: np.ndarray | None = None) -> np.ndarray:
        """Take over what is lower than before, or what ``better`` says; returns which."""
        nu = np.broadcast_to(self.problem.nu, self.value.shape)[rows]
        value = np.where(np.isfinite(new.at.value), new.at.value, np.inf)
        if better is None:
            with np.errstate(invalid="ignore"):
                better = value < self.value[rows] - SAME * nu - _rounding(value, new.theta, nu)
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

    def _arriving(self, rows: np.ndarray, at: _State) -> np.ndarray:
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
        theta, close = _rounded(self.theta[:, rows], sizes, near)
        close &= (theta != self.theta[:, rows]).any(axis=0)
        rows, theta = rows[close], theta[:, close]
        if not len(rows):
            return
        new = self.polish(rows, theta, _free_parameters(theta, sizes))
        nu = np.broadcast_to(self.problem.nu, self.value.shape)[rows]
        lowest = np.stack([v[0] for v in _cone(new.theta, new.at.slope, sizes)]).min(axis=0)
        higher = new.at.value - self.value[rows]
        ok = (higher <= 1e-10 * nu + _rounding(new.at.value, new.theta, nu)) & (lowest >= 0)
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
            cones = _cone(self.theta[:, rows], self.slope[:, rows], sizes)
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
            for t, T in enumerate(_factors(self.theta[:, rows], sizes)):
                v = vectors[t] * (term == t)[:, None]
                parts.append(
                    _lower(semidefinite_factor(T @ T.swapaxes(1, 2) + length * v[:, :, None] * v[:, None, :]))
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
                state, problem = _empty_state(theta[:, index], limit=1), _take_nu(self.problem, rows[index])
                return _compiled(self.few)(state, problem, take(self.stats, rows[index]), 0).at.value

        out = in_batches(values, len(rows), self._width(len(rows)))
        return np.where(np.isfinite(out), out, np.inf)


def _take_nu(problem: Any, index: np.ndarray) -> Any:
    """The problem of some responses."""
    if np.ndim(problem.nu) == 0:
        return problem
    return dataclasses.replace(problem, nu=np.asarray(problem.nu)[index])


def _empty_state(start: np.ndarray, free: np.ndarray | None = None, limit: int = MAX_STEPS) -> _State:
    """A state whose first step only evaluates the deviance at ``start``."""
    k, c = start.shape
    free = np.ones((k, c)) if free is None else free
    at = Evaluation(np.zeros(c), np.zeros((k, c)), np.tile(np.eye(k)[:, :, None], c), np.zeros((k, c)))  # type: ignore[arg-type]
    radius = 0.5 * (1 + np.abs(start).max(axis=0))
    return _State(start.copy(), at, radius, free, np.zeros(c), np.zeros(c), np.full(c, float(limit)))


# Covariance matrices -------------------------------------------------------------------------------


@functools.cache
def _triangle(r: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the lower triangle of an (r, r) matrix, column by column."""
    column, row = np.triu_indices(r)
    return column, row


def _eigh(M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``numpy.linalg.eigh`` of matrices (c, r, r), which takes long for many small ones."""
    if M.shape[1] == 1:
        return M[:, 0], np.ones_like(M)
    if M.shape[1] > 2:
        values, vectors = np.linalg.eigh(M)
        return values, vectors
    # One of Jacobi's rotations.
    a, b, d = M[:, 0, 0], M[:, 1, 0], M[:, 1, 1]
    ratio = (d - a) / np.where(b == 0, 1.0, 2 * b)
    t = np.where(b == 0, 0.0, np.where(ratio >= 0, 1.0, -1.0) / (np.abs(ratio) + np.hypot(1.0, ratio)))
    cosine = 1 / np.sqrt(1 + t * t)
    sine, values = t * cosine, np.stack([a - t * b, d + t * b], axis=1)
    vectors = np.stack([np.stack([cosine, sine], axis=1), np.stack([-sine, cosine], axis=1)], axis=1)
    order = np.argsort(values, axis=1)
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(vectors, order[:, None], axis=2)


def _factors(theta: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """T (c, r, r) of each term."""
    out, start = [], 0
    for r in sizes:
        column, row = _triangle(r)
        T = np.zeros((theta.shape[1], r, r))
        T[:, row, column] = theta[start : start + len(row)].T
        start += len(row)
        out.append(T)
    return out


def _lower(T: np.ndarray) -> np.ndarray:
    """theta (r (r + 1) / 2, c) of T (c, r, r)."""
    column, row = _triangle(T.shape[1])
    return np.ascontiguousarray(T[:, row, column].T)


def semidefinite_factor(Phi: np.ndarray, tol: float = 1e-14) -> np.ndarray:
    """Lower factor (c, r, r) of covariance matrices that may be singular: a pivot of 0 has a column of 0."""
    T = np.zeros_like(Phi)
    r = Phi.shape[1]
    for j in range(r):
        pivot = Phi[:, j, j] - np.einsum("ck,ck->c", T[:, j, :j], T[:, j, :j])
        kept = pivot > tol * np.maximum(Phi[:, j, j], 1e-300)
        T[:, j, j] = np.where(kept, np.sqrt(np.where(kept, pivot, 1.0)), 0.0)
        for i in range(j + 1, r):
            rest = Phi[:, i, j] - np.einsum("ck,ck->c", T[:, i, :j], T[:, j, :j])
            T[:, i, j] = np.where(kept, rest / np.where(kept, T[:, j, j], 1.0), 0.0)
    return T


def _is_singular(T: np.ndarray) -> np.ndarray:
    return np.asarray(np.any(np.diagonal(T, axis1=1, axis2=2) == 0, axis=1))


def _orientation(theta: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Signs (k, c) of the columns of T with which their diagonal is not negative."""
    parts = []
    for T in _factors(theta, sizes):
        signs = np.ones(T.shape)
        signs[:] = np.where(np.einsum("cii->ci", T) < 0, -1.0, 1.0)[:, None, :]
        parts.append(_lower(signs))
    return np.concatenate(parts)


def _rounded(theta: np.ndarray, sizes: Sequence[int], near_zero: float) -> tuple[np.ndarray, np.ndarray]:
    """theta with positive diagonals and small eigenvalues of Phi at 0, and which responses had some."""
    parts, close = [], np.zeros(theta.shape[1], bool)
    for T in _factors(theta, sizes):
        Phi = T @ T.swapaxes(1, 2)
        values, vectors = _eigh(np.where(np.isfinite(Phi), Phi, 0.0))
        small = values < near_zero * np.maximum(1.0, values[:, -1:] * 1e-4)
        near = np.asarray(small.any(axis=1))
        kept = np.where(small, 0.0, values)
        lower = semidefinite_factor((vectors * kept[:, None, :]) @ vectors.swapaxes(1, 2), tol=1e-12)
        parts.append(_lower(np.where(near[:, None, None], lower, T)))
        close |= near
    return np.concatenate(parts), close


def _free_parameters(theta: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Which parameters move while columns of T that are 0 stay so, (k, c)."""
    parts = []
    for T in _factors(theta, sizes):
        moves = np.zeros(T.shape)
        moves[:] = (np.einsum("cii->ci", T) != 0)[:, None, :]
        parts.append(_lower(moves))
    return np.concatenate(parts)


def _cone(theta: np.ndarray, slope: np.ndarray, sizes: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each term the lowest eigenvalue (c,) of D, 0 where it is not below rounding, and its vector (c, r)."""
    out, start = [], 0
    for r in sizes:
        column, row = _triangle(r)
        D = np.zeros((theta.shape[1], r, r))
        part = slope[start : start + len(row)].T * np.where(row == column, 1.0, 0.5)
        D[:, row, column] = D[:, column, row] = np.where(np.isfinite(part), part, 0.0)
        start += len(row)
        values, vectors = _eigh(D)
        tolerance = TOL_CONE * (1 + np.abs(values).max(axis=1))
        out.append((np.where(values[:, 0] < -tolerance, values[:, 0], 0.0), vectors[:, :, 0]))
    return out
