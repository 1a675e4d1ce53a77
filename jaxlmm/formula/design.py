"""The fixed part of a formula, applied to data, and again to new data."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import formulaic
import formulaic.parser
import numpy as np
import pandas as pd

from jaxlmm.design.design import Design
from jaxlmm.design.estimable import Estimable
from jaxlmm.design.random import RandomTerm
from jaxlmm.design.terms import TermStructure
from jaxlmm.formula.arithmetic import MATERIALIZER, compute_response
from jaxlmm.formula.bars import split_formula
from jaxlmm.formula.bounds import refuse_large, refuse_many_terms
from jaxlmm.formula.data import (
    evaluation,
    expression_columns,
    find_columns,
    fit_column,
    formula_errors,
    grid_variable,
    group_labels,
    new_column,
    term_structure,
    used_columns,
)
from jaxlmm.formula.estimable import empty_cells, refuse_splines, without_rows
from jaxlmm.formula.guard import refuse_unknown
from jaxlmm.formula.random import FormulaTerm, ReadBar, apply_bars, bar_columns, read_bars
from jaxlmm.formula.reading import Sides, check_operators, read_sides
from jaxlmm.formula.text import category_column, expression_names
from jaxlmm.inference.grid import GridVariable
from jaxlmm.sources.table import as_frame, is_table

__all__ = ["FormulaDesign", "ReadFormula", "apply_formula", "read_formula", "refuse_untrusted", "restore_formula"]


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
    random : tuple of FormulaTerm
        The random terms.
    labels : DataFrame, n_obs rows, or None
        The columns that they group by. None without a random term, and in a fit from a file.
    structure : TermStructure
    spec : formulaic.ModelSpec
        Levels, codings and the state of transforms, as found in the data.
    response : DataFrame, array or None
        None in a fit from a file.
    variables : tuple of GridVariable
        The columns of the data that X is made of.
    frame : DataFrame, n_obs rows
        These columns and those of the random terms, a copy: all that is needed to make X and Z again.
    context : mapping
        As given.
    context_names : tuple of str
        What of it X is made with.
    random_variables : tuple of GridVariable
        The columns of the data that Z is made of.
    estimable : Estimable
        Which columns of the formula X has, and what its rows determine.
    offset : str or None
        What was subtracted from the responses, an expression of the columns ``offset_variables``.
    dropped_columns : tuple of str
        Names of the columns that X has not, since no row has some combination of levels.
    empty : tuple of str
        These combinations, as a[z]:b[v].
    """

    formula: str
    X: np.ndarray
    names: tuple[str, ...]
    random: tuple[FormulaTerm, ...]
    labels: Any
    structure: TermStructure
    spec: Any
    response: Any
    variables: tuple[GridVariable, ...]
    frame: Any = field(repr=False)
    context: Mapping[str, Any] = field(repr=False)
    estimable: Estimable
    context_names: tuple[str, ...] = ()
    random_variables: tuple[GridVariable, ...] = ()
    dropped_columns: tuple[str, ...] = ()
    offset: str | None = None
    offset_variables: tuple[GridVariable, ...] = ()
    empty: tuple[str, ...] = ()

    @property
    def group_columns(self) -> tuple[str, ...]:
        """The columns that the random terms group by."""
        return tuple(dict.fromkeys(name for term in self.random for name in term.grouping))

    @functools.cached_property
    def random_terms(self) -> list[RandomTerm]:
        """The random terms on the data of the fit."""
        return [term.term(self.labels) for term in self.random]

    @staticmethod
    def table(data: Any) -> Any:
        """``data`` as the data frame that :meth:`rows` reads; None if it is no table, but a matrix."""
        return as_frame(data) if is_table(data) else None

    @functools.cached_property
    def term_variables(self) -> tuple[frozenset[str], ...]:
        """The columns of the data that each term of the fixed part is made of."""
        found = []
        for term in self.spec.formula:
            used = used_columns([term], self.frame, self.context, self.formula)
            found.append(frozenset(used))
        return tuple(found)

    def values(self, name: str) -> np.ndarray:
        """A variable of the fixed part in the data of the fit, (n_obs,)."""
        return np.asarray(self.frame[name])

    def computed(self, expression: str) -> tuple[str, Callable[[Mapping[str, Any]], np.ndarray]] | None:
        """What is computed of one variable, such as "log(x)": the variable, and the column (n, 1) of new values.

        None if it is no column of numbers of one variable. State, as of ``scale(x)``, is that of the data of the fit.
        """
        formula = f"0 + {expression}"
        try:
            made = apply_formula(formula, read_formula(formula, self.frame, self.context), self.frame, self.context)
        except ValueError:
            return None
        if made.random or made.X.shape[1] != 1 or len(made.variables) != 1 or made.variables[0].factor:
            return None
        return made.variables[0].name, made.all_rows

    def offsets(self, data: Any = None) -> np.ndarray | None:
        """The offset of new data, or of the data of the fit, (n,); None without one.

        Raises
        ------
        ValueError
            Missing columns or values, an offset that is no column of numbers.
        """
        if self.offset is None:
            return None
        frame = (
            self.frame if data is None else self._new_columns(as_frame(data), self.offset_variables, "offset uses")
        )
        with formula_errors(self.formula):
            try:
                return np.asarray(compute_response(self.offset, frame.reset_index(drop=True), self.context))
            except ValueError as error:
                raise ValueError(f"the offset '{self.offset}' {error}") from error

    def all_rows(self, data: Any) -> np.ndarray:
        """As :meth:`rows`, with the columns that were not fitted."""
        return self._made_rows(as_frame(data))

    def rows(self, data: Any, *, missing: bool = False) -> np.ndarray:
        """Rows of X for new data, (n, p): same levels, codings and transforms.

        NaN in a row that the data of the fit do not determine, of a combination of levels that they have not.

        Parameters
        ----------
        data : DataFrame, or what makes one
            Holds all ``variables``; other columns are not looked at.
        missing : bool
            Whether a row may miss values; all of it is NaN then. Default: it is an error.

        Raises
        ------
        ValueError
            Missing columns or values, unknown levels, and formulas that compute with whole
            columns, such as ``x - x.mean()``, which say nothing about new rows.
        """
        frame = as_frame(data)
        whole = self._complete(frame, self.variables, "the model needs") if missing else np.ones(len(frame), bool)
        found = np.full((len(frame), len(self.names)), np.nan)
        if whole.any() or not len(frame):
            found[whole] = self.estimable.weights(self._made_rows(frame[whole]))
        return found

    def _made_rows(self, frame: Any) -> np.ndarray:
        if not self._by_row:
            raise ValueError(
                f"formula '{self.formula}' computes with whole columns of the data, so it cannot be applied to new "
                "rows; use center(x), scale(x) and the like, or compute the column beforehand."
            )
        return self._rows(self._new_columns(frame, self.variables, "the model needs"))

    @staticmethod
    def _complete(frame: Any, variables: Any, what: str) -> np.ndarray:
        """Which rows miss none of the variables, (n,)."""
        names = [variable.name for variable in variables]
        find_columns(names, frame, what)
        return frame[names].notna().to_numpy().all(axis=1)

    def random_rows(self, data: Any, design: Design) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """Codes (-1 for unknown levels) and columns Z of every random term for new data.

        A term of which ``data`` lacks a grouping column has unknown levels alone; None if that is so of all.

        Raises
        ------
        ValueError
            Columns of slopes are missing; unknown levels of factors in slopes.
        """
        frame = as_frame(data)
        columns = {str(name) for name in frame.columns}
        here = [set(part.grouping) <= columns for part in self.random]
        if not any(here):
            return None
        what = "the random term needs"
        whole = self._complete(frame, self.random_variables, what)
        if not whole.any():
            return [(np.full(len(frame), -1), np.zeros((len(frame), term.size))) for term in design.random]
        slopes = self._new_columns(frame[whole], self.random_variables, what)
        found = []
        with formula_errors(self.formula):
            for part, term, known in zip(self.random, design.random, here, strict=True):
                if known:
                    codes, Z = part.new(term, group_labels(frame[whole], part.grouping), slopes, self.context)
                    found.append(_at_rows(codes, Z, whole))
                else:
                    found.append((np.full(len(frame), -1), np.zeros((len(frame), term.size))))
        return found

    def _new_columns(self, frame: Any, variables: Any, what: str) -> Any:
        find_columns([v.name for v in variables], frame, what)
        columns = {v.name: new_column(frame[v.name], v, self.frame[v.name]) for v in variables}
        return pd.DataFrame(columns, index=frame.index)

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
        return np.allclose(np.concatenate(alone)[:, self.estimable.kept], self.X[[0, -1]], rtol=1e-8, atol=0)


def _at_rows(codes: np.ndarray, Z: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and Z of some rows, (n,) of bool, at all: where a slope's covariate is missing so is its effect, NaN."""
    everywhere = np.full((len(rows), Z.shape[1]), np.nan)
    everywhere[rows] = Z
    known = np.zeros(len(rows), dtype=codes.dtype)
    known[rows] = codes
    return known, everywhere


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
    frame, context = as_frame(data), dict(context or {})
    if not trust:
        refuse_untrusted(formula, frame, context, given=given, responses=False)
    read = read_formula(formula, frame, context)
    return apply_formula(formula, read, frame, context)


@dataclass(frozen=True)
class ReadFormula:
    """A formula as text that was read: names and expressions of responses, formulaic's terms, random terms."""

    responses: tuple[tuple[str, str], ...] | None
    terms: Any
    bars: tuple[ReadBar, ...]
    offset: str | None = None

    @property
    def group_columns(self) -> tuple[str, ...]:
        """The columns that the random terms group by."""
        return tuple(dict.fromkeys(name for one in self.bars for name in one.bar.grouping))

    @property
    def plain_columns(self) -> tuple[list[str], list[str]]:
        """Columns that X and Z use by their names alone, and those that ``C(...)`` and the like make factors of."""
        sides = [self.terms, *(one.rhs for one in self.bars if one.rhs is not None)]
        factors = [factor for side in sides for term in side for factor in term.factors]
        named = [factor.expr for factor in factors if evaluation(factor) == "lookup"]
        made = [category_column(factor.expr) for factor in factors if evaluation(factor) == "python"]
        return named, [name for name in made if name is not None]

    def used(self, frame: Any, context: Mapping[str, Any], formula: str) -> list[str]:
        """The columns of the data that X and Z are made of."""
        fixed = used_columns(self.terms, frame, context, formula)
        offset = [] if self.offset is None else expression_columns(self.offset, frame, context, formula)
        return list(dict.fromkeys([*fixed, *bar_columns(self.bars, frame, context, formula), *offset]))


def read_formula(formula: str, frame: Any, context: Mapping[str, Any]) -> ReadFormula:
    """Read a formula for the columns of a frame; ValueError for what cannot be read, or not be fitted."""
    sides, bars = _sides(formula, frame, context)
    terms = _terms(sides.fixed, formula)
    if not list(terms):
        raise ValueError(f"formula '{formula}' has no fixed effect; write 1 for an intercept, or a covariate.")
    return ReadFormula(sides.responses, terms, bars, sides.offset)


def _sides(formula: str, frame: Any, context: Mapping[str, Any]) -> tuple[Sides, tuple[ReadBar, ...]]:
    fixed, bars = split_formula(formula)
    columns = [str(name) for name in frame.columns]
    sides = read_sides(formula, fixed, columns, tuple(context))
    made = []
    for bar in bars:
        text = bar.columns if bar.columns == "1" else read_sides(formula, bar.columns, columns, tuple(context)).fixed
        _check(text, formula)
        made.append((bar, text))
    return sides, read_bars(made, formula)


def _check(fixed: str, formula: str) -> None:
    with formula_errors(formula):
        root = formulaic.parser.DefaultFormulaParser().get_ast(fixed)
    check_operators(root, formula)


def _terms(fixed: str, formula: str) -> Any:
    _check(fixed, formula)
    with formula_errors(formula):
        return formulaic.Formula(fixed)


def refuse_untrusted(
    formula: str, frame: Any, context: Mapping[str, Any], *, given: Collection[str] = (), responses: bool = True
) -> None:
    """UntrustedFormula, a ValueError, if evaluating the formula could do more than compute, or take any time.

    Parameters
    ----------
    formula, frame, context
        As in :func:`restore_formula`; the columns of the frame are known names.
    given : collection of str
        The names in ``context`` that are the user's own.
    responses : bool
        Whether the left side is to be evaluated too: the formula was typed, and is no one's that was stored.
    """
    sides, bars = _sides(formula, frame, context)
    with formula_errors(formula):
        refuse_many_terms(sides.fixed, formula)
        rhs = formulaic.Formula(sides.fixed)
    known = {str(name) for name in frame.columns} | set(context)
    text = {str(name) for name in frame.columns if not pd.api.types.is_any_real_numeric_dtype(frame[name].dtype)}
    text -= {str(name) for name in frame.columns if frame[name].dtype.kind in "mMb"}
    text |= {k for k, v in context.items() if k not in given and not isinstance(v, (float, np.ndarray, np.generic))}
    left = [made for _, made in sides.responses or ()] if responses else []
    left += [] if sides.offset is None else [sides.offset]
    slopes = [expression for one in bars if one.rhs is not None for expression in _expressions(one.rhs)]
    for expression in [*_expressions(rhs), *slopes, *left]:
        if responses:  # typed: a name that is misspelt is the likelier fault
            expression_columns(expression, frame, context, formula)
        refuse_unknown(expression, formula, known, given)
        refuse_large(expression, formula, text)


def _expressions(part: Any) -> list[str]:
    """The Python expressions in a side of a formula."""
    return [factor.expr for term in part for factor in term.factors if evaluation(factor) == "python"]


def apply_formula(formula: str, read: ReadFormula, frame: Any, context: Mapping[str, Any]) -> FormulaDesign:
    """All that follows from the right side and the columns that it uses."""
    rhs, slopes = read.terms, [one.rhs for one in read.bars if one.rhs is not None]
    used = used_columns(rhs, frame, context, formula)
    inside = bar_columns(read.bars, frame, context, formula)
    added = [] if read.offset is None else expression_columns(read.offset, frame, context, formula)
    sides = [rhs, *slopes]
    plain = {f.expr for side in sides for term in side for f in term.factors if evaluation(f) == "lookup"}
    columns = {name: fit_column(frame[name], name, name in plain) for name in dict.fromkeys([*used, *inside, *added])}
    made = pd.DataFrame(columns, index=frame.index).reset_index(drop=True)
    with formula_errors(formula):
        matrix = rhs.get_model_matrix(
            made, context=context, na_action="raise", output="numpy", materializer=MATERIALIZER
        )
    spec = matrix.model_spec
    for expr, (_, state) in spec.encoder_state.items():
        levels = getattr(state.get("contrasts"), "levels", (0, 1))
        if len(levels) < 2:
            raise ValueError(f"factor '{expr}' has the single level {levels[0]!r}; a factor needs at least 2.")
    refuse_splines(formula, rhs)
    X, names = np.asarray(matrix, dtype=np.float64), tuple(spec.column_names)
    empty = empty_cells(rhs, spec, X, made, context)
    lost = without_rows(X, spec, empty) if empty else []
    estimable = Estimable.without(X, lost) if lost else Estimable.whole(X.shape[1])
    structure = term_structure(spec, made, context)
    random = apply_bars(read.bars, made, context, formula)
    specs = [spec, *(term.spec for term in random if term.spec is not None)]
    categories = {category_column(expr) for one in specs for expr in one.encoder_state}
    named = set[str]().union(*(set().union(*expression_names(e)) for side in sides for e in _expressions(side)))
    return FormulaDesign(
        formula=formula,
        X=np.ascontiguousarray(X[:, estimable.kept]) if lost else X,
        names=tuple(names[j] for j in estimable.kept),
        random=random,
        labels=None,
        structure=structure.keep(estimable.kept.tolist()) if lost else structure,
        spec=spec,
        response=None,
        variables=tuple(grid_variable(made[name], name in categories) for name in used),
        frame=made,
        context=context,
        context_names=tuple(sorted((named & set(context)) - set(columns))),
        random_variables=tuple(grid_variable(made[name], name in categories) for name in inside),
        estimable=estimable,
        offset=read.offset,
        offset_variables=tuple(grid_variable(made[name], name in categories) for name in added),
        dropped_columns=tuple(names[j] for j in lost),
        empty=tuple(dict.fromkeys(cell for cells in empty.values() for cell in cells)) if lost else (),
    )
