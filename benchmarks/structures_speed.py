"""How long do fits of random structures take, from Y to coefficients, variances, t tests and likelihoods?

    python benchmarks/structures_speed.py [--responses 4096] [--only TEXT]

One call of all the work that depends on Y, a response: cross-products, global optimum (REML),
coefficients with their covariance, Satterthwaite degrees of freedom. Compiled before. Writes
results/structures_speed.json.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from common import best_time, save
from structures import designs, responses

from jaxlmm._types import float64_scope
from jaxlmm.families.deviance import Deviance
from jaxlmm.families.general.family import General, make_general
from jaxlmm.families.parameters import phi_from_theta, theta_jacobian
from jaxlmm.inference.variance_df import VarianceCurves, observed_inverse, satterthwaite
from jaxlmm.optimize.several import minimise_several

SDS = [0.0, 0.2, 0.5, 1.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=4096)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    found = {}
    for name, (X, terms) in designs().items():
        if options.only not in name:
            continue
        Q = np.linalg.qr(X)[0]
        family = make_general(Q, None, terms)
        Y = responses(X, terms, options.responses, SDS)
        nu = float(len(X) - X.shape[1])
        problem = Deviance(family, nu, True)
        start = time.perf_counter()
        reduced = family.reduce(Y)[0]
        optimum = minimise_several(problem, reduced)
        tests(family, optimum, reduced, nu)
        first = time.perf_counter() - start
        times = {
            "first call, s": first,
            "reduce, us": best_time(lambda: family.reduce(Y), 3) / options.responses * 1e6,  # noqa: B023
            "optimum, us": best_time(lambda: minimise_several(problem, reduced), 3) / options.responses * 1e6,  # noqa: B023
            "tests, us": best_time(lambda: tests(family, optimum, reduced, nu), 3) / options.responses * 1e6,  # noqa: B023
            "converged": float(optimum.converged.mean()),
        }
        found[name] = times
        print(name, {key: round(value, 2) for key, value in times.items()}, flush=True)
    if not options.only:
        save("structures_speed", {"responses": options.responses, "structures": found})


@jax.jit
def covariance(family: General, theta: jax.Array, stats: object):  # type: ignore[no-untyped-def]
    phi = phi_from_theta(theta, family.sizes)
    at = family.covariance(phi, stats, jnp.eye(family.core.p))  # type: ignore[arg-type]
    return at.value, at.first, family.fixef(phi, stats), family.moments(phi, stats, reml=True).l1  # type: ignore[arg-type]


def tests(family: General, optimum, stats, nu: float) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Satterthwaite degrees of freedom of all coefficients, by blocks of 512."""
    out = []
    for start in range(0, optimum.theta.shape[1], 512):
        part = slice(start, start + 512)
        theta = optimum.theta[:, part]
        with float64_scope():
            value, first, _, l1 = covariance(family, theta, jax.tree.map(lambda a: np.asarray(a)[..., part], stats))  # noqa: B023
        rows = np.full(theta.shape[1], nu)
        curves = VarianceCurves.make(np.asarray(value), np.asarray(first), np.zeros((0, 0, 0)), np.asarray(l1), rows)
        jacobian = np.moveaxis(theta_jacobian(theta, family.sizes), -1, 0)
        out.append(satterthwaite(curves, observed_inverse(np.moveaxis(optimum.hessian[..., part], -1, 0), jacobian)))
    return np.concatenate(out)


if __name__ == "__main__":
    main()
