"""Which jaxopt solver finds the REML optimum: never worse than the global one, and how fast?

    python benchmarks/solvers.py

Every solver gets the same sufficient statistics of the same responses. ``excess`` is how far the
worst response ends above the lowest deviance known (the minimum over a grid of 4,000 variance
ratios and over all solvers); ``missed`` is the share of responses more than 1e-6 above it.
Times are of compiled code. Writes results/solvers.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from common import best_time, save, simulate

import jaxlmm
from jaxlmm._types import float64_scope
from jaxlmm.families.intercept.block import BlockFitter
from jaxlmm.families.intercept.minimum import make_nodes, minimise
from jaxlmm.families.intercept.objective import Terms, deviance, slope
from jaxlmm.families.intercept.reduce import Stats, reduce_panel
from jaxlmm.optimize.search import lowest_node

T_MAX = 34.0


def statistics(X: np.ndarray, Y: np.ndarray, groups: np.ndarray) -> tuple[Terms, jax.Array, jax.Array, jax.Array]:
    model = jaxlmm.prepare(X, groups)
    stats = Stats.empty(model.family.reducer, Y.shape[1])
    reduce_panel(model.family.reducer, Y, slice(0, Y.shape[1]), stats)
    constants = BlockFitter.make(model.family.reducer, "REML", Y.shape[1]).constants
    return constants.terms, constants.grid, jnp.asarray(stats.u**2), jnp.asarray(stats.rest)


def bracket(terms: Terms, grid: jax.Array, u2: jax.Array, rest: jax.Array) -> tuple[jax.Array, ...]:
    nodes = make_nodes(terms, u2, rest, grid)
    best = lowest_node(nodes, terms.nu)
    return best.low, best.t, best.high, nodes.slope_zero


def newton(terms: Terms, grid: jax.Array, u2: jax.Array, rest: jax.Array) -> jax.Array:
    return jnp.log1p(minimise(terms, u2, rest, grid).lam * terms.d_max)


def bisection(terms: Terms, grid: jax.Array, u2: jax.Array, rest: jax.Array) -> jax.Array:
    low, at, high, slope_zero = bracket(terms, grid, u2, rest)

    def score(t: jax.Array, v: jax.Array, r: jax.Array) -> jax.Array:
        return slope(t, terms, v, r)[0]

    def one(a: jax.Array, b: jax.Array, v: jax.Array, r: jax.Array) -> jax.Array:
        solver = jaxopt.Bisection(score, lower=a, upper=b, maxiter=60, tol=0.0, check_bracket=False)
        return solver.run(None, v, r).params

    t = jax.vmap(one, in_axes=(0, 0, 1, 0))(low, high, u2, rest)
    return jnp.where((at == 0) & (slope_zero >= 0), 0.0, t)


def gradient_solver(solver: jaxopt.LBFGSB, from_grid: bool) -> Callable[..., jax.Array]:
    def run(terms: Terms, grid: jax.Array, u2: jax.Array, rest: jax.Array) -> jax.Array:
        at = bracket(terms, grid, u2, rest)[1] if from_grid else jnp.ones_like(rest)

        def one(t: jax.Array, v: jax.Array, r: jax.Array) -> jax.Array:
            return solver.run(t[None], bounds=(jnp.zeros(1), jnp.full(1, T_MAX)), terms=terms, v=v, r=r).params[0]

        return jax.vmap(one, in_axes=(0, 1, 0))(at, u2, rest)

    return run


def lbfgs_log(terms: Terms, grid: jax.Array, u2: jax.Array, rest: jax.Array) -> jax.Array:
    """Unconstrained, in log lam: what one would write first."""

    def objective(x: jax.Array, v: jax.Array, r: jax.Array) -> jax.Array:
        return deviance(jnp.log1p(jnp.exp(x) * terms.d_max), terms, v, r)

    solver = jaxopt.LBFGS(objective, maxiter=100, tol=1e-10)
    x = jax.vmap(lambda v, r: solver.run(jnp.zeros(()), v, r).params, in_axes=(1, 0))(u2, rest)
    return jnp.log1p(jnp.exp(jnp.clip(x, -60, 30)) * terms.d_max)


def flat(t: jax.Array, terms: Terms, v: jax.Array, r: jax.Array) -> jax.Array:
    return deviance(t[0], terms, v, r)


def solvers() -> dict[str, Callable[..., jax.Array]]:
    lbfgsb = jaxopt.LBFGSB(flat, maxiter=100, tol=1e-10)
    return {
        "grid + Newton (FixedPointIteration)": newton,
        "grid + Bisection on the score": bisection,
        "grid + LBFGSB": gradient_solver(lbfgsb, from_grid=True),
        "LBFGSB from t = 1": gradient_solver(lbfgsb, from_grid=False),
        "LBFGS in log lam": lbfgs_log,
    }


def several_valleys(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One huge group beside many pairs, with a covariate that varies between groups."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(14), [400, 300, *[2] * 12])
    X = np.column_stack([np.ones(len(groups)), rng.standard_normal(14)[groups]])
    size = np.concatenate([rng.uniform(0, 0.2, (2, m)), rng.uniform(0, 3, (12, m))])
    Y = rng.standard_normal((len(groups), m)) + (size * rng.standard_normal((14, m)))[groups]
    return X, Y, groups


def main() -> None:
    rows = []
    m = 2048
    cases = {
        "40 unequal groups, n = 1000": simulate(1000, 4, 40, m),
        "6 subjects, n = 60": simulate(60, 3, 6, m),
        "2 large groups beside 12 pairs": several_valleys(m),
    }
    with float64_scope():
        for case, data in cases.items():
            arrays = statistics(*data)
            batched = jax.jit(jax.vmap(deviance, in_axes=(0, None, 1, 0)))
            reached = {}
            for name, solver in solvers().items():
                run = jax.jit(solver)
                start = time.perf_counter()
                t = jax.block_until_ready(run(*arrays))
                first = time.perf_counter() - start
                each = best_time(lambda run=run, a=arrays: jax.block_until_ready(run(*a)), 3) / m * 1e6
                value = np.asarray(batched(t, arrays[0], *arrays[2:]))
                reached[name] = (first, each, np.where(np.isfinite(value), value, np.inf))
            fine = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1e-5, T_MAX, 4000)])
            nodes = make_nodes(arrays[0], *arrays[2:], fine)
            value = np.asarray(arrays[0].nu * jnp.log(nodes.s) + nodes.logdet)
            lowest = np.minimum(value.min(axis=0), np.min([v for *_, v in reached.values()], axis=0))
            inner = (value[1:-1] < value[:-2]) & (value[1:-1] < value[2:])
            valleys = inner.sum(axis=0) + (value[0] < value[1])
            for name, (first, each, got) in reached.items():
                excess = got - lowest
                rows.append(
                    {
                        "solver": name, "case": case, "us per response": each,
                        "worst excess": float(excess.max()), "missed": f"{np.mean(excess > 1e-6):.2%}",
                        "several valleys": f"{np.mean(valleys > 1):.2%}", "first call s": first,
                    }
                )  # fmt: skip
    save("solvers", rows, responses=m)


if __name__ == "__main__":
    main()
