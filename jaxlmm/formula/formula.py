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

try:
    import formulaic  # noqa: F401
    import pandas as pd
except ImportError as error:
    raise ImportError('formulas need formulaic and pandas: pip install "jaxlmm[formula]"') from error

from jaxlmm.design.rows import RowLabels
from jaxlmm.formula.arithmetic import compute_response
from jaxlmm.formula.data import (
    expression_columns,
    find_columns,
    formula_errors,
    no_missing,
    table_rows,
)
from jaxlmm.formula.design import FormulaDesign, apply_formula, read_formula, restore_formula
from jaxlmm.formula.text import match_columns
from jaxlmm.runtime.arguments import name_list
from jaxlmm.sources.table import as_frame, plain_column

# The most empty cells, and columns, that a message names.
SHOWN = 4
# A column alone.
PLAIN = re.compile(r"`[^`]+`")

__all__ = ["FormulaDesign", "named_responses", "prepare_formula", "read_table", "restore_formula"]


def read_table(data: Any) -> tuple[Any, RowLabels | None]:
    """The table of the variables as a data frame, and the labels of its rows, None if it had none."""
    frame = as_frame(data)
    return frame, table_rows(data, frame)


def prepare_formula(formula: str, data: Any, *, context: Mapping[str, Any] | None = None) -> FormulaDesign:
    """A formula applied to data; parameters and errors as in :func:`jaxlmm.lmm`.

    ``response`` holds the responses that the formula names, None if it names none.
    """
    frame, context = as_frame(data), dict(context or {})
    if not len(frame):
        raise ValueError("data has no rows, so there is nothing to fit; look at what selected them.")
    read = read_formula(formula, frame, context)
    find_columns(read.group_columns, frame, f"formula '{formula}' groups by")
    for name in read.group_columns:
        no_missing(frame[name], name)
    response = None if read.responses is None else _response(read.responses, frame, context, formula)
    made = apply_formula(formula, read, frame, context)
    if made.dropped:
        warnings.warn(_said(made), stacklevel=4)
    labels = frame[list(read.group_columns)] if read.group_columns else None
    return dataclasses.replace(made, labels=labels, response=response)


def _said(made: FormulaDesign) -> str:
    """What is said of columns that were dropped."""
    cells = " and ".join(made.empty[:SHOWN])
    cells += f" (and {len(made.empty) - SHOWN} more)" if len(made.empty) > SHOWN else ""
    columns = ", ".join(map(repr, made.dropped[:SHOWN])) + ", ..." * (len(made.dropped) > SHOWN)
    return (
        f"formula '{made.formula}': no row has {cells}, so {columns} {'is' if len(made.dropped) == 1 else 'are'} "
        "dropped, as lmer does. Which column that is decides what the other coefficients of the interaction mean, "
        "and marginal means that the data do not determine are NaN; for a model of full rank drop or merge a level, "
        "or leave the interaction out."
    )


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
