"""Type III tables: one joint F test a term, for all responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxlmm.inference.estimates import Estimates
from jaxlmm.inference.hypotheses import f_test
from jaxlmm.runtime.arguments import check_integer
from jaxlmm.runtime.text import number, summary_layout

__all__ = ["Anova", "anova"]


@dataclass(frozen=True, eq=False)
class Anova:
    """F tests of t terms for m responses, as lmerTest's ``anova(fit, type = 3)`` or emmeans' ``joint_tests``.

    Which of them where they differ: :meth:`jaxlmm.Fit.anova`.

    Attributes
    ----------
    terms : tuple of str, length t
    df_num : ndarray of int, (t,)
    stat, df_den, pvalue : ndarray, (m, t)
    df_method : str
    """

    terms: tuple[str, ...]
    df_num: np.ndarray
    stat: np.ndarray
    df_den: np.ndarray
    pvalue: np.ndarray
    df_method: str

    def text(self, response: int = 0) -> str:
        """The table of one response, given by its position."""
        response = check_integer("response", response, -len(self.stat), len(self.stat) - 1)
        rows = [
            [term, str(self.df_num[k]), *(number(a[response, k]) for a in (self.df_den, self.stat, self.pvalue))]
            for k, term in enumerate(self.terms)
        ]
        title = f"Type III tests, {self.df_method} degrees of freedom"
        return summary_layout(title, [], ["Term", "NumDF", "DenDF", "F", "P>F"], rows)


def anova(est: Estimates, contrasts: Mapping[str, np.ndarray], df_method: str) -> Anova:
    """Test each of ``contrasts``, (q, p) matrices by the name of their term."""
    tests = [f_test(est, L, np.zeros(len(L)), df_method) for L in contrasts.values()]
    m = len(est)

    def column(name: str) -> np.ndarray:
        return np.stack([getattr(test, name) for test in tests], axis=1) if tests else np.empty((m, 0))

    return Anova(
        tuple(contrasts), np.array([test.df_num for test in tests], dtype=int),
        column("stat"), column("df_den"), column("pvalue"), df_method,
    )  # fmt: skip
