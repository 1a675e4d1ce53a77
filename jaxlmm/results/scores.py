"""What a dataset of results may have beside p-values: adjusted ones, and scores that hold for any p-value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlmm.inference.multiplicity import ADJUSTMENTS, adjust_pvalues, adjustment
from jaxlmm.tabular.dataset import variable

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["with_scores"]


def with_scores(made: xr.Dataset, fit: Any, adjust: str | None, scores: bool) -> xr.Dataset:
    """The dataset with p-values adjusted over all responses of each term, and with scores that do not underflow."""
    dims = ("term", *fit.labels.dims)

    def put(name: str, values: np.ndarray, text: str) -> None:
        array = np.array(values.T, order="C").reshape(-1, *fit.labels.shape)
        made[name] = variable(array, text, 0, None, *dims)

    if adjust is not None:
        method = adjustment(adjust, ADJUSTMENTS, "adjust")
        put(
            "pvalue_adjusted",
            adjust_pvalues(fit.pvalue, method, axis=0),
            f"p-value adjusted over responses ({method})",
        )
    if scores:
        put("zscore", fit.zscore, "normal deviate with the p-value of coef = 0")
        put("neglog10p", fit.neglog10p, "-log10 of the p-value of coef = 0")
    return made
