"""Columns of data frames as a formula uses them, at the fit and for new data; formulaic's terms as ours."""

from __future__ import annotations

import builtins
import contextlib
import difflib
import functools
import numbers as numbers_of
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import formulaic
import numpy as np
import pandas as pd
from formulaic.errors import DataMismatchWarning
from formulaic.parser.types import Term as ParsedTerm

from jaxlmm.design.rows import RowLabels, check_rows, row_labels
from jaxlmm.design.terms import Factor, Part, Term, TermStructure
from jaxlmm.formula.arithmetic import MATERIALIZER
from jaxlmm.formula.functions import FUNCTIONS
from jaxlmm.formula.text import expression_names, near_misses, one_line
from jaxlmm.inference.grid import GridVariable
from jaxlmm.sources.levels import in_level_order
from jaxlmm.sources.table import plain_column

__all__ = [
    "column_values",
    "evaluation",
    "expression_columns",
    "find_columns",
    "fit_column",
    "formula_errors",
    "grid_variable",
    "group_labels",
    "new_column",
    "no_missing",
    "table_rows",
    "table_weights",
    "term_structure",
    "used_columns",
]


def find_columns(names: Iterable[str], frame: Any, what: str) -> None:
    """ValueError for names that are not those of exactly one column; ``what`` begins the message."""
    columns = list(frame.columns)
    for name in names:
        if name not in columns:
            raise ValueError(f"{what} {name!r}, which is no column of the data; {_instead(name, frame)}")
        if columns.count(name) > 1:
            raise ValueError(f"{what} {name!r}, which is the name of {columns.count(name)} columns; rename them.")


def _instead(name: str, frame: Any) -> str:
    """What to do about a name that is no column."""
    if name in frame.index.names:
        return "it is in the index: give data.reset_index()"
    return near_misses(name, frame.columns)


def no_missing(column: Any, name: str, do: str = "drop these rows from the data, or say na='drop'") -> None:
    """ValueError if values are missing, that says what to do."""
    rows = np.flatnonzero(column.isna().to_numpy())
    if len(rows):
        raise ValueError(
            f"column '{name}' has {len(rows)} missing value{'s' * (len(rows) > 1)}, the first in row {rows[0]}; {do}."
        )


def fit_column(column: Any, name: str, factor: bool) -> Any:
    """A column as formulaic is to see it: :func:`jaxlmm.sources.table.plain_column`, and what its use asks for.

    Parameters
    ----------
    column : Series
    name : str
    factor : bool
        The formula uses it by its name alone, so bools make it a factor.

    Raises
    ------
    ValueError
        Missing values; times, intervals or complex numbers, used as they are; a mixture of types.
    """
    no_missing(column, name)
    column = plain_column(column)
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.remove_unused_categories()
    if column.dtype == object and not all(isinstance(v, str) for v in column):
        kinds = sorted({type(v).__name__ for v in column})
        text = [v for v in column if isinstance(v, str)]
        todo = "; make it numbers, text or categories"
        if text and all(isinstance(v, (str, numbers_of.Number)) for v in column):
            todo = f", such as {text[0]!r}; pandas.to_numeric(data['{name}'], errors='coerce') makes these missing"
        raise ValueError(f"column '{name}' holds {' and '.join(kinds)} objects{todo}.")
    other = isinstance(column.dtype, pd.api.extensions.ExtensionDtype)  # periods, intervals
    if factor and (other or column.dtype.kind in "mMc"):
        raise ValueError(f"column '{name}' holds {column.dtype}; make numbers or text of it.")
    return column.astype("category") if factor and column.dtype == bool else column


def new_column(column: Any, variable: GridVariable, fitted: Any) -> Any:
    """A column of new data as :func:`fit_column` made the one of the fit, ``fitted``.

    Raises
    ------
    ValueError
        Missing values, levels that the fit had not, text for a covariate.
    """
    no_missing(column, variable.name, "give values for them")
    column = plain_column(column)
    if variable.factor:
        values = np.asarray(column, dtype=object)
        known = {level: level for level in variable.levels}  # True for 1
        for row, value in enumerate(values):
            if value not in known:
                levels = ", ".join(map(repr, variable.levels[:8])) + (", ..." if len(variable.levels) > 8 else "")
                raise ValueError(
                    f"column '{variable.name}' has the level {value!r} in row {row}, unknown to the fit, whose "
                    f"levels are {levels}."
                )
        if isinstance(fitted.dtype, pd.CategoricalDtype):
            made = pd.Categorical([known[v] for v in values], categories=fitted.cat.categories)
            return pd.Series(made, column.index)
        return column
    if column.dtype.kind != fitted.dtype.kind and not {column.dtype.kind, fitted.dtype.kind} <= set("biuf"):
        raise ValueError(f"column '{variable.name}' holds {column.dtype}, in the data of the fit {fitted.dtype}.")
    return column


def grid_variable(column: Any, factor: bool) -> GridVariable:
    """What the reference grid has of a column made by :func:`fit_column`.

    ``factor`` says that the formula makes a factor of a column of numbers.
    """
    name = str(column.name)
    if isinstance(column.dtype, pd.CategoricalDtype):
        return GridVariable(name, tuple(column.cat.categories.tolist()), True)
    numeric = pd.api.types.is_numeric_dtype(column.dtype) and column.dtype != bool
    if numeric and not factor:
        values = np.unique(column.to_numpy())
        first = float(values[0])  # the mean of differences keeps the digits of a column far from zero
        kept = tuple(values.tolist()) if len(values) <= 2 else (first + float((column.astype(float) - first).mean()),)
        return GridVariable(name, kept, False)
    if column.dtype.kind in "mM":
        return GridVariable(name, (column.mean(),), False)
    return GridVariable(name, tuple(in_level_order(column.unique().tolist())), True)


def group_labels(frame: Any, columns: tuple[str, ...]) -> Any:
    """The labels of a random term: a column, or tuples of several; None without columns."""
    if not columns:
        return None
    if len(columns) == 1:
        return plain_column(frame[columns[0]])
    rows = list(zip(*(plain_column(frame[name]).tolist() for name in columns), strict=True))
    return pd.Series(rows, index=frame.index, name=":".join(columns), dtype=object)


def column_values(column: Any) -> Any:
    """The values of a column without its index: an array of pandas where that keeps the type."""
    if column is None:
        return None
    return column.array if isinstance(column.dtype, pd.api.extensions.ExtensionDtype) else column.to_numpy()


def table_rows(data: Any, frame: Any) -> RowLabels | None:
    """Labels of the rows of ``data``, of which ``frame`` was made; None if it had none, as polars' frames."""
    default = isinstance(frame.index, pd.RangeIndex) and not isinstance(data, pd.DataFrame)
    return None if default else row_labels(frame)


def table_weights(weights: Any, frame: Any, rows: RowLabels | None) -> Any:
    """Weights that may be the name of a column of ``frame``, whose rows have the labels ``rows``.

    Raises
    ------
    ValueError
        No such column; rows that their labels say are others.
    """
    if isinstance(weights, str):
        find_columns([weights], frame, "weights names")
        return column_values(plain_column(frame[weights]))
    check_rows(data=rows, weights=weights)
    return column_values(weights) if isinstance(weights, pd.Series) else weights


def used_columns(part: Any, frame: Any, context: Mapping[str, Any], formula: str) -> list[str]:
    """The columns that a side of the formula uses, in order; ValueError for names that nothing has."""
    used: dict[str, None] = {}
    for factor in (factor for term in part for factor in term.factors):
        if evaluation(factor) == "lookup":
            find_columns([factor.expr], frame, f"formula '{formula}' uses")
            used[factor.expr] = None
        elif evaluation(factor) == "python":
            used.update(dict.fromkeys(expression_columns(factor.expr, frame, context, formula)))
    return list(used)


def expression_columns(expression: str, frame: Any, context: Mapping[str, Any], formula: str) -> list[str]:
    """The columns that an expression uses, by name; ValueError for names that nothing has."""
    names, functions = _called_names(expression, formula)
    known = {*context, *FUNCTIONS}
    for name in sorted(functions):
        if not (name in known or hasattr(builtins, name)):
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            meant = f" (did you mean '{close[0]}'?)" if close else ""
            raise ValueError(
                f"formula '{formula}' calls '{name}', which is no known function{meant}; write one of numpy, such as "
                f"np.abs(x), or give it in context={{'{name}': ...}}."
            )
    columns = sorted(
        name for name in names if name in frame.columns or not (name in known or hasattr(builtins, name))
    )
    find_columns(columns, frame, f"formula '{formula}' uses")
    return columns


def _called_names(expression: str, formula: str) -> tuple[set[str], set[str]]:
    """Names of the variables and functions of an expression; ValueError if it is not Python."""
    try:
        return expression_names(expression)
    except (SyntaxError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", None) or type(error).__name__
        raise ValueError(_not_python(formula, expression, reason)) from None


def _not_python(formula: str, expression: str, reason: str) -> str:
    return (
        f"formula '{formula}' has '{expression}', which cannot be read ({reason}); what stands within a call is "
        "Python: & | ~ for and, or, not, [1, 2] or c(1, 2) for lists, 'text' for text."
    )


def term_structure(spec: Any, frame: Any, context: Mapping[str, Any]) -> TermStructure:
    """formulaic's record of how it made the columns, as terms."""
    factors: dict[str, Factor] = {}

    @functools.cache
    def coding(factor: Any, reduced: bool) -> np.ndarray | None:
        expr = factor.expr
        kind, state = spec.encoder_state[expr]
        if kind.value == "categorical":
            contrasts = state.get("contrasts")
            factors[expr] = Factor(expr, tuple(getattr(contrasts, "levels", ())))
            return None if contrasts is None else np.asarray(contrasts.get_coding_matrix(reduced), dtype=np.float64)
        factors[expr] = Factor(expr)
        if expr in frame.columns:
            return np.eye(1)
        alone = formulaic.Formula([ParsedTerm([factor])]).get_model_matrix(
            frame, context=context, output="numpy", materializer=MATERIALIZER
        )
        return np.eye(alone.shape[1])[:, int(reduced) :]  # of a basis that spans 1, the first column goes

    terms, start = [], 0
    for row in spec.structure:
        parts: list[Part] = []
        at = start
        for scoped in row.scoped_terms:
            made = [(f.factor.expr, coding(f.factor.factor, f.reduced)) for f in scoped.factors]
            codings = [(expr, matrix) for expr, matrix in made if matrix is not None]
            if len(codings) < len(made):
                parts = []
                break
            if codings:
                codings[0] = (codings[0][0], scoped.scale * codings[0][1])
            stop = at + int(np.prod([matrix.shape[1] for _, matrix in codings]))
            parts.append(Part(tuple(range(at, stop)), tuple(codings)))
            at = stop
        own = tuple(factor.expr for factor in row.term.factors if factor.expr in factors)
        columns = tuple(range(start, start + len(row.columns)))
        terms.append(Term(str(row.term) if own else "Intercept", columns, own, tuple(parts), tested=bool(own)))
        start += len(row.columns)
    return TermStructure(tuple(term for term in terms if term.columns), tuple(factors.values()))


def evaluation(factor: Any) -> str:
    """How formulaic evaluates a factor: "lookup" by name, "python", or "literal"."""
    return str(factor.eval_method.value)


@contextlib.contextmanager
def formula_errors(formula: str) -> Iterator[None]:
    """Whatever formulaic, or a function in the formula, raises is a ValueError of one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataMismatchWarning)
        try:
            yield
        except SyntaxError as error:
            raise ValueError(_not_python(formula, (error.text or "a call").strip(), error.msg)) from None
        except Exception as error:
            raise ValueError(one_line(str(error), formula)) from error
