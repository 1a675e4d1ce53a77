"""What inference costs, in fits: n = 1000, p = 4, 40 unequal groups, 100,000 responses.

    python benchmarks/inference_speed.py [--responses 100000]

Every row is the time of one request on a fit that is there already, p-values included, over the
time of the fit itself, in the same run. Profile intervals are of all parameters, on a tenth of the
responses. Writes results/inference_speed.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from common import best_time, save, simulate

import jaxlmm


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--responses", type=int, default=100_000)
    m = parser.parse_args().responses
    X, Y, groups = simulate(1000, 4, 40, m)
    fit = jaxlmm.fit(X, Y, groups)
    seconds = best_time(lambda: jaxlmm.fit(X, Y, groups))
    rows: list[dict[str, Any]] = [{"what": "fit", "us per response": seconds / m * 1e6, "fits": 1.0}]

    def row(what: str, run: Callable[[], Any], count: int = m) -> None:
        run()
        each = best_time(run, 3) / count
        rows.append({"what": what, "us per response": each * 1e6, "fits": each / (seconds / m)})

    L = np.eye(4)[1:]
    for df in ("normal", "residual", "satterthwaite", "kenward-roger"):
        row(f"se, df and p-values, {df}", lambda df=df: fit.with_df(df).pvalue)
    for df in ("satterthwaite", "kenward-roger"):
        row(f"F test of 3 contrasts, {df}", lambda df=df: fit.with_df(df).ftest(L).pvalue)
    row("95 % intervals, satterthwaite", lambda: fit.conf_int())
    row("standard errors of variances and ICC", fit.variance_se)
    part = fit.select(slice(m // 10))
    row("profile intervals of 6 parameters", part.profile, m // 10)
    row("exact RLRT, 10,000 draws, and the null model", lambda: jaxlmm.rlrt(fit))
    save("inference_speed", rows, responses=m)


if __name__ == "__main__":
    main()
