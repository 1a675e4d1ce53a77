"""The reference grid: a row of X for every combination of values of the variables, observed or not.

Factors have all their levels. A covariate stands at its mean over all rows of the data (the same for all responses,
whatever they miss); one with only two values keeps both, like a factor, as R's emmeans has it.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jaxlmm.design.estimable import Estimable
from jaxlmm.runtime.arguments import shown

__all__ = ["Grid", "GridVariable", "RowSource", "known_variable", "reference_grid"]

LARGEST_GRID = 1_000_000
# Of difference quotients, relative to the range of the covariate: emmeans'.
STEP = 1e-3
LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True, eq=False)
class GridVariable:
    """A variable of the data, and the values that it has in the reference grid.

    ``levels`` are those of a factor, both values of a covariate that has two, or its mean.
    """

    name: str
    levels: tuple[Any, ...]
    factor: bool


class RowSource(Protocol):
    """What turns values of the variables into rows of X, as the fit's own formula did."""

    @property
    def variables(self) -> tuple[GridVariable, ...]:
        """The variables that X is made of."""

    @property
    def term_variables(self) -> tuple[frozenset[str], ...]:
        """The variables of each term of the formula."""

    @property
    def estimable(self) -> Estimable:
        """What the rows of X determine."""

    def all_rows(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Rows of X with the columns that were not fitted, (n, p_all), for n values of each variable."""

    def values(self, name: str) -> np.ndarray:
        """A variable in the data of the fit, (n_obs,)."""

    def computed(self, expression: str) -> tuple[str, Callable[[Mapping[str, Any]], np.ndarray]] | None:
        """What is computed of one variable, such as "log(x)": the variable, and the column (n, 1) of new values.

        None if it is no column of numbers of one variable.
        """

    @property
    def offset(self) -> str | None:
        """What was subtracted from the responses, as text."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The reference grid of a fit; arrays have an axis for each variable.

    Attributes
    ----------
    levels : dict of str to tuple
        Values of each variable.
    rows : ndarray, (..., p_all)
    counts : ndarray, (...)
        Observations of each cell, whatever their weights. Covariates at one value do not divide them.
    nested : ndarray of bool, (...)
        Cells that cannot be: a level of a factor that is nested in another, at a level of that which it is not of.
    estimable : Estimable
    """

    levels: dict[str, tuple[Any, ...]]
    rows: np.ndarray
    counts: np.ndarray
    nested: np.ndarray
    estimable: Estimable

    def slopes(self, source: RowSource, var: Any) -> Grid:
        """The same cells with the derivatives of their rows in a covariate, or in what is computed of one, "log(x)".

        Central difference quotients with one step of Richardson's extrapolation, exact for polynomials up to the
        fourth degree; emmeans takes forward ones.

        Raises
        ------
        ValueError
            ``var`` is no covariate of the model.
        """
        variables = {v.name: v for v in source.variables}
        covariates = ", ".join(name for name, v in variables.items() if not v.factor) or "(none)"
        name, computed = var, None
        if isinstance(var, str) and var not in variables:
            name, computed = source.computed(var) or (var, None)
        if not isinstance(name, str) or name not in variables or variables[name].factor:
            what = f"the factor '{var}'" if isinstance(var, str) and var in variables else shown(var)
            raise ValueError(f"var is {what}; slopes are of a covariate of the model: {covariates}.")
        values = np.asarray(source.values(name), dtype=np.float64)
        cells = list(itertools.product(*self.levels.values()))
        columns = {one: [cell[i] for cell in cells] for i, one in enumerate(self.levels)}
        here = np.array(columns[name], dtype=np.float64)

        def derivative(function: Callable[[Mapping[str, Any]], np.ndarray]) -> np.ndarray:
            quotients = []
            for half in STEP * float(np.ptp(values)) / np.array([2, 4]):
                up, down = here + half, here - half
                rows = function(columns | {name: up}) - function(columns | {name: down})
                quotients.append(rows / (up - down)[:, None])
            return np.asarray((4 * quotients[1] - quotients[0]) / 3)

        rows = derivative(source.all_rows)
        if computed is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                rows = rows / derivative(computed)
        return dataclasses.replace(self, rows=rows.reshape(self.rows.shape))


def reference_grid(source: RowSource, at: Any = None, spread: Mapping[str, Any] | None = None) -> Grid:
    """The reference grid of a fit by formula.

    Parameters
    ----------
    source : RowSource
    at : mapping of str to value or values, optional
        Covariates: values in place of the mean. Factors: the levels to keep.
    spread : mapping of str to tuple, optional
        Values of covariates that ``at`` does not name, in place of their mean.

    Raises
    ------
    ValueError
        Unknown variables or levels, a huge grid.
    """
    variables = {v.name: v for v in source.variables}
    given = _given(at, variables)
    spread = spread or {}
    levels = {
        name: _levels(v, given[name]) if name in given else tuple(spread.get(name, v.levels))
        for name, v in variables.items()
    }
    shape = tuple(len(values) for values in levels.values())
    size = int(np.prod(shape, dtype=float))
    if size > LARGEST_GRID:
        raise ValueError(f"the reference grid has {size} rows; keep fewer levels of some factors with at=.")
    cells = list(itertools.product(*levels.values()))
    rows = source.all_rows({name: [cell[i] for cell in cells] for i, name in enumerate(levels)})
    keys = [n for n, v in variables.items() if v.factor or (len(v.levels) > 1 and n not in given and n not in spread)]
    counts = np.broadcast_to(_counts(source, levels, keys), shape)
    nested = np.broadcast_to(_nested(source, levels, keys), shape)
    return Grid(levels, rows.reshape(*shape, rows.shape[1]), counts, nested, source.estimable)


def known_variable(name: str, variables: Any, what: str) -> None:
    """ValueError for a name that is none of the model's variables."""
    if name not in variables:
        known = ", ".join(variables) or "(none)"
        raise ValueError(f"{what} names {name!r}; the variables of the model are {known}.")


def _given(at: Any, variables: Mapping[str, GridVariable]) -> dict[str, Any]:
    if at is not None and not isinstance(at, Mapping):
        raise ValueError(f"at must be a dict of values by the names of variables, found {shown(at)}.")
    for name in at or {}:
        known_variable(name, variables, "at")
    return dict(at or {})


def _counts(source: RowSource, levels: Mapping[str, tuple[Any, ...]], keys: list[str]) -> np.ndarray:
    """Observations of each cell of the variables ``keys``; an axis of length 1 for others."""
    shape = [len(levels[name]) if name in keys else 1 for name in levels]
    if not keys:
        return np.ones(shape)
    where: list[np.ndarray] = []
    for name in keys:
        position = {level: i for i, level in enumerate(levels[name])}
        where.append(np.array([position.get(value, -1) for value in source.values(name).tolist()]))
    inside = np.all(np.stack(where) >= 0, axis=0)
    counts = np.zeros([len(levels[name]) for name in keys])
    np.add.at(counts, tuple(codes[inside] for codes in where), 1.0)
    return counts.reshape(shape)


def _nested(source: RowSource, levels: Mapping[str, tuple[Any, ...]], keys: list[str]) -> np.ndarray:
    """Cells that nesting rules out: each level of the inner factor is seen at one level of the outer."""
    names = list(levels)
    out = np.zeros([1] * len(names), dtype=bool)
    for i, j in itertools.permutations([k for k, name in enumerate(names) if name in keys], 2):
        inner, outer = names[i], names[j]
        if len(levels[inner]) <= len(levels[outer]) or len(levels[outer]) < 2:
            continue
        pair = {name: levels[name] for name in (inner, outer)}
        seen = _counts(source, pair, [inner, outer]) > 0
        if (seen.sum(axis=1) == 1).all():
            shape = [len(levels[name]) if name in pair else 1 for name in names]
            out = out | ~(seen if i < j else seen.T).reshape(shape)
    return out


def _levels(variable: GridVariable, values: Any) -> tuple[Any, ...]:
    """Values of ``at``, checked."""
    single = isinstance(values, (str, bytes)) or not hasattr(values, "__iter__")
    listed = (values,) if single else tuple(values)
    if not listed:
        raise ValueError(f"at gives no value for '{variable.name}'.")
    if variable.factor:
        unknown = [v for v in listed if not _is_level(v, variable.levels)]
        if unknown:
            known = ", ".join(map(repr, variable.levels))
            raise ValueError(f"at gives {shown(unknown[0])} for '{variable.name}', whose levels are {known}.")
        return _once(variable.name, listed)
    if not all(isinstance(v, numbers.Real) and _is_finite(v) for v in listed):
        raise ValueError(f"at gives {shown(values)} for the covariate '{variable.name}'; give finite numbers.")
    numbers_ = tuple(v if isinstance(v, (int, float)) and abs(v) < 2**53 else float(v) for v in listed)
    return _once(variable.name, numbers_)


def _once(name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Values of ``at``, if no two are equal."""
    if len(set(values)) < len(values):
        counts = collections.Counter(values)
        twice = next(v for v in values if counts[v] > 1)
        raise ValueError(f"at gives {shown(twice)} for '{name}' twice; give each value once.")
    return values


def _is_finite(value: Any) -> bool:
    return bool(abs(value) <= LARGEST)  # also of integers that float64 cannot hold


def _is_level(value: Any, levels: tuple[Any, ...]) -> bool:
    """Whether a value is one of the levels."""
    try:
        return value in levels
    except (TypeError, ValueError):  # an array: equal to a level in some places only
        return False
