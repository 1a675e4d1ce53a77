"""Newton steps within a trust region, for a batch of responses: down to the minimum below a start.

Where the Hessian is not positive definite the steps go down along its negative directions too (Dauphin et al. 2014).
They are run by jaxopt (``solver``).
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxlmm.optimize.solver import iteration_step
from jaxlmm.runtime import programs

__all__ = [
    "MAX_STEPS", "Evaluation", "Problem", "State", "compiled", "empty_state", "problem_of", "roundoff",
]  # fmt: skip

MAX_STEPS = 100
# What counts as converged: gradient in theta (or in log theta where theta > 1), relative to nu.
TOL_GRADIENT = 1e-11
# Rounding of the deviance: relative to its size, and to the largest variance ratio (where a direction of the effects
# is also one of X or of another factor, log|V| is a sum of logarithms of pivots, each of which rounds like phi).
ROUNDING, ROUNDING_RATIO = 1e-14, 1e-16


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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
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


def empty_state(start: np.ndarray, free: np.ndarray | None = None, limit: int = MAX_STEPS) -> State:
    """A state whose first step only evaluates the deviance at ``start``."""
    k, c = start.shape
    free = np.ones((k, c)) if free is None else free
    at = Evaluation(np.zeros(c), np.zeros((k, c)), np.tile(np.eye(k)[:, :, None], c), np.zeros((k, c)))  # type: ignore[arg-type]
    radius = 0.5 * (1 + np.abs(start).max(axis=0))
    return State(start.copy(), at, radius, free, np.zeros(c), np.zeros(c), np.full(c, float(limit)))


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


def _direction(state: State) -> tuple[jax.Array, jax.Array]:
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


def _advance(state: State, problem: Problem, stats: Any) -> State:
    """One step of each response that is not done."""
    step, gain = jax.lax.optimization_barrier(_direction(state))
    nu = problem.nu
    active = state.done == 0
    trial = jnp.where(active, state.theta + step, state.theta)
    # Barriers, or the compiler would repeat the step's arithmetic in every part of the evaluation.
    new = jax.lax.optimization_barrier(problem.evaluate(jax.lax.optimization_barrier(trial), stats))
    noise = roundoff(new.value, trial, nu)
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
    return State(theta, at, jnp.where(active, radius, state.radius), state.free, done, steps, state.limit)


def roundoff(value: Any, theta: Any, nu: Any) -> Any:
    """By how much rounding may change the deviance (c,) at theta (k, c)."""
    return ROUNDING * (nu + abs(value)) + ROUNDING_RATIO * (theta * theta).max(axis=0)


def _steepness(at: Evaluation, theta: jax.Array, free: jax.Array) -> jax.Array:
    """The largest derivative in theta, or in log theta where theta is above 1."""
    return jnp.max(jnp.abs(at.gradient) * free * jnp.maximum(jnp.abs(theta), 1.0), axis=0)


@functools.cache
def compiled(few: bool) -> Any:
    """Steps of a batch until no more than ``enough`` of its responses are not done.

    ``few``: of a search of so few responses that it compiles for longer than it runs.
    """
    step = iteration_step(_advance)

    def run(state: State, problem: Problem, stats: Any, enough: jax.Array) -> State:
        def going(state: State) -> jax.Array:
            return jnp.sum(state.done == 0) > enough

        return jax.lax.while_loop(going, lambda state: step(state, problem, stats), state)

    return programs.jit(run, keep=True, batch=0 if few else None)


def problem_of(problem: Any, index: np.ndarray) -> Any:
    """The problem of some responses."""
    if np.ndim(problem.nu) == 0:
        return problem
    return dataclasses.replace(problem, nu=np.asarray(problem.nu)[index])
