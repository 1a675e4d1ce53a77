"""Is the optimum global? Random responses of every structure against many starts of scipy's L-BFGS-B.

    python benchmarks/structures_optimum.py [--responses 5000] [--starts 20] [--only TEXT]

The responses have random effects of random sizes, a third of them none at all, so that many optima
are singular. Prints how often, and by how much at most, the log-likelihood that we find lies below
the best of all starts. Writes results/structures_optimum.json.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np
import scipy.optimize
from common import save
from structures import designs, responses

from jaxlmm._types import float64_scope
from jaxlmm.families.deviance import Deviance
from jaxlmm.families.general.family import make_general
from jaxlmm.optimize.several import minimise_several

TOLERANCE = 1e-7


@jax.jit
def value_gradient(problem: Deviance, theta: jax.Array, stats: object) -> tuple[jax.Array, jax.Array]:
    at = problem.evaluate(theta, stats)
    return at.value, at.gradient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=5000)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    rows = []
    for name, (X, terms) in designs().items():
        if options.only not in name:
            continue
        family = make_general(np.linalg.qr(X)[0], None, terms)
        stats = family.reduce(responses(X, terms, options.responses, [0.0, 0.2, 1.0], seed=2))[0]
        problem = Deviance(family, float(len(X) - X.shape[1]), True)
        optimum = minimise_several(problem, stats, rough=problem.rough(options.responses))
        rng = np.random.default_rng(3)
        below = np.array([
            0.5 * (optimum.value[c] - best_of_starts(problem, stats, c, options.starts, rng))
            for c in range(options.responses)
        ])  # fmt: skip
        rows.append({
            "structure": name,
            "worst": float(below.max()),
            "below": int((below > TOLERANCE).sum()),
            "scipy below": int((below < -TOLERANCE).sum()),
            "singular": optimum.singular.mean(axis=1).tolist(),
            "converged": float(optimum.converged.mean()),
        })  # fmt: skip
        print(rows[-1], flush=True)
    if not options.only:
        save("structures_optimum", rows, responses=options.responses, starts=options.starts)


def best_of_starts(problem: Deviance, stats: object, c: int, n_starts: int, rng: np.random.Generator) -> float:
    """Lowest deviance that L-BFGS-B finds."""
    one = jax.tree.map(lambda a: np.asarray(a)[..., c : c + 1], stats)

    def function(theta: np.ndarray) -> tuple[float, np.ndarray]:
        with float64_scope():
            value, gradient = value_gradient(problem, theta[:, None], one)
        return float(value[0]), np.asarray(gradient[:, 0])

    best = np.inf
    for _ in range(n_starts):
        start = rng.normal(size=problem.family.n_phi) * 10 ** rng.uniform(-1, 1)
        options = dict(ftol=1e-15, gtol=1e-8, maxiter=500)
        best = min(best, scipy.optimize.minimize(function, start, jac=True, method="L-BFGS-B", options=options).fun)
    return best


if __name__ == "__main__":
    main()
