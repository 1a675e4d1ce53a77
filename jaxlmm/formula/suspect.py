"""Values of a column that are hardly meant: missing values as text, a level written in two ways, numbers as text.

A formula would take them as they are, and fit another model than the one that was asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from jaxlmm.design.groups import MISSING_TEXT
from jaxlmm.sources.table import plain_column

__all__ = ["check_columns", "refuse_twins"]

# Text of which this share reads as numbers, in at least so many levels, is a covariate by all appearance.
NUMBERS, LEVELS = 0.9, 10


def check_columns(frame: Any, covariates: Collection[str], factors: Collection[str], level: int) -> None:
    """Look at the columns that a formula uses by their names.

    Parameters
    ----------
    frame : DataFrame
        All rows.
    covariates, factors : collection of str
        Columns of the fixed part and of slopes; those that are made factors, or that the random terms group by.
    level : int
        Of the stack, to which a warning belongs.

    Raises
    ------
    ValueError
        Text that stands for a missing value, levels that differ by white space alone, infinite values.
    """
    for name in dict.fromkeys([*covariates, *factors]):
        column = plain_column(frame[name])
        levels = _text(column)
        if levels is not None:
            _refuse_missing(column, levels, name)
            refuse_twins(levels, name, f"data['{name}']")
        if name not in covariates:
            continue
        if levels is not None and not isinstance(column.dtype, pd.CategoricalDtype):
            _say_numbers(levels, name, len(column), level + 1)
        elif isinstance(column.dtype, np.dtype) and column.dtype.kind == "f":
            _refuse_infinite(column.to_numpy(), name)


def refuse_twins(levels: Collection[str], name: str, column: str) -> None:
    """ValueError for levels that differ by the white space around them alone."""
    known: dict[str, str] = {}
    for level in levels:
        other = known.setdefault(level.strip(), level)
        if other != level:
            raise ValueError(
                f"column '{name}' holds {other!r} and {level!r}, which differ by white space alone and would be two "
                f"levels; write {column} = {column}.str.strip() before, or rename one."
            )


def _text(column: Any) -> list[str] | None:
    """The values that text, or categories that are text, have; None for other columns."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = column.cat.remove_unused_categories().cat.categories.tolist()
    elif column.dtype == object:
        try:
            levels = column.dropna().unique().tolist()
        except TypeError:  # of what cannot be compared, which is refused elsewhere
            return None
    else:
        return None
    return levels if levels and all(isinstance(level, str) for level in levels) else None


def _refuse_missing(column: Any, levels: list[str], name: str) -> None:
    absent = [level for level in levels if level in MISSING_TEXT or not level.strip()]
    if absent:
        rows = np.flatnonzero((column == absent[0]).fillna(False).to_numpy(dtype=bool))
        raise ValueError(
            f"column '{name}' has the text {absent[0]!r} in {len(rows)} row{'s' * (len(rows) > 1)}, the first in row "
            f"{rows[0]}, which would be a level of its own; if it stands for a missing value write "
            f"data['{name}'] = data['{name}'].replace({absent[0]!r}, None) before, else rename the level."
        )


def _say_numbers(levels: list[str], name: str, n: int, level: int) -> None:
    """A warning for a factor whose levels are numbers, but for a few; an error if it could not be fitted anyway."""
    if len(levels) < LEVELS:
        return
    text = pd.Series(levels, dtype=object)
    number = pd.to_numeric(text.str.replace(",", "."), errors="coerce").notna()
    if number.mean() < NUMBERS:
        if len(levels) < n:
            return
        raise ValueError(
            f"column '{name}' is text, so a factor, and has another level in each of the {n} rows; leave it out of "
            "the model."
        )
    rest = text[~number.to_numpy()].tolist()
    but = f" but for {', '.join(map(repr, rest[:3]))}" if rest else ""
    comma = ".str.replace(',', '.')" if text.str.contains(",").any() else ""
    said = (
        f"column '{name}' is text, so a factor with {len(levels)} levels, though these read as numbers{but}; of a "
        f"covariate make numbers, data['{name}'] = pandas.to_numeric(data['{name}']{comma}"
        f"{', errors=' + repr('coerce') if rest else ''})"
    )
    if len(levels) >= n / 2:
        raise ValueError(f"{said}.")
    warnings.warn(f"{said}; of a factor write {_factor(name)}.", stacklevel=level + 1)


def _factor(name: str) -> str:
    return f"C({name})" if name.isidentifier() else f"C(`{name}`)"


def _refuse_infinite(values: np.ndarray, name: str) -> None:
    rows = np.flatnonzero(np.isinf(values))
    if len(rows):
        raise ValueError(
            f"column '{name}' has {len(rows)} infinite value{'s' * (len(rows) > 1)}, the first in row {rows[0]}; "
            f"mend it, or write data['{name}'] = data['{name}'].replace([numpy.inf, -numpy.inf], numpy.nan), "
            "which na='drop' leaves out."
        )
