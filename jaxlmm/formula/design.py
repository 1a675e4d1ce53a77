"""The fixed part of a formula, applied to data, and again to new data."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import formulaic
import numpy as np
import pandas as pd

from jaxlmm.design.terms import TermStructure
from jaxlmm.formula.bounds import refuse_large, refuse_many_terms
from jaxlmm.formula.data import (
    as_frame,
    evaluation,
    find_columns,
    fit_column,
    formula_errors,
    grid_variable,
    group_labels,
    new_column,
    term_structure,
    used_columns,
)
from jaxlmm.formula.guard import refuse_unknown
from jaxlmm.formula.text import category_column, expression_names, split_formula
from jaxlmm.inference.emmeans import GridVariable

__all__ = ["FormulaDesign", "apply_fixed", "parse_sides", "restore_formula"]


@dataclass(frozen=True, eq=False)
class FormulaDesign:
    """A formula applied to data, and what is needed to apply it to new data in the same way.

    Attributes
    ----------
    formula : str
        As given.
    X : ndarray, (n_obs, p)
    names : tuple of str, length p
        formulaic's: "Intercept", "Sex[T.Male]", "age:Sex[T.Male]", ...
    groups : pandas Series or None
        Labels; tuples for "a:b". None without a random term, and in a fit from a file.
    group_columns : tuple of str
        The columns of the labels; empty without a random term.
    structure : TermStructure
    spec : formulaic.ModelSpec
        Levels, codings and the state of transforms, as found in the data.
    response : DataFrame, array or None
        None in a fit from a file.
    variables : tuple of GridVariable
        The columns of the data that X is made of.
    frame : DataFrame, n_obs rows
        These columns, a copy: all that is needed to make X again.
    context : mapping
        As given.
    context_names : tuple of str
        What of it X is made with.
    """

    formula: str
    X: np.ndarray
    names: tuple[str, ...]
    groups: Any
    group_columns: tuple[str, ...]
    structure: TermStructure
    spec: Any
    response: Any
    variables: tuple[GridVariable, ...]
    frame: Any = field(repr=False)
    context: Mapping[str, Any] = field(repr=False)
    context_names: tuple[str, ...] = ()

    @property
    def group_name(self) -> str | None:
        """Name of the grouping, "a:b" for the combinations of two columns."""
        return ":".join(self.group_columns) or None

    def rows(self, data: Any) -> np.ndarray:
        """Rows of X for new data, (n, p): same levels, codings and transforms.

        Parameters
        ----------
        data : DataFrame or mapping of str to sequence
            Holds all ``variables``; other columns are not looked at.

        Raises
        ------
        ValueError
            Missing columns or values, unknown levels, and formulas that compute with whole
            columns, such as ``x - x.mean()``, which say nothing about new rows.
        """
        if not self._by_row:
            raise ValueError(
                f"formula '{self.formula}' computes with whole columns of the data, so it cannot be applied to new "
                "rows; use center(x), scale(x) and the like, or compute the column beforehand."
            )
        frame = as_frame(data)
        find_columns([v.name for v in self.variables], frame, "the model needs")
        columns = {v.name: new_column(frame[v.name], v, self.frame[v.name]) for v in self.variables}
        return self._rows(pd.DataFrame(columns, index=frame.index))

    def group_labels(self, data: Any) -> Any:
        """Labels of new data, to be matched with those of the fit."""
        frame = as_frame(data)
        find_columns(self.group_columns, frame, "the random term needs")
        return group_labels(frame, self.group_columns)

    def _rows(self, frame: Any) -> np.ndarray:
        with formula_errors(self.formula):
            matrix = self.spec.get_model_matrix(frame.reset_index(drop=True), context=self.context)
        return np.asarray(matrix, dtype=np.float64)

    @functools.cached_property
    def _by_row(self) -> bool:
        """Whether a row of X depends on that row of the data only, tried on the first and the last."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                alone = [self._rows(self.frame.iloc[[i]]) for i in (0, -1)]
            except ValueError:
                return False
        return np.allclose(np.concatenate(alone), self.X[[0, -1]], rtol=1e-8, atol=0)


def restore_formula(
    formula: str,
    data: Any,
    context: Mapping[str, Any] | None = None,
    *,
    given: Collection[str] = (),
    trust: bool = False,
) -> FormulaDesign:
    """The fixed part of a formula that stood in a file, applied to data; no response, no groups.

    Parameters
    ----------
    formula, data, context
        As in :func:`lmm`; of the data only the columns of the fixed part are looked at.
    given : collection of str
        The names in ``context`` that did not come from the file.
    trust : bool
        Whether the formula is evaluated whatever it says. Else it may use arithmetic, formulaic's
        own functions, those of numpy that compute element by element or sum up, the like methods
        of columns, and what is ``given``.

    Raises
    ------
    ValueError
        As :func:`lmm`; a formula that does something else, which is not evaluated.
    """
    fixed, group_columns = split_formula(formula)
    frame, context = as_frame(data), dict(context or {})
    if not trust:
        with formula_errors(formula):
            refuse_many_terms(fixed, formula)
    _, rhs = parse_sides(formula, fixed)
    if not trust:
        known = {str(name) for name in frame.columns} | set(context)
        text = {str(name) for name in frame.columns if not pd.api.types.is_any_real_numeric_dtype(frame[name].dtype)}
        text -= {str(name) for name in frame.columns if frame[name].dtype.kind in "mMb"}
        text |= {
            k for k, v in context.items() if k not in given and not isinstance(v, (float, np.ndarray, np.generic))
        }
        for expression in _expressions(rhs):
            refuse_unknown(expression, formula, known, given)
            refuse_large(expression, formula, text)
    made = apply_fixed(formula, rhs, used_columns(rhs, frame, context, formula), frame, context)
    return dataclasses.replace(made, group_columns=group_columns)


def parse_sides(formula: str, fixed: str) -> tuple[Any, Any]:
    """Left and right side of the formula without its random term, as formulaic reads them; None without a left."""
    with formula_errors(formula):
        parsed = formulaic.Formula(fixed)
    return (parsed.lhs, parsed.rhs) if hasattr(parsed, "lhs") else (None, parsed)


def _expressions(part: Any) -> list[str]:
    """The Python expressions in a side of a formula."""
    return [factor.expr for term in part for factor in term.factors if evaluation(factor) == "python"]


def apply_fixed(formula: str, rhs: Any, used: list[str], frame: Any, context: Mapping[str, Any]) -> FormulaDesign:
    """All that follows from the right side and the columns that it uses."""
    plain = {factor.expr for term in rhs for factor in term.factors if evaluation(factor) == "lookup"}
    columns = {name: fit_column(frame[name], name, name in plain) for name in used}
    made = pd.DataFrame(columns, index=frame.index).reset_index(drop=True)
    with formula_errors(formula):
        matrix = rhs.get_model_matrix(made, context=context, na_action="raise", output="numpy")
    spec = matrix.model_spec
    for expr, (_, state) in spec.encoder_state.items():
        levels = getattr(state.get("contrasts"), "levels", (0, 1))
        if len(levels) < 2:
            raise ValueError(f"factor '{expr}' has the single level {levels[0]!r}; a factor needs at least 2.")
    categories = {category_column(expr) for expr in spec.encoder_state}
    named = set[str]().union(*(set().union(*expression_names(e)) for e in _expressions(rhs)))
    return FormulaDesign(
        formula=formula,
        X=np.asarray(matrix, dtype=np.float64),
        names=tuple(spec.column_names),
        groups=None,
        group_columns=(),
        structure=term_structure(spec, made, context),
        spec=spec,
        response=None,
        variables=tuple(grid_variable(made[name], name in categories) for name in used),
        frame=made,
        context=context,
        context_names=tuple(sorted((named & set(context)) - set(used))),
    )
