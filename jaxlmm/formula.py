"""Models by formula, as in R: ``lmm("y ~ age * Sex + (1 | Subject)", data)``; needs formulaic.

The fixed part is formulaic's: see https://matthewwardrop.github.io/formulaic for its grammar. The
random part is lme4's, ``(1 | group)`` alone so far.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

try:
    import formulaic
    import pandas as pd
except ImportError as error:
    raise ImportError('formulas need formulaic and pandas: pip install "jaxlmm[formula]"') from error

from jaxlmm.emmeans import GridVariable
from jaxlmm.fit import check_index, fit
from jaxlmm.formula_data import (
    as_frame,
    evaluation,
    find_columns,
    fit_column,
    formula_errors,
    grid_variable,
    group_labels,
    new_column,
    no_missing,
    term_structure,
    used_columns,
)
from jaxlmm.formula_text import category_column, match_columns, parse_random, split_formula
from jaxlmm.results import Fit
from jaxlmm.terms import TermStructure

__all__ = ["FormulaDesign", "lmm", "parse_random", "prepare_formula"]


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
        Labels; tuples for "a:b".
    group_columns : tuple of str
        The columns of the labels; empty without a random term.
    structure : TermStructure
    spec : formulaic.ModelSpec
        Levels, codings and the state of transforms, as found in the data.
    response : DataFrame, array or None
    variables : tuple of GridVariable
        The columns of the data that X is made of.
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
    context: Mapping[str, Any] = field(repr=False)
    probe: Any = field(repr=False)

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
        columns = {v.name: new_column(frame[v.name], v, self.probe[v.name]) for v in self.variables}
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
                alone = [self._rows(self.probe.iloc[[i]]) for i in (0, -1)]
            except ValueError:
                return False
        return np.allclose(np.concatenate(alone), self.X[[0, -1]], rtol=1e-8, atol=0)


def lmm(
    formula: str,
    data: Any,
    responses: Any = None,
    *,
    method: str = "REML",
    df: str = "satterthwaite",
    weights: Any = None,
    missing: str = "drop",
    response_names: Sequence[str] | None = None,
    context: Mapping[str, Any] | None = None,
) -> Fit:
    """Fit a mixed model, given by a formula, to one or many responses.

    Parameters
    ----------
    formula : str
        ``"y ~ age * Sex + (1 | Subject)"``. Left of "~": one or more responses, ``y1 + y2``,
        ``log(y)``; nothing, and then no "~" either, if ``responses`` is given. The random term
        groups by a column or by combinations of two, ``(1 | a:b)``; without one it is ordinary
        least squares. Columns of text, categories or bools are factors, in treatment coding
        unless ``C(x, contr.sum)`` or the like says otherwise (also those of ordered categories),
        with levels sorted or in the order of the categories. Names that are not Python's are
        quoted with backticks.
    data : pandas DataFrame, or what makes one
    responses : str, list of str, or array-like (n_obs,) or (n_obs, m), optional
        Columns of ``data``, by name or by pattern, ``"elec_*"``; or the responses themselves.
    weights : str or array-like, (n_obs,), optional
        As in :func:`jaxlmm.fit`, or the name of a column.
    method, df, missing, response_names
        As in :func:`jaxlmm.fit`.
    context : mapping, optional
        Functions and values that the formula uses, beside numpy as ``np`` and formulaic's own.

    Raises
    ------
    ValueError
        A formula that cannot be read or evaluated; unknown columns; missing values in covariates
        or groups (those in responses are as in :func:`jaxlmm.fit`); and what :func:`jaxlmm.fit`
        raises.
    """
    made = prepare_formula(formula, data, responses, context=context)
    if made.response is None:
        raise ValueError(f"formula '{formula}' names no response; write 'y ~ ...' or give responses=.")
    if isinstance(weights, str):
        frame = as_frame(data)
        find_columns([weights], frame, "weights names")
        weights = frame[weights]
    found = fit(
        made.X, made.response, made.groups, method=method, df=df, weights=weights, missing=missing,
        names=made.names, response_names=response_names, group_name=made.group_name, terms=made.structure,
    )  # fmt: skip
    return dataclasses.replace(found, source=made)


def prepare_formula(
    formula: str, data: Any, responses: Any = None, *, context: Mapping[str, Any] | None = None
) -> FormulaDesign:
    """All of :func:`lmm` but the fit; parameters and errors as there. ``response`` may be None."""
    fixed, group_columns = split_formula(formula)
    frame, context = as_frame(data), dict(context or {})
    with formula_errors(formula):
        parsed = formulaic.Formula(fixed)
    lhs, rhs = (parsed.lhs, parsed.rhs) if hasattr(parsed, "lhs") else (None, parsed)
    if lhs is not None and responses is not None:
        raise ValueError(f"formula '{formula}' names the response and responses= is given too; leave one out.")
    used, _ = used_columns(rhs, frame, context, formula), used_columns(lhs or (), frame, context, formula)
    find_columns(group_columns, frame, f"formula '{formula}' groups by")
    for name in group_columns:
        no_missing(frame[name], name)
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
    return FormulaDesign(
        formula=formula,
        X=np.asarray(matrix, dtype=np.float64),
        names=tuple(spec.column_names),
        groups=group_labels(frame, group_columns),
        group_columns=group_columns,
        structure=term_structure(spec, made, context),
        spec=spec,
        response=_response(lhs, responses, frame, context, formula),
        variables=tuple(grid_variable(made[name], name in categories) for name in used),
        context=context,
        probe=made.iloc[[0, -1]],
    )


def _response(lhs: Any, responses: Any, frame: Any, context: Mapping[str, Any], formula: str) -> Any:
    """The responses, one a column; None if neither the formula nor the caller gives any."""
    if lhs is not None:
        if all(len(term.factors) == 1 and evaluation(term.factors[0]) == "lookup" for term in lhs):
            return frame[[term.factors[0].expr for term in lhs]]
        with formula_errors(formula):
            made = lhs.get_model_matrix(frame.reset_index(drop=True), context=context, na_action="ignore")
        if any(kind.value == "categorical" for kind, _ in made.model_spec.encoder_state.values()):
            raise ValueError(f"the response of formula '{formula}' is not numeric.")
        return pd.DataFrame(made).set_axis(frame.index)
    if responses is None:
        return None
    listed = isinstance(responses, (list, tuple)) and responses and all(isinstance(v, str) for v in responses)
    if isinstance(responses, str) or listed:
        columns = [str(c) for c in frame.columns]
        at = match_columns(responses, columns)
        return frame.iloc[:, at].set_axis([columns[j] for j in at], axis=1)
    if np.ndim(responses) and len(responses) != len(frame):
        raise ValueError(f"responses has {len(responses)} rows, data has {len(frame)}; they must have the same rows.")
    check_index(data=frame, responses=responses)
    return responses
