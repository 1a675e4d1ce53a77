"""Models by formula, as in R: ``lmm("y ~ age * Sex + (1 | Subject)", data)``; needs formulaic.

The fixed part is formulaic's: see https://matthewwardrop.github.io/formulaic for its grammar. The
random part is lme4's, ``(1 | group)`` alone so far.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

try:
    import formulaic  # noqa: F401
    import pandas as pd
except ImportError as error:
    raise ImportError('formulas need formulaic and pandas: pip install "jaxlmm[formula]"') from error

from jaxlmm.design.rows import check_rows
from jaxlmm.fit import fit
from jaxlmm.formula.arithmetic import compute_response
from jaxlmm.formula.data import (
    expression_columns,
    find_columns,
    formula_errors,
    no_missing,
    table_rows,
    table_weights,
)
from jaxlmm.formula.design import FormulaDesign, apply_formula, read_formula, restore_formula
from jaxlmm.formula.text import match_columns
from jaxlmm.results.results import Fit
from jaxlmm.sources.table import as_frame, plain_column

# A column alone.
PLAIN = re.compile(r"`[^`]+`")

__all__ = ["FormulaDesign", "lmm", "prepare_formula", "restore_formula"]


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
        ``"y ~ age * Sex + (1 | Subject)"``, read as R reads it. Left of "~": one response, which may
        be computed, ``post - pre`` or ``log(y)``; several as ``cbind(y1, log(y2))``; nothing, and then
        no "~" either, if ``responses`` is given. The random term groups by a column or by
        combinations of two, ``(1 | a:b)``; without one it is ordinary least squares. Columns of text,
        categories or bools are factors, in treatment coding unless ``C(x, contr.sum)`` or the like
        says otherwise (also those of ordered categories), with levels in the order of the
        categories, those of text sorted as R does in a language's locale ("control" before
        "Treatment"). Names that are not Python's are quoted with backticks or ``Q("a name")``.
        Within calls stands Python, with ``^`` as R's power and arithmetic in doubles.
    data : pandas DataFrame, or what makes one
    responses : str, list of str, or array-like (n_obs,) or (n_obs, m), optional
        Columns of ``data``, by name or by pattern, ``"elec_*"``; or the responses themselves.
    weights : str or array-like, (n_obs,), optional
        As in :func:`jaxlmm.fit`, or the name of a column.
    method, df, missing, response_names
        As in :func:`jaxlmm.fit`.
    context : mapping, optional
        Functions and values that the formula uses, beside numpy as ``np``, formulaic's own and some of R's.

    Raises
    ------
    ValueError
        A formula that cannot be read or evaluated; unknown columns; missing values in covariates
        or groups (those in responses are as in :func:`jaxlmm.fit`); and what :func:`jaxlmm.fit`
        raises.
    """
    reserved = [weights] if isinstance(weights, str) else []
    made = prepare_formula(formula, data, responses, context=context, reserved=reserved)
    if made.response is None:
        raise ValueError(f"formula '{formula}' names no response; write 'y ~ ...' or give responses=.")
    found = fit(
        made.X, made.response, random=made.random_terms, method=method, df=df, missing=missing,
        weights=table_weights(weights, data),
        names=made.names, response_names=response_names, terms=made.structure,
    )  # fmt: skip
    return dataclasses.replace(found, source=made)


def prepare_formula(
    formula: str,
    data: Any,
    responses: Any = None,
    *,
    context: Mapping[str, Any] | None = None,
    reserved: Collection[str] = (),
) -> FormulaDesign:
    """All of :func:`lmm` but the fit; parameters and errors as there. ``response`` may be None.

    Patterns in ``responses`` leave out the columns that the formula uses, and those ``reserved``.
    """
    frame, context = as_frame(data), dict(context or {})
    if not len(frame):
        raise ValueError("data has no rows, so there is nothing to fit; look at what selected them.")
    read = read_formula(formula, frame, context)
    if read.responses is not None and responses is not None:
        raise ValueError(f"formula '{formula}' names the response and responses= is given too; leave one out.")
    find_columns(read.group_columns, frame, f"formula '{formula}' groups by")
    for name in read.group_columns:
        no_missing(frame[name], name)
    used = read.used(frame, context, formula)
    check_rows(data=table_rows(data, frame), responses=responses)
    taken = {*used, *read.group_columns, *reserved}
    response = _response(read.responses, responses, frame, context, formula, taken)
    made = apply_formula(formula, read, frame, context)
    labels = frame[list(read.group_columns)] if read.group_columns else None
    return dataclasses.replace(made, labels=labels, response=response)


def _response(
    named: tuple[tuple[str, str], ...] | None,
    responses: Any,
    frame: Any,
    context: Mapping[str, Any],
    formula: str,
    taken: Collection[str],
) -> Any:
    """The responses, one a column; None if neither the formula nor the caller gives any."""
    if named is not None:
        plain = [expression[1:-1] for _, expression in named if PLAIN.fullmatch(expression)]
        find_columns(plain, frame, f"formula '{formula}' uses")
        if len(plain) == len(named):
            return frame[plain].set_axis([name for name, _ in named], axis=1)
        made = {}
        for name, expression in named:
            used = expression_columns(expression, frame, context, formula)
            plain_columns = {column: plain_column(frame[column]) for column in used}
            columns = pd.DataFrame(plain_columns, index=frame.index).reset_index(drop=True)
            with formula_errors(formula):
                try:
                    made[name] = compute_response(expression, columns, context)
                except ValueError as error:
                    raise ValueError(f"the response '{name}' {error}") from error
        return pd.DataFrame(made, index=frame.index)
    if responses is None:
        return None
    listed = isinstance(responses, (list, tuple)) and responses and all(isinstance(v, str) for v in responses)
    if isinstance(responses, str) or listed:
        columns = [str(c) for c in frame.columns]
        at = match_columns(responses, columns, taken)
        return frame.iloc[:, at].set_axis([columns[j] for j in at], axis=1)
    if np.ndim(responses) and len(responses) != len(frame):
        raise ValueError(f"responses has {len(responses)} rows, data has {len(frame)}; they must have the same rows.")
    return responses
