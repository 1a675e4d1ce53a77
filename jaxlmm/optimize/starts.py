"""Where the search of each response begins: the best of nodes that all share, and the next local minima."""

from __future__ import annotations

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import scipy.spatial
import scipy.stats

from jaxlmm._types import float64_scope
from jaxlmm.optimize.covariances import triangle
from jaxlmm.optimize.trust_region import Problem, problem_of
from jaxlmm.runtime import programs
from jaxlmm.runtime.batches import in_batches, take, width_for

__all__ = ["BYTES_PER_NODE", "Shared", "effort", "find_starts", "lowest_of"]

# Starts of each response: the best node and the next lowest local minima among the nodes. More, and more nodes that
# are mostly close to correlations of 1, where a factor with slopes has few levels: there are often several minima
# there, most of all where there are few observations for each effect too. (Powers of two of nodes, starts.)
N_STARTS, FEW_LEVELS, FEW = 3, 30, (2, 5)
VERY_FEW_LEVELS, FEW_ROWS, SPARSE, SPARSEST = 8, 4.0, (4, 8), (5, 12)
# Memory that a response takes for each node.
BYTES_PER_NODE = 64


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


def effort(problem: Shared) -> tuple[int, int]:
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
        at_column, at_row = triangle(r)
        out.append(T[:, at_row, at_column])
        start = at
    return np.concatenate(out, axis=1), scipy.spatial.cKDTree(u).query(u, 2 + 4 * k)[1][:, 1:]


def find_starts(problem: Shared, stats: Any, n_starts: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts (n_starts, k, c), and the deviance there (n_starts, c), infinite where there is no other minimum."""
    nodes, neighbours = _nodes(problem.sizes, effort(problem)[0], problem.reach)
    c = int(jax.tree.leaves(stats)[0].shape[-1])
    width = width_for(c, BYTES_PER_NODE * len(nodes))

    def lowest(index: np.ndarray) -> Any:
        with float64_scope():
            return _lowest(problem_of(problem, index), nodes.T, neighbours, take(stats, index), n_starts)

    order, height = in_batches(lowest, c, width)
    return np.moveaxis(nodes[order], 2, 1), height


@functools.partial(programs.jit, batch=3, keep=True, static_argnums=4)
def _lowest(
    problem: Shared, nodes: jax.Array, neighbours: jax.Array, stats: Any, n_starts: int
) -> tuple[jax.Array, jax.Array]:
    return _minima(problem.at_nodes(nodes, stats), neighbours, n_starts)


@functools.partial(programs.jit, static_argnums=2)
def lowest_of(value: jax.Array, neighbours: jax.Array, n_starts: int) -> tuple[jax.Array, jax.Array]:
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
