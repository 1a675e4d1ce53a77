"""Which parts of a formula its data cannot estimate, in the formula's own words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import formulaic
import numpy as np
from formulaic.parser.types import Term

from jaxlmm.formula.arithmetic import MATERIALIZER

__all__ = ["refuse_inestimable"]

# The most empty cells that a message names.
SHOWN = 4
# formulaic's splines that span the constant.
SPLINE = re.compile(r"(cr|cs|cc)\((?!.*constraints)")


def refuse_inestimable(
    formula: str, rhs: Any, spec: Any, X: np.ndarray, frame: Any, context: Mapping[str, Any]
) -> None:
    """ValueError for combinations of levels without a row, and for splines that span the intercept.

    What else makes X rank deficient is said where X is checked.
    """
    splines = [factor.expr for term in rhs for factor in term.factors if SPLINE.match(factor.expr)]
    if splines and any(str(term) == "1" for term in rhs):
        raise ValueError(
            f"formula '{formula}' has '{splines[0]}' and an intercept, which the spline spans; write "
            f"{splines[0][:-1]}, constraints='center')."
        )
    categorical = {expr for expr, (kind, _) in spec.encoder_state.items() if kind.value == "categorical"}
    for term in rhs:
        factors = [factor for factor in term.factors if factor.expr in categorical]
        if len(factors) < 2:
            continue
        empty = _empty_cells(factors, frame, context)
        if empty and _rank(X) < X.shape[1]:
            more = f" (and {len(empty) - SHOWN} more)" if len(empty) > SHOWN else ""
            plain = " + ".join(factor.expr for factor in factors)
            raise ValueError(
                f"formula '{formula}': no row has {' and '.join(empty[:SHOWN])}{more}, so {term} cannot be "
                f"estimated; write {plain} without the interaction, drop or merge a level, or make one factor of the "
                "combinations there are, as a column of the data."
            )


def _empty_cells(factors: list[Any], frame: Any, context: Mapping[str, Any]) -> list[str]:
    """The combinations of levels of some factors that no row has, as a[z]:b[v]."""
    cells = formulaic.Formula([Term(factors)]).get_model_matrix(
        frame, context=context, output="pandas", materializer=MATERIALIZER
    )
    return [str(name) for name, column in cells.items() if not np.any(np.asarray(column))]


def _rank(X: np.ndarray) -> int:
    norms = np.linalg.norm(X, axis=0)
    return int(np.linalg.matrix_rank(X / np.where(norms > 0, norms, 1.0)))
