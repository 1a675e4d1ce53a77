"""What missing observations cost: 10,000 responses, each with its own random 5 % missing.

    python benchmarks/missing_speed.py

n = 1000, p = 4, 40 unequal groups; and 20 patterns shared by 500 responses each. Times of later
calls, from numpy arrays to the p-values, over the complete data's in the same run. Writes
results/missing_speed.json.
"""

from __future__ import annotations

import numpy as np
from common import best_time, save, simulate

import jaxlmm

M = 10_000


def main() -> None:
    X, Y, groups = simulate(1000, 4, 40, M)
    rng = np.random.default_rng(1)
    own = np.where(rng.random(Y.shape) < 0.05, np.nan, Y)
    patterns = rng.random((1000, 20)) < 0.05
    shared = np.where(np.repeat(patterns, M // 20, axis=1), np.nan, Y)
    rows = []
    complete = 0.0
    for what, data in (("complete", Y), ("each its own 5 % missing", own), ("20 shared patterns", shared)):
        fit = jaxlmm.fit(X, data, groups)
        assert fit.converged.all()
        seconds = best_time(lambda data=data: jaxlmm.fit(X, data, groups), 3)
        with_p = best_time(lambda data=data: jaxlmm.fit(X, data, groups).pvalue, 3)
        complete = complete or seconds
        rows.append(
            {
                "what": what,
                "us a response": seconds / M * 1e6,
                "with p-values": with_p / M * 1e6,
                "times": seconds / complete,
            }
        )
    save("missing_speed", rows, responses=M)


if __name__ == "__main__":
    main()
