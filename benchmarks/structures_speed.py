"""How long do fits of random structures take, from Y to coefficients, variances, t tests and likelihoods?

    python benchmarks/structures_speed.py [--responses 4096] [--only TEXT]

Per response, ``model.fit(Y)`` of a prepared model (cross-products, global optimum by REML, coefficients, variances,
likelihood, status) with Satterthwaite p-values; compiled before. Also the first call of ten responses in a process,
design and compiling included: without a compile cache, and with one that another process has filled. And lme4's
``refit``, as it is set, of 40 of the responses in the same minutes, where R has lme4: machines differ, and so does
one machine from hour to hour. Writes results/structures_speed.json; with --only the rows of other structures stay as
they are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from typing import Any

from common import RESULTS, best_time, save
from lme4 import has_lme4, in_lme4
from structures import designs, responses

import jaxlmm

SDS = [0.0, 0.2, 0.5, 1.0]
REFITTED = 40
REFIT = """
quietly <- function(x) suppressMessages(suppressWarnings(x))
d$y <- Y[, 1]
first <- quietly(lmer(formula, d))
invisible(quietly(refit(first, Y[, 1])))
all <- function() system.time(for (j in seq_len(ncol(Y))) quietly(refit(first, Y[, j])))[["elapsed"]]
results <- min(all(), all(), all()) / ncol(Y)
"""


def first_call(name: str, folder: str) -> float:
    """Seconds that the first fit of this process takes, with p-values."""
    if folder:
        jaxlmm.enable_compile_cache(folder)
    X, terms = designs()[name]
    Y = responses(X, terms, 10, SDS)
    start = time.perf_counter()
    _ = jaxlmm.fit(X, Y, random=terms).pvalue
    return time.perf_counter() - start


def in_a_process(name: str, folder: str) -> float:
    """:func:`first_call` of a process of its own."""
    command = [sys.executable, __file__, "--first", name, folder]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=4096)
    parser.add_argument("--only", default="")
    parser.add_argument("--first", nargs=2, help=argparse.SUPPRESS)  # a structure, and a folder for the compile cache
    options = parser.parse_args()
    if options.first:
        print(first_call(*options.first))
        return
    path = RESULTS / "structures_speed.json"
    rows: dict[str, dict[str, Any]] = {}
    if options.only and path.exists():
        rows = {row["structure"]: row for row in json.loads(path.read_text())["rows"]}
    m, with_lme4 = options.responses, has_lme4()
    for name, (X, terms) in designs().items():
        if options.only not in name:
            continue
        Y = responses(X, terms, m, SDS)
        with tempfile.TemporaryDirectory() as folder:
            first, _, again = (in_a_process(name, where) for where in ("", folder, folder))
        model = jaxlmm.prepare(X, random=terms)
        found = model.fit(Y)
        _ = found.pvalue
        cpu = time.process_time()
        _ = model.fit(Y).pvalue
        cpu = time.process_time() - cpu
        rows[name] = {
            "structure": name,
            "first call of 10, s": first,
            "first call of 10 with a compile cache, s": again,
            "fit, us per response": best_time(lambda: model.fit(Y), 5) / m * 1e6,  # noqa: B023
            "fit and p-values, us per response": best_time(lambda: model.fit(Y).pvalue, 5) / m * 1e6,  # noqa: B023
            "fit and p-values, CPU us per response": cpu / m * 1e6,
            "converged": float(found.converged.mean()),
        }
        if with_lme4:
            refit = float(in_lme4(REFIT, X, terms, Y[:, :REFITTED])[0])
            rows[name]["lme4 refit, us per response"] = refit * 1e6
            rows[name]["lme4 refit / fit"] = refit * 1e6 / rows[name]["fit, us per response"]
        print(rows[name], flush=True)
    save("structures_speed", list(rows.values()), responses=m)


if __name__ == "__main__":
    main()
