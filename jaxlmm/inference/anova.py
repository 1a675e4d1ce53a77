"""Type III tables: one joint F test a term, for all responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxlmm.inference.estimates import Estimates
from jaxlmm.inference.hypotheses import f_test
from jaxlmm.inference.tabular import Table, Tabular

__all__ = ["Anova", "anova"]


@dataclass(frozen=True, eq=False, repr=False)
class Anova(Tabular):
    """F tests of t terms for m responses, as lmerTest's ``anova(fit, type = 3)`` or emmeans' ``joint_tests``.

    Which of them where they differ: :meth:`jaxlmm.Fit.anova`.

    Attributes
    ----------
    terms : tuple of str, length t
    df_num : ndarray of int, (t,)
    statistic, df_den, pvalue : ndarray, (m, t)
    df_method : str
    """

    terms: tuple[str, ...]
    df_num: np.ndarray
    statistic: np.ndarray
    df_den: np.ndarray
    pvalue: np.ndarray
    df_method: str

    def _table(self, level: float) -> Table:
        columns = {
            "df_num": self.df_num, "df_den": self.df_den, "statistic": self.statistic, "pvalue": self.pvalue,
        }  # fmt: skip
        title = f"Type III tests, {self.df_method} degrees of freedom"
        return Table(title, {"term": self.terms}, columns, {"statistic": "F", "pvalue": "P>F"})


def anova(est: Estimates, contrasts: Mapping[str, np.ndarray], df_method: str) -> Anova:
    """Test each of ``contrasts``, (q, p) matrices by the name of their term."""
    tests = [f_test(est, L, np.zeros(len(L)), df_method) for L in contrasts.values()]
    m = len(est)

    def column(name: str) -> np.ndarray:
        return np.stack([getattr(test, name) for test in tests], axis=1) if tests else np.empty((m, 0))

    return Anova(
        tuple(contrasts), np.array([test.df_num for test in tests], dtype=int),
        column("statistic"), column("df_den"), column("pvalue"), df_method,
    )  # fmt: skip
