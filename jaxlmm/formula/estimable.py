"""Which parts of a formula its data cannot estimate: splines are refused, columns of empty cells dropped as in R."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import formulaic
import numpy as np
from formulaic.parser.types import Term

from jaxlmm.design.estimable import dependent_columns
from jaxlmm.design.identifiability import RANK_TOL
from jaxlmm.formula.arithmetic import MATERIALIZER

__all__ = ["empty_cells", "refuse_splines", "without_rows"]

# formulaic's splines that span the constant.
SPLINE = re.compile(r"(cr|cs|cc)\((?!.*constraints)")


def refuse_splines(formula: str, rhs: Any) -> None:
    """ValueError for splines that span the intercept.

    What else makes X rank deficient, but empty cells, is said where X is checked.
    """
    splines = [factor.expr for term in rhs for factor in term.factors if SPLINE.match(factor.expr)]
    if splines and any(str(term) == "1" for term in rhs):
        raise ValueError(
            f"formula '{formula}' has '{splines[0]}' and an intercept, which the spline spans; write "
            f"{splines[0][:-1]}, constraints='center')."
        )


def empty_cells(rhs: Any, spec: Any, X: np.ndarray, frame: Any, context: Mapping[str, Any]) -> dict[str, list[str]]:
    """Combinations of levels that no row has, by the term: ``{"a:b": ["a[z]:b[v]"]}``.

    Empty where X has full rank.
    """
    categorical = {expr for expr, (kind, _) in spec.encoder_state.items() if kind.value == "categorical"}
    found: dict[str, list[str]] = {}
    for term in rhs:
        factors = [factor for factor in term.factors if factor.expr in categorical]
        if len(factors) < 2 or (not found and _rank(X) == X.shape[1]):
            continue
        empty = _empty_cells(factors, frame, context)
        if empty:
            found[str(term)] = empty
    return found


def without_rows(X: np.ndarray, spec: Any, terms: Collection[str]) -> list[int]:
    """Positions of the columns of these terms that follow from columns before them."""
    at: list[int] = []
    start = 0
    for row in spec.structure:
        stop = start + len(row.columns)
        at += range(start, stop) if str(row.term) in terms else ()
        start = stop
    return dependent_columns(X, at, RANK_TOL)


def _empty_cells(factors: list[Any], frame: Any, context: Mapping[str, Any]) -> list[str]:
    """The combinations of levels of some factors that no row has, as a[z]:b[v]."""
    cells = formulaic.Formula([Term(factors)]).get_model_matrix(
        frame, context=context, output="pandas", materializer=MATERIALIZER
    )
    return [str(name) for name, column in cells.items() if not np.any(np.asarray(column))]


def _rank(X: np.ndarray) -> int:
    norms = np.linalg.norm(X, axis=0)
    return int(np.linalg.matrix_rank(X / np.where(norms > 0, norms, 1.0)))
