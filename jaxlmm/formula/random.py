"""The random terms of a formula applied to data: labels of the levels, and the columns whose effects vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import formulaic
import numpy as np
import pandas as pd

from jaxlmm.design.groups import group_codes, make_grouping
from jaxlmm.design.random import RandomTerm, make_random_term
from jaxlmm.formula.arithmetic import MATERIALIZER
from jaxlmm.formula.bars import Bar
from jaxlmm.formula.data import column_values, formula_errors, group_labels, used_columns

__all__ = ["FormulaTerm", "ReadBar", "apply_bars", "bar_columns", "read_bars"]

INTERCEPT = "(Intercept)"


@dataclass(frozen=True, eq=False)
class FormulaTerm:
    """One random term of a formula, and what is needed to apply it to new data in the same way.

    Attributes
    ----------
    name : str
        Of the factor, as in lme4: "a:b", and "b:a" for b within a.
    grouping : tuple of str
        The columns whose combinations are the levels.
    text : str
        As written.
    names : tuple of str, length r
        Of the columns of Z.
    spec : formulaic.ModelSpec, or None
        How Z is made; None for an intercept alone.
    Z : ndarray, (n_obs, r)
    """

    name: str
    grouping: tuple[str, ...]
    text: str
    names: tuple[str, ...]
    spec: Any
    Z: np.ndarray

    def term(self, frame: Any) -> RandomTerm:
        """The term on the data of the fit."""
        labels = group_labels(frame, self.grouping)
        levels = make_grouping(column_values(labels), len(frame), name=self.name, term=self.text)
        if self.spec is None:
            return levels
        return make_random_term(self.name, levels.levels, levels.codes, self.Z, self.names)

    def new(self, term: RandomTerm, labels: Any, frame: Any, context: Mapping[str, Any]) -> tuple[np.ndarray, Any]:
        """Codes (-1 where unknown) and Z (n, r) of new rows; ``frame`` holds the columns as the fit took them."""
        codes = group_codes(term, column_values(labels))
        if self.spec is None:
            return codes, np.ones((len(codes), 1))
        matrix = self.spec.get_model_matrix(frame.reset_index(drop=True), context=context)
        return codes, np.asarray(matrix, dtype=np.float64)


@dataclass(frozen=True)
class ReadBar:
    """A bar as formulaic reads its columns; ``rhs`` is None for an intercept alone."""

    bar: Bar
    rhs: Any


def read_bars(bars: Sequence[tuple[Bar, str]], formula: str) -> tuple[ReadBar, ...]:
    """The bars, ``||`` taken apart as in lme4: an intercept, and each term alone.

    Parameters
    ----------
    bars : sequence of (Bar, str)
        With the columns in formulaic's words.

    Raises
    ------
    ValueError
        A bar without a column.
    """
    found: list[ReadBar] = []
    for bar, columns in bars:
        with formula_errors(formula):
            rhs = formulaic.Formula(columns)
        if not list(rhs):
            raise ValueError(f"the random term {bar.text} has no column before the bar; write (1 | group).")
        if bar.correlated or len(list(rhs)) == 1:
            found.append(ReadBar(bar, None if [str(t) for t in rhs] == ["1"] else rhs))
            continue
        for term in rhs:
            alone = str(term)
            with formula_errors(formula):
                found.append(ReadBar(bar, None if alone == "1" else formulaic.Formula(f"0 + {alone}")))
    return tuple(found)


def bar_columns(read: Sequence[ReadBar], frame: Any, context: Mapping[str, Any], formula: str) -> list[str]:
    """The columns of the data that Z is made of, in order."""
    used: dict[str, None] = {}
    for one in read:
        if one.rhs is not None:
            used.update(dict.fromkeys(used_columns(one.rhs, frame, context, formula)))
    return list(used)


def apply_bars(
    read: Sequence[ReadBar], frame: pd.DataFrame, context: Mapping[str, Any], formula: str
) -> tuple[FormulaTerm, ...]:
    """Z of each random term from columns made by :func:`jaxlmm.formula.data.fit_column`."""
    made = []
    for one in read:
        bar = one.bar
        if one.rhs is None:
            made.append(FormulaTerm(bar.name, bar.grouping, bar.text, (INTERCEPT,), None, np.ones((len(frame), 1))))
            continue
        with formula_errors(formula):
            matrix = one.rhs.get_model_matrix(
                frame, context=context, na_action="raise", output="numpy", materializer=MATERIALIZER
            )
        spec = matrix.model_spec
        names = tuple(INTERCEPT if name == "Intercept" else name for name in spec.column_names)
        made.append(FormulaTerm(bar.name, bar.grouping, bar.text, names, spec, np.asarray(matrix, dtype=np.float64)))
    return tuple(made)
