"""Do simultaneous bands of the bootstrap hold a whole time course as often as they say?

    python benchmarks/band_coverage.py [--sets 1000] [--draws 399] [--only TEXT]

Data sets of 64 time points, neighbours correlated 0.9, of 12, 20 and 40 subjects x 20 trials with a condition within
subjects whose effect is a bump of 0.5 residual standard deviations: with random intercepts alone ("intercept") and
with random slopes of sd 0.5 too, which the model has ("slope"). For the wild bootstrap and for cases, how many of the
95 % bands contain the true effect at all 64 times, with the 95 % limits of a binomial proportion (Clopper & Pearson).
Beside it the same of the pointwise 95 % intervals of the fit. Sets come in fifties with draws of their own. Writes
results/band_coverage.json after each row; with --only the rows of other designs stay.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

import numpy as np
import scipy.stats
from common import RESULTS, save

import jaxlmm

TIMES, TRIALS, BATCH = 64, 20, 50


def correlated(rng: np.random.Generator, rows: int, sets: int) -> np.ndarray:
    """Noise (rows, sets * TIMES) whose times are correlated with their neighbours."""
    root = np.linalg.cholesky(0.9 ** np.abs(np.subtract.outer(np.arange(TIMES), np.arange(TIMES))))
    return (rng.standard_normal((rows * sets, TIMES)) @ root.T).reshape(rows, sets * TIMES)


def data(name: str, subjects: int, sets: int, rng: np.random.Generator) -> tuple[jaxlmm.Fit, np.ndarray]:
    """The fit of some sets, and the true effect (TIMES,)."""
    subject, trial = (v.ravel() for v in np.indices((subjects, TRIALS)))
    cond = trial % 2 - 0.5
    effect = 0.5 * np.exp(-0.5 * ((np.arange(TIMES) - 32) / 8) ** 2)
    Y = correlated(rng, len(cond), sets) + 0.7 * correlated(rng, subjects, sets)[subject]
    Y += np.outer(cond, np.tile(effect, sets))
    X, Z = np.column_stack([np.ones(len(cond)), cond]), None
    if name == "slope":
        Y += 0.5 * cond[:, None] * correlated(rng, subjects, sets)[subject]
        Z = X
    term = jaxlmm.random_term(subject, Z, name="subject")
    return jaxlmm.fit(X, Y, random=[term], names=["(Intercept)", "cond"]), effect


def covered(name: str, subjects: int, kind: str, sets: int, draws: int, batch: int) -> tuple[int, int]:
    """How many bands, and how many rows of pointwise intervals, contain the whole effect."""
    fit, effect = data(name, subjects, sets, np.random.default_rng([subjects, batch]))
    boot = fit.bootstrap(draws, kind=kind, seed=batch, progress=False)
    whole, pointwise = 0, 0
    limits = fit.conf_int()[:, 1]
    for k in range(sets):
        cells = slice(k * TIMES, (k + 1) * TIMES)
        parts: dict[str, Any] = {
            f.name: value[:, cells]
            for f in dataclasses.fields(boot)
            if isinstance(value := getattr(boot, f.name), np.ndarray) and value.ndim > 1
        }
        band = dataclasses.replace(boot, fit=fit[cells], **parts).band("cond")
        whole += bool(np.all((band[:, 0] <= effect) & (effect <= band[:, 1])))
        pointwise += bool(np.all((limits[cells, 0] <= effect) & (effect <= limits[cells, 1])))
    return whole, pointwise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=399)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    path, rows = RESULTS / "band_coverage.json", dict[tuple[str, int, str], dict[str, Any]]()
    if options.only and path.exists():
        rows = {(row["design"], row["subjects"], row["kind"]): row for row in json.loads(path.read_text())["rows"]}
    for name in ("intercept", "slope"):
        for kind in ("wild", "cases"):
            for subjects in (12, 20, 40):
                if options.only not in f"{name} {kind} {subjects}":
                    continue
                counts = [
                    covered(name, subjects, kind, BATCH, options.draws, batch)
                    for batch in range(options.sets // BATCH)
                ]
                sets = options.sets // BATCH * BATCH
                row: dict[str, Any] = {
                    "design": name, "subjects": subjects, "kind": kind, "sets": sets, "draws": options.draws,
                }  # fmt: skip
                for what, count in zip(("band", "pointwise"), np.sum(counts, axis=0).tolist(), strict=True):
                    limits = scipy.stats.binomtest(count, sets).proportion_ci(method="exact")
                    row[f"{what} %"] = 100 * count / sets
                    row[f"{what} limits"] = f"{100 * limits.low:.1f} to {100 * limits.high:.1f}"
                rows[name, subjects, kind] = row
                save("band_coverage", list(rows.values()))


if __name__ == "__main__":
    main()
