"""How often does a test at 5 % reject a true null hypothesis with few subjects?

    python benchmarks/type_one_error.py

5, 10 and 20 subjects with 20 trials each (one subject in five has 5 only), 10,000 responses for
each number of subjects, ICC 0.3 and 0.05. Two effects that are not there: of a trial's covariate
("within") and of a subject's covariate ("between"), each tested by z, residual, Satterthwaite
and Kenward-Roger degrees of freedom. The binomial limits hold the rate of a test of level 5 % in
99 % of such simulations. Writes results/type_one_error.json.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats
from common import save

import jaxlmm

M = 10_000
METHODS = ("normal", "residual", "satterthwaite", "kenward-roger")


def main() -> None:
    low, high = scipy.stats.binom.interval(0.99, M, 0.05)
    rows: list[dict[str, Any]] = []
    for icc in (0.3, 0.05):
        for n_subjects in (5, 10, 20):
            rng = np.random.default_rng(n_subjects)
            sizes = np.where(np.arange(n_subjects) % 5 == 4, 5, 20)
            subject = np.repeat(np.arange(n_subjects), sizes)
            n = len(subject)
            between = rng.permutation(np.linspace(-1, 1, n_subjects))[subject]
            X = np.column_stack([np.ones(n), rng.standard_normal(n), between])
            Y = rng.standard_normal((n, M))
            Y += np.sqrt(icc / (1 - icc)) * rng.standard_normal((n_subjects, M))[subject]
            fit = jaxlmm.fit(X, Y, subject)
            assert fit.converged.all()
            for j, effect in ((1, "within"), (2, "between")):
                row: dict[str, Any] = {"subjects": n_subjects, "icc": icc, "effect": effect}
                for df in METHODS:
                    row[df] = float(np.mean(fit.with_df(df).pvalue[:, j] < 0.05))
                row["singular"] = float(fit.singular.mean())
                rows.append(row)
    save("type_one_error", rows, responses=M, binomial_limits_99=[float(low / M), float(high / M)])


if __name__ == "__main__":
    main()
