"""How long do fits of random structures take, from Y to coefficients, variances, t tests and likelihoods?

    python benchmarks/structures_speed.py [--responses 4096] [--only TEXT]

Per response, ``model.fit(Y)`` of a prepared model (cross-products, global optimum by REML, coefficients, variances,
likelihood, status) with Satterthwaite p-values; compiled before. Also the first call of ten responses, design and
compiling included, with an empty compile cache. Writes results/structures_speed.json; with --only the rows of other
structures stay as they are.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from common import RESULTS, best_time, save
from structures import designs, responses

import jaxlmm

SDS = [0.0, 0.2, 0.5, 1.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=4096)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    path = RESULTS / "structures_speed.json"
    rows: dict[str, dict[str, Any]] = {}
    if options.only and path.exists():
        rows = {row["structure"]: row for row in json.loads(path.read_text())["rows"]}
    m = options.responses
    for name, (X, terms) in designs().items():
        if options.only not in name:
            continue
        Y = responses(X, terms, m, SDS)
        start = time.perf_counter()
        _ = jaxlmm.fit(X, Y[:, :10], random=terms).pvalue
        first = time.perf_counter() - start
        model = jaxlmm.prepare(X, random=terms)
        found = model.fit(Y)
        cpu = time.process_time()
        _ = model.fit(Y).pvalue
        cpu = time.process_time() - cpu
        rows[name] = {
            "structure": name,
            "first call of 10, s": first,
            "fit, us per response": best_time(lambda: model.fit(Y), 5) / m * 1e6,  # noqa: B023
            "fit and p-values, us per response": best_time(lambda: model.fit(Y).pvalue, 5) / m * 1e6,  # noqa: B023
            "fit and p-values, CPU us per response": cpu / m * 1e6,
            "converged": float(found.converged.mean()),
        }
        print(rows[name], flush=True)
    save("structures_speed", list(rows.values()), responses=m)


if __name__ == "__main__":
    main()
