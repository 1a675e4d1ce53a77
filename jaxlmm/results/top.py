"""The responses with the strongest evidence for one effect, as a table."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlmm.inference.distributions import check_level
from jaxlmm.inference.multiplicity import ADJUSTMENTS, adjust_pvalues, adjustment
from jaxlmm.runtime.arguments import check_integer, shown
from jaxlmm.runtime.extras import extra

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["term_column", "top"]


def term_column(fit: Any, term: Any) -> int:
    """Column of one fixed effect, by its name or position.

    Raises
    ------
    ValueError
        There is none; several belong to what is named, as of a factor.
    """
    names = fit.names
    if isinstance(term, str) and term in names:
        return int(names.index(term))
    if isinstance(term, numbers.Integral) and not isinstance(term, bool) and -len(names) <= int(term) < len(names):
        return int(term) % len(names)
    parts = [name for name in names if isinstance(term, str) and name.startswith(f"{term}[")]
    listed = ", ".join(map(repr, parts or names))
    if parts:
        raise ValueError(f"the factor {term!r} has the effects {listed}; give one, or see fit.anova() for all.")
    raise ValueError(f"there is no term {shown(term)}; the terms are {listed}.")


def top(fit: Any, term: Any, n: int | None, adjust: str, level: float) -> pd.DataFrame:
    """See :meth:`jaxlmm.Fit.top`."""
    pd, j = extra("pandas", "tables"), term_column(fit, term)
    method = adjustment(adjust, ADJUSTMENTS, "adjust")
    check_level(level)
    height = fit.neglog10p[:, j]
    most = fit.n_responses if n is None else check_integer("n", n, 1)
    # By the logarithm, which tells p-values apart that are 0; ties by the size of the statistic; no fit, no place.
    order = np.lexsort((-np.abs(fit.statistic[:, j]), -height))
    order = order[: min(most, int(np.count_nonzero(~np.isnan(height))))]
    low, high = fit.conf_int(level)[order, j].T
    columns = {
        "estimate": fit.coef[order, j],
        "std.error": fit.se[order, j],
        "statistic": fit.statistic[order, j],
        "df": fit.df[order, j],
        "p.value": fit.pvalue[order, j],
        "neglog10.p": height[order],
        "p.adjusted": adjust_pvalues(fit.pvalue[:, j], method)[order],
        "conf.low": low,
        "conf.high": high,
    }
    frame = pd.DataFrame(columns)
    for at, (name, labels) in enumerate(fit.labels.keys.items()):
        frame.insert(at, name, pd.Series(labels).take(order).array)
    return frame
