"""Do permutation tests hold the family-wise error rate over correlated cells?

    python benchmarks/permutation_error.py [--sets 1000] [--first 0] [--draws 199] [--only TEXT]

Null data sets of 64 cells (8 channels x 8 times, neighbours correlated 0.7 and 0.8), for the designs

    within          condition within subjects, random intercepts alone
    slope           condition within subjects, with random slopes of sd 0.5 that the model has
    between         two groups of subjects
    covariate       condition within subjects beside a covariate that varies trial by trial
    crossed         20 items in each subject, condition within both, random intercepts of both

with 12 and 20 subjects. For the scheme that "auto" takes: how many of the sets have any response below 5 % by the
largest statistic, the largest cluster, and threshold-free enhancement; with the 95 % limits of a binomial proportion
(Clopper & Pearson). Beside it, by the largest statistic, the way of subtracting the random effects once: BLUPs of
one fit are taken off Y, and then rows change places freely under least squares. Sets come in tens with draws of
their own. Writes results/permutation_error.json after each design; with --only the rows of other designs stay.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import scipy.stats
from common import RESULTS, save

import jaxlmm
from jaxlmm.resampling.contrast import find_contrast, make_tested
from jaxlmm.resampling.corrections import Clusters, Enhanced, Largest, Orientation
from jaxlmm.resampling.draws import make_draws
from jaxlmm.resampling.maps import make_adjacency
from jaxlmm.resampling.refit import Statistics, prepare_refits
from jaxlmm.resampling.schemes import choose_scheme
from jaxlmm.tabular.labels import Labels

CHANNELS, TIMES, TRIALS = 8, 8, 20
CELLS = CHANNELS * TIMES
BATCH = 10
DESIGNS = ("within", "slope", "between", "covariate", "crossed")
TWO_SIDED = Orientation(1, True)


def correlated(rng: np.random.Generator, rows: int, sets: int) -> np.ndarray:
    """Noise (rows, sets * CELLS) whose cells are correlated with their neighbours."""
    channel = 0.7 ** np.abs(np.subtract.outer(np.arange(CHANNELS), np.arange(CHANNELS)))
    time = 0.8 ** np.abs(np.subtract.outer(np.arange(TIMES), np.arange(TIMES)))
    root = np.kron(np.linalg.cholesky(channel), np.linalg.cholesky(time))
    return (rng.standard_normal((rows * sets, CELLS)) @ root.T).reshape(rows, sets * CELLS)


def design(name: str, subjects: int) -> tuple[np.ndarray, list[Any], str, np.ndarray]:
    """X, random terms, the tested coefficient, and the columns of the random effects that are simulated."""
    s, t = (v.ravel() for v in np.indices((subjects, TRIALS)))
    cond = (t % 2 - 0.5) if name != "crossed" else ((s + t) % 2 - 0.5)
    one = np.ones(len(s))
    if name == "between":
        cond = s % 2 - 0.5
    X = np.column_stack([one, cond])
    if name == "covariate":
        X = np.column_stack([X, np.random.default_rng(0).normal(size=len(s))])
    if name == "slope":
        Z = np.column_stack([one, cond])
        return X, [jaxlmm.random_term(s, Z, name="subject")], "cond", Z
    random = [jaxlmm.random_term(s, name="subject")]
    if name == "crossed":
        random.append(jaxlmm.random_term(t, name="item"))
    return X, random, "cond", one[:, None]


def simulate(name: str, subjects: int, sets: int, rng: np.random.Generator) -> np.ndarray:
    """Null data (n_obs, sets * CELLS)."""
    s, t = (v.ravel() for v in np.indices((subjects, TRIALS)))
    Z = design(name, subjects)[3]
    Y = correlated(rng, len(s), sets)
    Y += 0.7 * correlated(rng, subjects, sets)[s]
    if name == "slope":
        Y += 0.5 * Z[:, 1:] * correlated(rng, subjects, sets)[s]
    if name == "crossed":
        Y += 0.7 * correlated(rng, TRIALS, sets)[t]
    return Y


def rejections(fit: jaxlmm.Fit, sets: int, draws: int, seed: int) -> tuple[dict[str, int], str]:
    """Sets with a corrected p-value below 5 %, by each statistic, and the scheme."""
    tested = make_tested(fit.design, *find_contrast(fit.design, "cond"))
    scheme = choose_scheme(tested, "auto", None, signed=False)
    refits = prepare_refits(tested, scheme, fit.method)
    made = make_draws(scheme, tested, draws, seed, signed=False)
    where = np.arange(fit.n_responses)
    values = np.concatenate([refits.statistics(fit.Y, at, made).values for at in refits.pieces(where)], axis=1)
    adjacency = make_adjacency(Labels(("channel", "time"), (CHANNELS, TIMES)), None)
    cut = np.full(CELLS, scipy.stats.t.isf(0.025, np.nanmedian(fit.df[:, list(fit.names).index("cond")])))
    scores: dict[str, Any] = {
        "max": Largest(False),
        "cluster": Clusters(adjacency, cut, False, (1, -1)),
        "tfce": Enhanced(adjacency, 0.5, 2.0, 0.0, None, (1, -1)),
    }
    observed = fit.statistic[:, list(fit.names).index("cond")]
    counts = dict.fromkeys(scores, 0)
    for k in range(sets):
        cells = slice(k * CELLS, (k + 1) * CELLS)
        for name, score in scores.items():
            collected = score.collector(made.n, CELLS)
            none = np.zeros(CELLS, dtype=int)
            collected.add(np.arange(CELLS), Statistics(np.arange(CELLS), values[:, cells], none, none), TWO_SIDED)
            found = score.result(observed[cells], collected, TWO_SIDED, 0 if made.exhaustive else 1)
            counts[name] += bool(np.nanmin(found["pvalue"]) <= 0.05)
    return counts, scheme.kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first set: others are other data")
    parser.add_argument("--draws", type=int, default=199)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    path, rows = RESULTS / "permutation_error.json", dict[tuple[str, int], dict[str, Any]]()
    if options.only and path.exists():
        rows = {(row["design"], row["subjects"]): row for row in json.loads(path.read_text())["rows"]}
    for name in DESIGNS:
        for subjects in (12, 20):
            if options.only not in f"{name} {subjects}":
                continue
            X, random, _, _ = design(name, subjects)
            names = ["(Intercept)", "cond", "covariate"][: X.shape[1]]
            total: dict[str, int] = {}
            kind = ""
            for batch in range(options.first // BATCH, (options.first + options.sets) // BATCH):
                rng = np.random.default_rng([subjects, batch])
                Y = simulate(name, subjects, BATCH, rng)
                fit = jaxlmm.fit(X, Y, random=random, names=names)
                counts, kind = rejections(fit, BATCH, options.draws, batch)
                effects = fit.fitted() - fit.fitted(random=False)
                once = jaxlmm.fit(X, Y - effects, groups=None, names=names)
                counts["BLUPs subtracted once, max"] = rejections(once, BATCH, options.draws, batch)[0]["max"]
                total = {key: total.get(key, 0) + count for key, count in counts.items()}
            sets = (options.first + options.sets) // BATCH * BATCH - options.first // BATCH * BATCH
            row: dict[str, Any] = {"design": name, "subjects": subjects, "scheme": kind, "sets": sets}
            row["draws"] = options.draws
            for key, count in total.items():
                limits = scipy.stats.binomtest(count, sets).proportion_ci(method="exact")
                row[f"{key} %"] = 100 * count / sets
                row[f"{key} limits"] = f"{100 * limits.low:.1f} to {100 * limits.high:.1f}"
            rows[name, subjects] = row
            save("permutation_error", list(rows.values()))


if __name__ == "__main__":
    main()
