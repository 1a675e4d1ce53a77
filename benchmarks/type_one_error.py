"""How often does a test at 5 % reject a true null hypothesis with few subjects?

    python benchmarks/type_one_error.py [intercepts] [slopes] [items]

**intercepts.** 5, 10 and 20 subjects with 20 trials each (one subject in five has 5 only), 10,000 responses for
each number of subjects, ICC 0.3 and 0.05. Two effects that are not there: of a trial's covariate
("within") and of a subject's covariate ("between"), each tested by z, residual, Satterthwaite
and Kenward-Roger degrees of freedom. Writes results/type_one_error.json.

**slopes.** 12 and 20 subjects with 60 trials each, half of them in each of two conditions that do not differ on
average; the effect of the condition varies between subjects with a standard deviation of 0 to 0.5 residual standard
deviations, and subjects' means with 1. Fitted with ``(1 | subject)`` and with ``(1 + cond | subject)``. Writes
results/type_one_error_slopes.json.

**items.** 12 and 20 subjects who each see 20 items, half of them in each condition, another half for every other
subject; the effect of the condition varies between subjects and between items, both with that standard deviation.
Fitted with intercepts alone, with the slope of the subjects, and with both slopes. Writes
results/type_one_error_items.json.

The binomial limits hold the rate of a test of level 5 % in 99 % of such simulations.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import scipy.stats
from common import save

import jaxlmm

M = 10_000
M_ITEMS = 4_000
SLOPE_SDS = (0.0, 0.1, 0.2, 0.3, 0.5)
METHODS = ("normal", "residual", "satterthwaite", "kenward-roger")


def intercepts() -> None:
    """Few subjects, one intercept each."""
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
    save("type_one_error", rows, responses=M, binomial_limits_99=limits(M))


def limits(m: int) -> list[float]:
    """Rates between which 99 % of simulations of m tests lie."""
    low, high = scipy.stats.binom.interval(0.99, m, 0.05)
    return [float(low / m), float(high / m)]


def rates(
    formula: str, data: dict[str, np.ndarray], Y: np.ndarray, methods: tuple[str, ...] = METHODS
) -> dict[str, Any]:
    """Rejections of no effect of the condition, over all responses that have a fit."""
    fit = jaxlmm.lmm(formula, data, Y)
    good = fit.converged
    found: dict[str, Any] = {"model": formula.removeprefix("cond + ")}
    for df in methods:
        found[df] = float(np.mean(fit.with_df(df).pvalue[good, 1] < 0.05))
    return found | {"singular": float(fit.singular[good].mean()), "no fit": int((~good).sum())}


def slopes() -> None:
    """A condition within subjects, whose effect varies between them."""
    rows = []
    for n_subjects in (12, 20):
        for sd in SLOPE_SDS:
            rng = np.random.default_rng([n_subjects, round(100 * sd)])
            subject = np.repeat(np.arange(n_subjects), 60)
            cond = np.tile([-0.5, 0.5], 30 * n_subjects)
            Y = rng.standard_normal((len(subject), M)) + rng.standard_normal((n_subjects, M))[subject]
            Y += sd * cond[:, None] * rng.standard_normal((n_subjects, M))[subject]
            data = {"cond": cond, "subject": subject}
            for random in ("(1 | subject)", "(1 + cond | subject)"):
                rows.append({"subjects": n_subjects, "slope sd": sd, **rates(f"cond + {random}", data, Y)})
    save("type_one_error_slopes", rows, responses=M, trials=60, binomial_limits_99=limits(M))


def items() -> None:
    """The same with items, between which the effect varies too."""
    rows, n_items, m = [], 20, M_ITEMS
    for n_subjects in (12, 20):
        for sd in (0.0, 0.3, 0.5):
            rng = np.random.default_rng([n_subjects, n_items, round(100 * sd)])
            subject, item = (v.ravel() for v in np.indices((n_subjects, n_items)))
            cond = np.where((subject + item) % 2 == 0, 0.5, -0.5)
            Y = rng.standard_normal((len(subject), m))
            for codes, n in ((subject, n_subjects), (item, n_items)):
                Y += rng.standard_normal((n, m))[codes] + sd * cond[:, None] * rng.standard_normal((n, m))[codes]
            data = {"cond": cond, "subject": subject, "item": item}
            for random in (
                "(1 | subject) + (1 | item)",
                "(1 + cond | subject) + (1 | item)",
                "(1 + cond | subject) + (1 + cond | item)",
            ):
                rows.append({"subjects": n_subjects, "slope sd": sd, **rates(f"cond + {random}", data, Y)})
    save("type_one_error_items", rows, responses=m, items=n_items, binomial_limits_99=limits(m))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"intercepts": intercepts, "slopes": slopes, "items": items}
    parser.add_argument("parts", nargs="*", default=list(parts), choices=list(parts))
    for part in parser.parse_args().parts:
        parts[part]()


if __name__ == "__main__":
    main()
