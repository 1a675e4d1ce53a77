"""How long do fits of random structures take, from Y to coefficients, variances, t tests and likelihoods?

    python benchmarks/structures_speed.py [--responses 4096] [--only TEXT]

One call of all the work that depends on Y, a response: cross-products, global optimum (REML),
coefficients with their covariance, Satterthwaite degrees of freedom. Compiled before. Writes
results/structures_speed.json.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from common import best_time, save
from structures import designs, responses

from jaxlmm.families.deviance import Deviance
from jaxlmm.families.general.family import General, make_general
from jaxlmm.families.general.fitting import fit_general
from jaxlmm.families.parameters import phi_from_theta, theta_jacobian
from jaxlmm.inference.variance_df import observed_inverse
from jaxlmm.optimize.several import minimise_several

SDS = [0.0, 0.2, 0.5, 1.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=4096)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    rows = []
    for name, (X, terms) in designs().items():
        if options.only not in name:
            continue
        family = make_general(np.linalg.qr(X)[0], None, terms)
        Y = responses(X, terms, options.responses, SDS)
        problem = Deviance(family, float(len(X) - X.shape[1]), True)
        start = time.perf_counter()
        whole(family, Y[:, :10])
        first = time.perf_counter() - start
        whole(family, Y)
        reduced = family.reduce(Y)[0]
        us = 1e6 / options.responses
        rows.append({
            "structure": name,
            "first call of 10, s": first,
            "whole, us": best_time(lambda: whole(family, Y), 3) * us,  # noqa: B023
            "reduce, us": best_time(lambda: family.reduce(Y), 3) * us,  # noqa: B023
            "optimum, us": best_time(lambda: minimise_several(problem, reduced), 3) * us,  # noqa: B023
            "converged": float(fit_general(family, Y).converged.mean()),
        })  # fmt: skip
        print(rows[-1], flush=True)
    if not options.only:
        save("structures_speed", rows, responses=options.responses)


def whole(family: General, Y: np.ndarray) -> np.ndarray:
    """Satterthwaite degrees of freedom of all coefficients, (m, p), and all that they need."""
    fit = fit_general(family, Y)
    phi = phi_from_theta(fit.theta, family.sizes)
    value, first = family.own_curves(phi, np.eye(family.core.p))
    nu = float(family.core.n_obs - family.core.p)
    relative = first / value[:, None] - family.information(phi, reml=True)[0][:, :, None] / nu
    jacobian = np.moveaxis(theta_jacobian(fit.theta, family.sizes), -1, 0)
    inverse = observed_inverse(np.moveaxis(fit.hessian, -1, 0), jacobian)
    return 1 / (1 / nu + np.einsum("msq,mst,mtq->mq", relative, inverse, relative, optimize=True))


if __name__ == "__main__":
    main()
