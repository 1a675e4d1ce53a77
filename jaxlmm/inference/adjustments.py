"""p-values and intervals of contrasts, adjusted for the tests of one response that are one family.

The adjustments are those of R's emmeans. "dunnettx" is its approximation of Dunnett's distribution: of q contrasts,
(q - 1) / q parts Tukey's range of as many means as have q pairs, and 1 / q part Sidak's. Not for the number of
responses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.inference import distributions
from jaxlmm.inference.largest import largest_tail
from jaxlmm.inference.multiplicity import adjust_pvalues, adjustment
from jaxlmm.inference.tukey import range_tail

__all__ = ["ADJUSTMENTS", "FamilyOfTests", "adjusted_halfwidth", "adjusted_pvalues", "suitable"]

ADJUSTMENTS = (
    "tukey", "dunnettx", "mvt", "scheffe", "sidak", "hommel", "hochberg", "holm", "bonferroni", "bh", "by", "none",
)  # fmt: skip
STEPS = 60


@dataclass(frozen=True, eq=False)
class FamilyOfTests:
    """q t tests of m responses that are one family; arrays (m, q).

    ``n_means`` are compared, ``rank`` contrasts are independent; ``correlation`` gives the correlations (m, q, q) of
    those that can be estimated.
    """

    statistic: np.ndarray
    df: np.ndarray
    pvalue: np.ndarray
    n_means: int
    rank: int
    correlation: Callable[[], np.ndarray]

    @property
    def q(self) -> int:
        """Number of tests, those that cannot be made among them, as R counts."""
        return self.statistic.shape[1]


def suitable(adjust: Any, pairs: bool, q: int) -> tuple[str, str]:
    """The adjustment that is made, and a note where it is not the one asked for, as emmeans has it.

    Parameters
    ----------
    adjust : str
    pairs : bool
        The contrasts are all pairwise differences.
    q : int
        Contrasts of one family.

    Raises
    ------
    ValueError
        An unknown adjustment.
    """
    made = adjustment(adjust, ADJUSTMENTS, "adjust")
    if made == "tukey" and not pairs and q > 1:
        return "sidak", "tukey is for one set of pairwise differences; P adjusted by sidak"
    return made if q > 1 or made == "scheffe" else "none", ""


def adjusted_pvalues(adjust: str, tests: FamilyOfTests) -> np.ndarray:
    """Adjusted p-values (m, q) of one family; NaN where a test is not made."""
    p, q = tests.pvalue, tests.q
    with np.errstate(invalid="ignore", divide="ignore"):
        match adjust:
            case "tukey" | "dunnettx" | "mvt" | "scheffe" | "sidak":
                return _tail(adjust, tests)(np.abs(tests.statistic))
            case _:
                # A contrast that the data cannot estimate counts as a test, as in R.
                made = adjust_pvalues(np.where(np.isnan(p), 1.0, p), adjust, axis=1) if q else p
                return np.where(np.isnan(p), np.nan, made)


def adjusted_halfwidth(adjust: str, tests: FamilyOfTests, level: float) -> np.ndarray:
    """What standard errors (m, q) are multiplied by for simultaneous intervals; Bonferroni's for stepwise methods."""
    distributions.check_level(level)
    df, q = tests.df, max(tests.q, 1)
    match adjust:
        case "none":
            return np.broadcast_to(distributions.halfwidth(level, df), df.shape)
        case "sidak":
            return np.broadcast_to(distributions.halfwidth(level ** (1 / q), df), df.shape)
        case "scheffe":
            return np.asarray(np.sqrt(tests.rank * distributions.f_quantile(1 - level, tests.rank, df)))
        case "tukey" | "dunnettx" | "mvt":
            low = np.array(np.broadcast_to(distributions.halfwidth(level, df), df.shape))
            high = np.array(np.broadcast_to(distributions.halfwidth(1 - (1 - level) / q, df), df.shape))
            return _inverse(_tail(adjust, tests), 1 - level, low, high)
        case _:
            return np.broadcast_to(distributions.halfwidth(1 - (1 - level) / q, df), df.shape)


def _tail(adjust: str, tests: FamilyOfTests) -> Callable[[np.ndarray], np.ndarray]:
    """The probability that the largest of the family is beyond c (m, q), for adjustments that have one."""
    df, q = tests.df, tests.q

    def sidak(c: np.ndarray) -> np.ndarray:
        return np.asarray(-np.expm1(q * np.log1p(-distributions.pvalues(c, df))))

    def tukey(c: np.ndarray, means: float) -> np.ndarray:
        # With two means the range is the difference: its test is the t test.
        return distributions.pvalues(c, df) if means == 2 else range_tail(np.sqrt(2) * c, means, df)

    match adjust:
        case "tukey":
            return lambda c: tukey(c, tests.n_means)
        case "dunnettx":
            means = (1 + np.sqrt(1 + 8 * q)) / 2
            return lambda c: (q - 1) / q * tukey(c, means) + sidak(c) / q
        case "scheffe":
            return lambda c: distributions.f_pvalues(c * c / tests.rank, tests.rank, df)
        case "mvt":
            R = tests.correlation()
            return lambda c: largest_tail(c, R, df)
        case _:
            return sidak


def _inverse(tail: Callable[[np.ndarray], np.ndarray], p: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where a tail that falls from ``low`` to ``high`` is p, by the Illinois rule on its logarithm."""
    with np.errstate(invalid="ignore", divide="ignore"):
        f_low, f_high = np.log(tail(low) / p), np.log(tail(high) / p)
        side = np.zeros(low.shape, dtype=int)
        for _ in range(STEPS):
            at = np.where(f_low == f_high, low, (low * f_high - high * f_low) / (f_high - f_low))
            at = np.clip(at, low, high)
            f = np.log(tail(at) / p)
            right = f < 0
            f_low, f_high = (
                np.where(right, np.where(side == 1, f_low / 2, f_low), f),
                np.where(right, f, np.where(side == -1, f_high / 2, f_high)),
            )
            low, high = np.where(right, low, at), np.where(right, at, high)
            side = np.where(right, 1, -1)
            if not np.any((np.abs(f) > 1e-10) & (high - low > 1e-10)):
                break
    return np.asarray(at)


def correlations(covariance: np.ndarray) -> np.ndarray:
    """Correlations (m, q, q) of covariances; those with a variance of 0 count as independent."""
    sd = np.sqrt(np.einsum("mqq->mq", covariance))
    with np.errstate(invalid="ignore", divide="ignore"):
        R = covariance / (sd[:, :, None] * sd[:, None, :])
    return np.asarray(np.where(sd[:, :, None] * sd[:, None, :] > 0, R, np.eye(covariance.shape[1])))
