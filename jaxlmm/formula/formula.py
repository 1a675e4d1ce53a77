"""Models by formula, as in R: ``lmm("y ~ age * Sex + (1 | Subject)", data)``; needs formulaic.

The fixed part is formulaic's: see https://matthewwardrop.github.io/formulaic for its grammar. The
random part is lme4's, ``(1 | group)`` alone so far.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

try:
    import formulaic  # noqa: F401
    import pandas as pd
except ImportError as error:
    raise ImportError('formulas need formulaic and pandas: pip install "jaxlmm[formula]"') from error

from jaxlmm.fit import check_index, fit
from jaxlmm.formula.data import (
    as_frame,
    evaluation,
    find_columns,
    formula_errors,
    group_labels,
    no_missing,
    used_columns,
)
from jaxlmm.formula.design import FormulaDesign, apply_fixed, parse_sides, restore_formula
from jaxlmm.formula.text import match_columns, parse_random, split_formula
from jaxlmm.results.results import Fit

__all__ = ["FormulaDesign", "lmm", "parse_random", "prepare_formula", "restore_formula"]


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
    elif weights is not None:
        check_index(data=as_frame(data), weights=weights)
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
    if not len(frame):
        raise ValueError("data has no rows, so there is nothing to fit; look at what selected them.")
    lhs, rhs = parse_sides(formula, fixed)
    if lhs is not None and responses is not None:
        raise ValueError(f"formula '{formula}' names the response and responses= is given too; leave one out.")
    used, _ = used_columns(rhs, frame, context, formula), used_columns(lhs or (), frame, context, formula)
    find_columns(group_columns, frame, f"formula '{formula}' groups by")
    for name in group_columns:
        no_missing(frame[name], name)
    made = apply_fixed(formula, rhs, used, frame, context)
    response = _response(lhs, responses, frame, context, formula)
    groups = group_labels(frame, group_columns)
    return dataclasses.replace(made, groups=groups, group_columns=group_columns, response=response)


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
