"""Tables of type III, II and I: one joint F test a term, for all responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.inference.estimates import Estimates
from jaxlmm.inference.hypotheses import f_test
from jaxlmm.inference.tabular import Table, Tabular
from jaxlmm.runtime.arguments import shown

__all__ = ["Anova", "anova", "table_type"]

NUMERALS = {3: "III", 2: "II", 1: "I"}


@dataclass(frozen=True, eq=False, repr=False)
class Anova(Tabular):
    """F tests of t terms for m responses, as lmerTest's ``anova(fit, type = 3)``, or of type 2 or 1.

    Where type III tests are those of emmeans' ``joint_tests``: :meth:`jaxlmm.Fit.anova`.

    Attributes
    ----------
    terms : tuple of str, length t
    df_num : ndarray of int, (t,)
    statistic, df_den, pvalue : ndarray, (m, t)
    df_method : str
    type : {3, 2, 1}
    """

    terms: tuple[str, ...]
    df_num: np.ndarray
    statistic: np.ndarray
    df_den: np.ndarray
    pvalue: np.ndarray
    df_method: str
    type: int = 3

    def _table(self, level: float) -> Table:
        columns = {
            "df_num": self.df_num, "df_den": self.df_den, "statistic": self.statistic, "pvalue": self.pvalue,
        }  # fmt: skip
        title = f"Type {NUMERALS[self.type]} tests, {self.df_method} degrees of freedom"
        return Table(title, {"term": self.terms}, columns, {"statistic": "F", "pvalue": "P>F"})


def table_type(given: Any) -> int:
    """3, 2 or 1 of what a user writes: 3, "3", "III", "iii"; ValueError for anything else."""
    text = str(given).strip().upper()
    for number, numeral in NUMERALS.items():
        if text in (str(number), numeral):
            return number
    raise ValueError(f"type must be 3, 2 or 1, or 'III', 'II' or 'I', found {shown(given)}.")


def anova(est: Estimates, contrasts: Mapping[str, np.ndarray], df_method: str, type: int = 3) -> Anova:
    """Test each of ``contrasts``, by the name of their term, in a table of this type.

    They are (q, p) matrices, or (m, q, p) of each response's own.
    """
    tests = [f_test(est, L, np.zeros(L.shape[-2]), df_method) for L in contrasts.values()]
    m = len(est)

    def column(name: str) -> np.ndarray:
        return np.stack([getattr(test, name) for test in tests], axis=1) if tests else np.empty((m, 0))

    return Anova(
        tuple(contrasts), np.array([test.df_num for test in tests], dtype=int),
        column("statistic"), column("df_den"), column("pvalue"), df_method, type,
    )  # fmt: skip
