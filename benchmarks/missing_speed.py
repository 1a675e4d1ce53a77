"""What missing observations, and weights of each response's own, cost: 10,000 responses.

    python benchmarks/missing_speed.py

n = 1000, p = 4, 40 unequal groups. Each response with its own random 5 % missing; 20 patterns shared by 500 responses
each; weights that all share, and weights of each response's own. Times of later calls, from numpy arrays to the
p-values, over the complete data's in the same run, in which they are to be compared; those of weights of each
response's own also over those of shared weights. Then profile intervals of incomplete responses. Writes
results/missing_speed.json.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import best_time, save, simulate

import jaxlmm

M = 10_000
PROFILED = 1024


def main() -> None:
    X, Y, groups = simulate(1000, 4, 40, M)
    rng = np.random.default_rng(1)
    own = np.where(rng.random(Y.shape) < 0.05, np.nan, Y)
    patterns = rng.random((1000, 20)) < 0.05
    shared = np.where(np.repeat(patterns, M // 20, axis=1), np.nan, Y)
    weights = rng.gamma(2.0, 0.5, size=Y.shape) + 0.05
    rows: list[dict[str, Any]] = []
    for what, data, w in (
        ("complete", Y, None),
        ("each its own 5 % missing", own, None),
        ("20 shared patterns", shared, None),
        ("shared weights", Y, weights[:, 0]),
        ("each its own weights", Y, weights),
    ):
        fit = jaxlmm.fit(X, data, groups, weights=w)
        assert fit.converged.all()
        seconds = best_time(lambda data=data, w=w: jaxlmm.fit(X, data, groups, weights=w), 5)
        with_p = best_time(lambda data=data, w=w: jaxlmm.fit(X, data, groups, weights=w).pvalue, 5)
        row = {"what": what, "us per response": seconds / M * 1e6, "with p-values": with_p / M * 1e6}
        row["times"] = row["us per response"] / (rows[0] if rows else row)["us per response"]
        rows.append(row)
    rows[-1]["times shared weights"] = rows[-1]["us per response"] / rows[-2]["us per response"]
    some = jaxlmm.fit(X, own[:, :PROFILED], groups)
    some.profile()  # compiled here
    seconds = best_time(some.profile, 3)
    rows.append({"what": "profile intervals, each its own 5 % missing", "us per response": seconds / PROFILED * 1e6})
    save("missing_speed", rows, responses=M)


if __name__ == "__main__":
    main()
