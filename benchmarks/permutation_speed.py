"""How long do permutation tests take, with a refit of the mixed model for every permutation?

    python benchmarks/permutation_speed.py [--only TEXT]

    channels   (1 | subject/channel), 186 rows, 139 times, labels permuted within channels, 1,000 draws, clusters
    flips      (1 | subject), 20 subjects x 60 trials, 64 channels x 300 times, 1,000 sign flips, largest statistic
    tfce       the same, threshold-free enhancement over channels and times
    bootstrap  (1 | subject), 20 subjects x 60 trials, 10,000 responses x 1,000 parametric replicates

Seconds of one call after the model was fitted, compiling included, and refits per second. Writes
results/permutation_speed.json.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from common import save

import jaxlmm


def channels() -> tuple[jaxlmm.Fit, dict[str, Any]]:
    rng = np.random.default_rng(0)
    channel = np.repeat(np.arange(93), 2)
    subject = np.sort(np.concatenate([np.arange(18), rng.integers(0, 18, 75)]))[channel]
    cond = np.tile([0.0, 1.0], 93)
    Y = rng.normal(size=(186, 139)) + rng.normal(size=(18, 139))[subject] + rng.normal(size=(93, 139))[channel]
    random = [jaxlmm.random_term(channel, name="subject:channel"), jaxlmm.random_term(subject, name="subject")]
    X = np.column_stack([np.ones(186), cond])
    fit = jaxlmm.fit(
        X, Y, random=random, names=["(Intercept)", "cond"], dims=["time"], coords={"time": np.arange(139)}
    )
    return fit, dict(statistic="cluster")


def trials() -> jaxlmm.Fit:
    rng = np.random.default_rng(1)
    subject, trial = (v.ravel() for v in np.indices((20, 60)))
    cond = trial % 2 - 0.5
    m = 64 * 300
    Y = rng.standard_normal((1200, m)) + rng.standard_normal((20, m))[subject]
    X = np.column_stack([np.ones(1200), cond])
    return jaxlmm.fit(
        X, Y.reshape(1200, 64, 300), subject, names=["(Intercept)", "cond"], dims=["channel", "time"],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    near = np.abs(np.subtract.outer(np.arange(64), np.arange(64))) % 8 == 1  # some three neighbours each
    cases = {
        "channels": channels,
        "flips": lambda: (trials(), dict(scheme="sign-flip")),
        "tfce": lambda: (trials(), dict(scheme="sign-flip", statistic="tfce", adjacency={"channel": near})),
    }
    rows = []
    for name, make in cases.items():
        if options.only not in name:
            continue
        fit, how = make()
        start, cpu = time.perf_counter(), time.process_time()
        found = jaxlmm.permutation_test(fit, "cond", 1000, progress=False, **how)
        seconds, used = time.perf_counter() - start, time.process_time() - cpu
        rows.append({
            "test": name, "scheme": found.scheme.kind, "responses": fit.n_responses, "draws": found.n, "s": seconds,
            "CPU s": used, "refits/s": fit.n_responses * found.n / seconds,
            "us per refit": 1e6 * seconds / (fit.n_responses * found.n),
        })  # fmt: skip
        print(rows[-1], flush=True)
        del fit, found
    if options.only in "bootstrap":
        fit = trials().select(slice(0, 10_000))
        start, cpu = time.perf_counter(), time.process_time()
        found = fit.bootstrap(1000, progress=False)
        seconds, used = time.perf_counter() - start, time.process_time() - cpu
        rows.append({
            "test": "bootstrap", "scheme": found.kind, "responses": fit.n_responses, "draws": found.n, "s": seconds,
            "CPU s": used, "refits/s": fit.n_responses * found.n / seconds,
            "us per refit": 1e6 * seconds / (fit.n_responses * found.n),
        })  # fmt: skip
        print(rows[-1], flush=True)
    if not options.only:
        save("permutation_speed", rows)


if __name__ == "__main__":
    main()
