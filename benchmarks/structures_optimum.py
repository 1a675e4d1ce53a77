"""Is the optimum global? Random responses of every structure against many starts of scipy's L-BFGS-B, and lme4.

    python benchmarks/structures_optimum.py [--responses 5000] [--starts 20] [--lme4 300] [--only TEXT]

The responses have random effects of random sizes, a third of them none at all, so that many optima are singular.
"small" designs have few rows and groups, and responses with outliers, whose deviance often has several minima.
Counts how often, and by how much at most, the log-likelihood that we find lies below the best of all starts, and
below lme4's (the first so many responses; ``Rscript`` with lme4 is needed, ``--lme4 0`` does without).

All starts are evaluated together: scipy's L-BFGS-B is called step by step (``setulb``, what
``scipy.optimize.minimize`` calls in its loop), and the pool of points that it asks for is one call of the
deviance. Before, the deviance and its gradient are compared with n x n matrices, and the pool with
``scipy.optimize.minimize``. Writes results/structures_optimum.json after every structure.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from common import RESULTS, save
from lme4 import in_lme4
from scipy.optimize import _lbfgsb
from structures import designs, responses, small_designs

import jaxlmm
from jaxlmm._types import float64_scope
from jaxlmm.design.random import RandomTerm
from jaxlmm.families.deviance import Deviance
from jaxlmm.families.general.family import General, make_general
from jaxlmm.families.parameters import lower_triangle
from jaxlmm.optimize.several import minimise_several

TOLERANCE = 1e-7
# Points that are evaluated together.
WIDTH = 512
# Of scipy.optimize.minimize(method="L-BFGS-B"): memory, line search steps, relative decrease and gradient to stop at.
MEMORY, LINE_SEARCH, FTOL, GTOL, ITERATIONS = 10, 20, 1e-15, 1e-8, 500


@jax.jit
def evaluate(problem: Deviance, theta: jax.Array, stats: Any, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Deviance (c,) and gradient (k, c) at theta (k, c) of the responses ``index`` (c,)."""
    at = problem.evaluate(theta, jax.tree.map(lambda a: a[..., index], stats))
    return at.value, at.gradient


class Descent:
    """One run of L-BFGS-B, a step at a time."""

    def __init__(self, start: np.ndarray) -> None:
        n, m = len(start), MEMORY
        self.x, self.f, self.steps = start.copy(), np.array(0.0), 0
        self.none, self.kinds = np.zeros(n), np.zeros(n, dtype=np.int32)
        self.work = np.zeros(2 * m * n + 5 * n + 11 * m * m + 8 * m)
        self.integers = [np.zeros(size, dtype=np.int32) for size in (3 * n, 2, 4, 44)]
        self.doubles, self.line_task = np.zeros(29), np.zeros(2, dtype=np.int32)
        self.advance(0.0, np.zeros(n))

    def advance(self, value: float, gradient: np.ndarray) -> bool:
        """Take in the value and gradient at ``x``; whether those at the new ``x`` are wanted."""
        self.f[()] = value
        iwork, task, lsave, isave = self.integers
        factr = FTOL / np.finfo(float).eps
        while True:
            _lbfgsb.setulb(
                MEMORY, self.x, self.none, self.none, self.kinds, self.f, gradient, factr, GTOL, self.work,
                iwork, task, lsave, isave, self.doubles, LINE_SEARCH, self.line_task,
            )  # fmt: skip
            if task[0] == 3:
                return True
            self.steps += 1
            if task[0] != 1 or self.steps >= ITERATIONS:
                return False


def best_of_starts(problem: Deviance, stats: Any, m: int, n_starts: int, seed: int) -> tuple[np.ndarray, int]:
    """Lowest deviance (m,) that L-BFGS-B finds from so many starts, and how many evaluations that took."""
    rng = np.random.default_rng(seed)
    k = problem.family.n_phi
    starts = rng.normal(size=(m, n_starts, k)) * 10 ** rng.uniform(-1, 1, (m, n_starts, 1))
    todo = iter([(c, s) for c in range(m) for s in range(n_starts)])
    best, evaluations = np.full(m, np.inf), 0
    theta, index = np.zeros((k, WIDTH)), np.zeros(WIDTH, dtype=np.int64)
    runs: list[Descent | None] = [None] * WIDTH

    def fill(slot: int) -> None:
        one = next(todo, None)
        runs[slot] = None if one is None else Descent(starts[one])
        if one is not None:
            theta[:, slot], index[slot] = runs[slot].x, one[0]  # type: ignore[union-attr]

    for slot in range(WIDTH):
        fill(slot)
    with float64_scope():
        while any(run is not None for run in runs):
            at = evaluate(problem, theta, stats, index)
            values, gradients = np.asarray(at[0]), np.asarray(at[1]).T.copy()
            for slot, run in enumerate(runs):
                if run is None:
                    continue
                evaluations += 1
                best[index[slot]] = np.fmin(best[index[slot]], values[slot])
                if run.advance(values[slot], gradients[slot]):
                    theta[:, slot] = run.x
                else:
                    fill(slot)
    return best, evaluations


def dense(family: General, terms: list[RandomTerm], Q: np.ndarray, theta: jax.Array, y: np.ndarray) -> jax.Array:
    """The restricted deviance by n x n matrices, theta of the whitened columns as in the family."""
    n, p = Q.shape
    V, start = jnp.eye(n), 0
    for t, A in zip(terms, family.whiteners, strict=True):
        rows, columns = lower_triangle(t.size)
        T = jnp.zeros((t.size, t.size)).at[rows, columns].set(theta[start : start + len(rows)])
        start += len(rows)
        Z = t.Z @ A @ T
        V = V + (Z @ Z.T) * (t.codes[:, None] == t.codes[None])
    inverse = jnp.linalg.inv(V)
    M = Q.T @ inverse @ Q
    r = y - Q @ jnp.linalg.solve(M, Q.T @ inverse @ y)
    return (n - p) * jnp.log(r @ inverse @ r) + jnp.linalg.slogdet(V)[1] + jnp.linalg.slogdet(M)[1]


def check_deviance(
    problem: Deviance, terms: list[RandomTerm], Q: np.ndarray, Y: np.ndarray, stats: Any, scale: np.ndarray
) -> None:
    """Value and gradient against n x n matrices, and the pool against ``scipy.optimize.minimize``."""
    rng = np.random.default_rng(4)
    k, m = problem.family.n_phi, Y.shape[1]
    for size in (0.0, 0.3, 3.0):
        index, theta = rng.integers(0, m, WIDTH), size * rng.normal(size=(k, WIDTH))
        with float64_scope():
            value, gradient = evaluate(problem, theta, stats, index)
            for c in range(2):
                at = jax.value_and_grad(lambda t, y: dense(problem.family, terms, Q, t, y))(
                    theta[:, c], Y[:, index[c]] / scale[index[c]]
                )
                np.testing.assert_allclose(value[c], at[0], rtol=1e-11)
                np.testing.assert_allclose(gradient[:, c], at[1], rtol=1e-7, atol=1e-8 * problem.nu)

    def function(theta: np.ndarray, c: int) -> tuple[float, np.ndarray]:
        with float64_scope():
            value, gradient = evaluate(problem, np.tile(theta[:, None], WIDTH), stats, np.full(WIDTH, c))
        return float(value[0]), np.asarray(gradient)[:, 0]

    pool = best_of_starts(problem, jax.tree.map(lambda a: a[..., :3], stats), 3, 1, seed=3)[0]
    draw = np.random.default_rng(3)
    starts = draw.normal(size=(3, 1, k)) * 10 ** draw.uniform(-1, 1, (3, 1, 1))
    options = dict(ftol=FTOL, gtol=GTOL, maxiter=ITERATIONS, maxcor=MEMORY, maxls=LINE_SEARCH)
    for c in range(3):
        one = scipy.optimize.minimize(function, starts[c, 0], args=(c,), jac=True, method="L-BFGS-B", options=options)
        assert abs(one.fun - pool[c]) < 1e-8, (one.fun, pool[c])


LOGLIK = """
control <- lmerControl(calc.derivs = FALSE, check.conv.singular = "ignore")
results <- sapply(seq_len(ncol(Y)), function(j) {
  d$y <- Y[, j]
  as.numeric(logLik(lmer(formula, d, control = control)))
})
"""


def campaign(
    name: str, X: np.ndarray, terms: list[RandomTerm], Y: np.ndarray, options: argparse.Namespace
) -> dict[str, Any]:
    """One structure."""
    began, m = time.process_time(), Y.shape[1]
    Q = np.linalg.qr(X)[0]
    family = make_general(Q, None, terms)
    stats, scaling = family.reduce(Y)
    stats = jax.tree.map(np.asarray, stats)
    problem = Deviance(family, float(len(X) - X.shape[1]), True)
    check_deviance(problem, terms, Q, Y, stats, scaling.scale)
    optimum = minimise_several(problem, stats, windows=family.windows(problem.nu, True, m))
    best, evaluations = best_of_starts(problem, stats, m, options.starts, seed=3)
    below = 0.5 * (optimum.value - best)
    row = {
        "structure": name,
        "responses": m,
        "starts": options.starts,
        "evaluations": evaluations,
        "below": int((below > TOLERANCE).sum()),
        "below by at most": float(below.max()),
        "all starts below ours": int((below < -TOLERANCE).sum()),
        "singular": np.asarray(optimum.singular).mean(axis=1).tolist(),
        "converged": float(optimum.converged.mean()),
    }
    if options.lme4:
        ours = jaxlmm.fit(X, Y[:, : options.lme4], random=terms).loglik
        less = in_lme4(LOGLIK, X, terms, Y[:, : options.lme4]) - ours
        row |= {
            "lme4 responses": len(less),
            "below lme4": int((less > TOLERANCE).sum()),
            "below lme4 by at most": float(less.max()),
            "lme4 below ours": int((less < -TOLERANCE).sum()),
            "lme4 below ours by at most": float(-less.min()),
        }
    return row | {"cpu seconds": time.process_time() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=5000)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--lme4", type=int, default=300)
    parser.add_argument("--only", default="", help="part of a name")
    options = parser.parse_args()
    file = RESULTS / "structures_optimum.json"
    rows = {row["structure"]: row for row in json.loads(file.read_text())["rows"]} if file.exists() else {}
    m = options.responses
    settings = {
        name: (X, terms, responses(X, terms, m, [0.0, 0.2, 1.0], seed=2)) for name, (X, terms) in designs().items()
    }
    settings |= {f"small {k}: (1 + x | g)": setting for k, setting in enumerate(small_designs(m))}
    for name, (X, terms, Y) in settings.items():
        if options.only in name:
            rows[name] = campaign(name, X, terms, Y, options)
            save("structures_optimum", list(rows.values()), tolerance=TOLERANCE)


if __name__ == "__main__":
    main()
