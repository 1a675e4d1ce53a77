"""Formulas as in R, ``"y ~ age * Sex + (1 | Subject)"``, applied to data: design and responses; needs formulaic.

The fixed part is formulaic's: see https://matthewwardrop.github.io/formulaic for its grammar. The
random part is lme4's: any terms, ``(1 + x | group)``, ``(x || group)``, ``(1 | a/b)``.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

try:
    import formulaic  # noqa: F401
    import pandas as pd
except ImportError as error:
    raise ImportError('formulas need formulaic and pandas: pip install "jaxlmm[formula]"') from error

from jaxlmm.design.arrays import numeric
from jaxlmm.design.dropped import DroppedRows, dropped_rows
from jaxlmm.design.rows import RowLabels
from jaxlmm.formula.arithmetic import compute_response
from jaxlmm.formula.data import (
    expression_columns,
    find_columns,
    formula_errors,
    no_missing,
    table_rows,
)
from jaxlmm.formula.design import FormulaDesign, ReadFormula, apply_formula, read_formula, restore_formula
from jaxlmm.formula.suspect import check_columns
from jaxlmm.formula.text import match_columns
from jaxlmm.runtime.arguments import name_list
from jaxlmm.sources.table import as_frame, plain_column

# The most empty cells, and columns, that a message names.
SHOWN = 4
# A column alone.
PLAIN = re.compile(r"`[^`]+`")

__all__ = [
    "FormulaDesign", "incomplete_rows", "named_response", "named_responses", "prepare_formula", "read_table",
    "restore_formula",
]  # fmt: skip


def read_table(data: Any) -> tuple[Any, RowLabels | None]:
    """The table of the variables as a data frame, and the labels of its rows, None if it had none."""
    frame = as_frame(data)
    return frame, table_rows(data, frame)


def prepare_formula(
    formula: str,
    data: Any,
    *,
    context: Mapping[str, Any] | None = None,
    responses: bool = True,
    dropped: DroppedRows | None = None,
) -> FormulaDesign:
    """A formula applied to data; parameters and errors as in :func:`jaxlmm.lmm`.

    ``response`` holds the responses that the formula names, for all rows, None if it names none or they are not
    wanted. What is computed, the responses too, is computed of the rows that are not ``dropped``.
    """
    whole, context = as_frame(data), dict(context or {})
    frame = whole if dropped is None else whole.iloc[dropped.kept]
    if not len(frame):
        raise ValueError("data has no rows, so there is nothing to fit; look at what selected them.")
    read = read_formula(formula, frame, context)
    find_columns(read.group_columns, frame, f"formula '{formula}' groups by")
    covariates, made_factors = read.plain_columns
    check_columns(whole, covariates, [*made_factors, *read.group_columns], 4)
    for name in read.group_columns:
        no_missing(frame[name], name)
    wanted = responses and read.responses is not None
    response = _response(read.responses or (), frame, context, formula) if wanted else None
    if response is not None and dropped is not None:
        response = _at_all_rows(response, whole, dropped)
    made = apply_formula(formula, read, frame, context)
    if made.dropped_columns:
        warnings.warn(_said(made), stacklevel=4)
    labels = frame[list(read.group_columns)] if read.group_columns else None
    return dataclasses.replace(made, labels=labels, response=response)


def _said(made: FormulaDesign) -> str:
    """What is said of columns that were dropped."""
    cells = " and ".join(made.empty[:SHOWN])
    cells += f" (and {len(made.empty) - SHOWN} more)" if len(made.empty) > SHOWN else ""
    lost = made.dropped_columns
    columns = ", ".join(map(repr, lost[:SHOWN])) + ", ..." * (len(lost) > SHOWN)
    return (
        f"formula '{made.formula}': no row has {cells}, so {columns} {'is' if len(lost) == 1 else 'are'} "
        "dropped, as lmer does. Which column that is decides what the other coefficients of the interaction mean, "
        "and marginal means that the data do not determine are NaN; for a model of full rank drop or merge a level, "
        "or leave the interaction out."
    )


def _at_all_rows(response: Any, frame: Any, dropped: DroppedRows) -> Any:
    """Responses that were made of the rows left, with a row for each of the data."""
    columns = {name: dropped.spread(numeric(response[name], f"the response '{name}'")) for name in response.columns}
    return pd.DataFrame(columns, index=frame.index)


def incomplete_rows(
    formula: str, data: Any, weights: Any = None, context: Mapping[str, Any] | None = None
) -> DroppedRows | None:
    """The rows of which a covariate, a group or a weight (n_obs,) is missing; None if there are none."""
    frame, given = as_frame(data), dict(context or {})
    read = read_formula(formula, frame, given)
    find_columns(read.group_columns, frame, f"formula '{formula}' groups by")
    used = dict.fromkeys([*read.used(frame, given, formula), *read.group_columns])
    missing = {name: frame[name].isna().to_numpy() for name in used}
    if weights is not None:
        values = np.asarray(numeric(weights, "weights"), dtype=np.float64)
        missing |= {"weights": np.isnan(values)} if values.shape == (len(frame),) else {}
    return dropped_rows(len(frame), missing) if missing else None


def named_responses(made: FormulaDesign, data: Any, responses: Any, reserved: Collection[str] = ()) -> Any:
    """The columns of ``data`` that names or patterns stand for, as a data frame.

    Patterns leave out the columns that the formula uses, and those ``reserved``.
    """
    frame = as_frame(data)
    columns = [str(c) for c in frame.columns]
    used = [*made.variables, *made.random_variables]
    taken = {*(variable.name for variable in used), *made.group_columns, *reserved}
    at = match_columns(name_list(responses, "responses"), columns, taken)
    return frame.iloc[:, at].set_axis([columns[j] for j in at], axis=1)


def named_response(
    formula: str, read: ReadFormula, frame: Any, context: Mapping[str, Any], name: str | None = None
) -> tuple[np.ndarray, list[str]]:
    """The one response of a long table, (rows,), and the columns that it is made of.

    Raises
    ------
    ValueError
        None is named, or several; what is named holds no numbers.
    """
    if read.responses is None:
        if name is None:
            raise ValueError(
                f"formula '{formula}' names no response; write 'y ~ ...', with the column of the values for y."
            )
        columns = [str(c) for c in frame.columns]
        at = match_columns(name_list(name, "responses"), columns)
        made, own = frame.iloc[:, at], [columns[j] for j in at]
    else:
        if name is not None:
            raise ValueError(f"formula '{formula}' names the response and responses= is given too; leave one out.")
        made = _response(read.responses, frame, context, formula)
        own = []
        for _, expression in read.responses:
            plain = PLAIN.fullmatch(expression)
            own += [expression[1:-1]] if plain else expression_columns(expression, frame, context, formula)
    if made.shape[1] != 1:
        raise ValueError(
            f"by= makes the responses of one column of values, found {made.shape[1]}: {', '.join(made.columns)}; "
            "give one of them."
        )
    return numeric(made.iloc[:, 0], f"the response '{made.columns[0]}'"), own


def _response(named: tuple[tuple[str, str], ...], frame: Any, context: Mapping[str, Any], formula: str) -> Any:
    """The responses that the formula names, one per column."""
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
