"""Random structures whose responses each have their own missing observations, or weights.

    python benchmarks/missing_structures.py [--responses 2048] [--alone 20] [--profiled 64] [--profiled-alone 3]

Designs of benchmarks/structures.py. Each response misses its own random 5 % of the observations, or has weights of
its own. Per response, ``model.fit(Y)`` of a prepared model with Satterthwaite p-values, compiled before; beside it
complete responses, and the same incomplete ones fitted one by one, each on a design of its own rows (the first
``--alone`` of them). Then profile intervals, in milliseconds per response: of ``--profiled`` of the incomplete
responses, of as many complete ones, and of ``--profiled-alone`` one by one. Writes results/missing_structures.json.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import best_time, save
from structures import designs, responses

import jaxlmm
from jaxlmm.design.random import RandomTerm
from jaxlmm.families.base import Family

# 95 % of the chi-square distribution.
CUT = 3.841458820694124


def one_by_one(X: np.ndarray, terms: list[RandomTerm], Y: np.ndarray) -> None:
    """Fits and p-values of the columns of Y, each on its rows."""
    for y in Y.T:
        rows = ~np.isnan(y)
        assert np.isfinite(jaxlmm.fit(X[rows], y[rows], random=[t.take(rows) for t in terms]).pvalue).all()


def profiles(model: jaxlmm.Model, Y: np.ndarray, own: np.ndarray, alone: int) -> dict[str, float]:
    """Milliseconds that the profile intervals of a response take."""
    out, (complete, incomplete) = {}, (model.fit(data) for data in (Y, own))
    family, responses = model.family, incomplete.responses
    for what, run, m in (
        ("complete", complete.profile, Y.shape[1]),
        ("each its own 5 % missing", incomplete.profile, Y.shape[1]),
        ("missing, one by one", lambda: Family.profile_own(family, responses, np.arange(alone), CUT), alone),
    ):
        run()
        out[f"profile intervals, {what}, ms per response"] = best_time(run, 2) / m * 1e3
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=2048)
    parser.add_argument("--alone", type=int, default=20)
    parser.add_argument("--profiled", type=int, default=64)
    parser.add_argument("--profiled-alone", type=int, default=3)
    args = parser.parse_args()
    rows, m = [], args.responses
    for name, (X, terms) in designs().items():
        Y = responses(X, terms, m, [0.0, 0.2, 0.5, 1.0])
        rng = np.random.default_rng(2)
        own = np.where(rng.random(Y.shape) < 0.05, np.nan, Y)
        weights = rng.gamma(2.0, 0.5, size=Y.shape) + 0.05
        model = jaxlmm.prepare(X, random=terms)
        row: dict[str, object] = {"structure": name}
        for what, data, w in (
            ("complete", Y, None), ("each its own 5 % missing", own, None), ("each its own weights", Y, weights),
        ):  # fmt: skip
            fit = model.fit(data, weights=w)
            assert fit.converged.all() and np.isfinite(fit.pvalue).all()
            seconds = best_time(lambda data=data, w=w, model=model: model.fit(data, weights=w).pvalue, 2)
            row[f"{what}, us per response"] = seconds / m * 1e6
        some = own[:, : args.alone]
        one_by_one(X, terms, some)
        seconds = best_time(lambda X=X, terms=terms, some=some: one_by_one(X, terms, some), 2)
        row["missing, one by one, us per response"] = seconds / args.alone * 1e6
        row |= profiles(model, Y[:, : args.profiled], own[:, : args.profiled], args.profiled_alone)
        rows.append(row)
        print(row)
    save("missing_structures", rows, responses=m)


if __name__ == "__main__":
    main()
