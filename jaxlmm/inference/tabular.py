"""What tests of many responses have in common: they print, and become data frames and datasets.

A result says in ``_table`` which arrays it has, and what tells the rows of one response apart; all
else is here, once. Columns of data frames have the names of R's broom, variables of datasets those
of :meth:`jaxlmm.Fit.to_dataset`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlmm.inference.distributions import check_level
from jaxlmm.inference.multiplicity import ADJUSTMENTS, adjust_pvalues, adjustment
from jaxlmm.runtime.extras import extra
from jaxlmm.runtime.text import Text, number, summary_layout
from jaxlmm.tabular.dataset import variable
from jaxlmm.tabular.labels import Labels

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Table", "Tabular"]

# What a column is, its heading where it is printed, its name in a data frame, the power of the responses' units.
COLUMNS = {
    "estimate": ("estimate", "Estimate", "estimate", 1),
    "se": ("standard error of the estimate", "Std.Err.", "std.error", 1),
    "statistic": ("test statistic", "statistic", "statistic", 0),
    "df": ("degrees of freedom", "df", "df", 0),
    "df_num": ("numerator degrees of freedom", "NumDF", "num.df", 0),
    "df_den": ("denominator degrees of freedom", "DenDF", "den.df", 0),
    "pvalue": ("p-value", "P", "p.value", 0),
    "pvalue_mixture": ("p-value by the mixture of chi-square distributions", "P (mixture)", "p.value.mixture", 0),
    "pvalue_corrected": ("p-value corrected over all responses", "P (corrected)", "p.corrected", 0),
    "score": ("cluster mass or enhanced statistic", "score", "score", 0),
    "cluster": ("number of the cluster, 0 outside", "cluster", "cluster", 0),
    "conf_low": ("lower limit", "lower", "conf.low", 1),
    "conf_high": ("upper limit", "upper", "conf.high", 1),
    "loglik": ("maximised log-likelihood", "logLik", "logLik", 0),
    "aic": ("Akaike's criterion", "AIC", "AIC", 0),
    "bic": ("Bayesian criterion", "BIC", "BIC", 0),
    "aic_weight": ("Akaike weight", "AIC weight", "AIC.weight", 0),
    "bic_weight": ("weight by the Bayesian criterion", "BIC weight", "BIC.weight", 0),
    "n_params": ("number of parameters", "npar", "npar", 0),
}
# Of many responses, so many are printed, and so many rows of theirs, if there are more than one's.
HEAD, HEAD_ROWS = 3, 12


@dataclass(frozen=True, eq=False)
class Table:
    """A result as a table.

    Attributes
    ----------
    title : str
    axes : mapping of str to sequence
        What tells the k rows of one response apart: all combinations, the last axis varying fastest.
        Empty for one row per response.
    columns : mapping of str to ndarray
        By the names of ``COLUMNS``: (m, k), or (k,) where all responses have the same.
    headings : mapping of str to str
        Where they differ from those of ``COLUMNS``.
    notes : tuple of str
    per : str, optional
        A covariate, in whose units, beside the responses', estimates are slopes.
    """

    title: str
    axes: Mapping[str, Sequence[Any]]
    columns: Mapping[str, np.ndarray]
    headings: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    per: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(map(len, self.axes.values()))

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """The labels of the k rows of one response."""
        return list(itertools.product(*self.axes.values()))

    def full(self, name: str, m: int) -> np.ndarray:
        """A column for every response, (m, k)."""
        values = self.columns[name]
        return np.broadcast_to(values if self.axes else values[:, None], (m, len(self.rows)))

    def heading(self, name: str) -> str:
        """What is printed above a column."""
        return self.headings.get(name, COLUMNS[name][1])


@dataclass(frozen=True, eq=False, repr=False)
class Tabular:
    """A result for m responses, which prints as a table.

    Attributes
    ----------
    responses : Labels or None
        Dimensions, coordinates and units of the responses. None: those of the columns of a matrix.
    """

    responses: Labels | None = field(default=None, kw_only=True)

    def _table(self, level: float) -> Table:
        """The result as a table, with intervals of ``level`` if it has some."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def summary(self, response: int | str | None = None, *, level: float = 0.95) -> Text:
        """The table of one response; of several an overview, and the first of them.

        Parameters
        ----------
        response : int or str, optional
            Position or name. Default: the only one; of several an overview.
        level : float
            Of the intervals; 1 - ``level`` is the bound of the p-values that an overview counts.

        Returns
        -------
        Text
            A ``str`` that shows itself in a terminal and in a notebook.
        """
        table, labels = self._checked(level)
        if response is None and labels.size > 1:
            return Text(f"{_overview(table, labels, level)}\n\n{_head(table, labels)}")
        i = labels.position(0 if response is None else response)
        pairs = [("Response:", labels.names[i])] if labels.size > 1 or labels.coords else []
        rows = [[*_texts(row), *cells] for row, cells in zip(table.rows, _cells(table, i), strict=True)]
        header = [*(table.axes or [""]), *map(table.heading, table.columns)]
        rows = rows if table.axes else [["", *row] for row in rows]
        return Text(summary_layout(table.title, pairs, header, rows, table.notes))

    def tidy(self, *, level: float = 0.95, adjust: str | None = None) -> pd.DataFrame:
        """A long table, all responses below each other, with the names of R's broom. Needs pandas.

        Parameters
        ----------
        level : float
            Of the intervals, of results that have some.
        adjust : str, optional
            Add ``p.adjusted``, by this method of :func:`jaxlmm.adjust_pvalues`: each row of a response
            is one family of tests over all responses.

        Returns
        -------
        DataFrame
            A column for each dimension of the responses, those that tell the rows of a response
            apart, and the numbers.

        Raises
        ------
        ValueError
            Unknown method, or a result without p-values; a dimension of the responses that is called
            like a column.
        """
        pd = extra("pandas", "tables")
        table, labels = self._checked(level)
        m, k = labels.size, len(table.rows)
        columns = {COLUMNS[name][2]: table.full(name, m) for name in table.columns}
        if adjust is not None:
            method = adjustment(adjust, ADJUSTMENTS, "adjust")
            if "p.value" not in columns:
                raise ValueError(f"adjust is given, but {type(self).__name__} has no p-values; leave it out.")
            columns["p.adjusted"] = adjust_pvalues(columns["p.value"], method, axis=0)
        _check_names([*labels.keys], [*table.axes, *columns])
        where = np.repeat(np.arange(m), k)
        frame = {name: pd.Series(values).take(where).array for name, values in labels.keys.items()}
        for j, name in enumerate(table.axes):
            frame[name] = pd.Series(_plain([row[j] for row in table.rows])).take(np.tile(np.arange(k), m)).array
        return pd.DataFrame(frame | {name: values.ravel() for name, values in columns.items()})

    def to_dataset(self, *, level: float = 0.95) -> xr.Dataset:
        """The result with the dimensions and coordinates of the responses. Needs xarray.

        Parameters
        ----------
        level : float
            Of the intervals, of results that have some.

        Returns
        -------
        Dataset
            A dimension for each thing that tells the rows of a response apart, before those of the
            responses.
        """
        xr = extra("xarray", "labelled results")
        table, labels = self._checked(level)
        _check_names(map(str, [*labels.dims, *labels.coords]), [*table.axes, *table.columns])
        made = {}
        for name, values in table.columns.items():
            text, _, _, power = COLUMNS[name]
            shared = values.ndim == 1 and table.axes
            dims, shape = ((), ()) if shared else (labels.dims, labels.shape)
            cube = np.array(values.T, order="C").reshape(*table.shape, *shape)
            units = labels.units if table.per is None or labels.units is None else f"{labels.units} / {table.per}"
            made[name] = variable(cube, text, power, units, *table.axes, *dims)
        coords = {name: xr.Variable((name,), _plain(values)) for name, values in table.axes.items()}
        return xr.Dataset(made, coords=labels.to_coords(), attrs={"title": table.title}).assign_coords(coords)

    def _checked(self, level: float) -> tuple[Table, Labels]:
        """The table and the labels, no two things called alike where a name can be changed."""
        check_level(level)
        table = self._table(level)
        labels = self.responses
        if labels is None:
            whole = [values for values in table.columns.values() if values.ndim == 2 or not table.axes]
            labels = Labels.of_matrix(len(whole[0]))
        taken = {*map(str, labels.dims), *map(str, labels.coords), *table.columns, *(c[2] for c in COLUMNS.values())}
        axes = {_free(name, taken): values for name, values in table.axes.items()}
        return dataclasses.replace(table, axes=axes), labels


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _check_names(keys: Any, names: Sequence[str]) -> None:
    twice = [key for key in keys if key in names]
    if twice:
        raise ValueError(
            f"the dimension {twice[0]!r} is called like a column of the table; rename it in Y, or in the data."
        )


def _plain(values: Sequence[Any]) -> np.ndarray:
    """Labels as an array that holds them as they are."""
    made = np.empty(len(values), dtype=object)
    made[:] = list(values)
    kinds = {type(v) for v in values}
    plain = len(kinds) == 1 and issubclass(next(iter(kinds)), (str, bool, int, float, np.generic))
    return np.array(list(values)) if plain else made


# -- printing ----------------------------------------------------------------------------------------


def _texts(row: tuple[Any, ...]) -> list[str]:
    return [f"{v:g}" if isinstance(v, float) else str(v) for v in row]


def _cells(table: Table, i: int) -> list[list[str]]:
    """The numbers of one response as text, a list for each of its rows."""
    shown = []
    for values in table.columns.values():
        shared = values.ndim == 1 and table.axes
        one = values if shared else np.atleast_1d(values[i])
        if shared or one.dtype.kind in "iu":
            shown.append(["" if np.isnan(v) else f"{v:g}" for v in one])
        else:
            shown.append([number(float(v)) for v in one])
    return [list(cells) for cells in zip(*shown, strict=True)]


def _measured(table: Table, values: np.ndarray) -> bool:
    """Whether a column holds results of each response."""
    return values.dtype.kind == "f" and (values.ndim == 2 or not table.axes)


def _overview(table: Table, labels: Labels, level: float) -> str:
    """A line for each row of the table: medians over the responses, and how many are significant."""
    m, alpha = labels.size, 1 - level
    columns = {name: table.full(name, m).astype(float) for name in table.columns}
    own = [table.full(name, m) for name, values in table.columns.items() if _measured(table, values)]
    missing = np.isnan(np.stack(own)).all(axis=(0, 2))
    header = [*(table.axes or [""])]
    rows = [_texts(row) or [""] for row in table.rows]
    for name in [name for name in ("estimate", "statistic", "conf_low", "conf_high") if name in columns]:
        two_sided = table.heading(name) in ("t", "z")
        size = np.abs(columns[name]) if two_sided else columns[name]
        header.append(f"Median |{table.heading(name)}|" if two_sided else f"Median {table.heading(name)}")
        for j, row in enumerate(rows):
            there = size[~np.isnan(size[:, j]), j]
            row.append(number(float(np.median(there))) if len(there) else "nan")
    if "pvalue" in columns:
        p = columns["pvalue"]
        adjusted = adjust_pvalues(p, "bh", axis=0)
        header += [f"P < {alpha:.4g}", f"FDR < {alpha:.4g}"]
        for j, row in enumerate(rows):
            row += [str(int((p[:, j] < alpha).sum())), str(int((adjusted[:, j] < alpha).sum()))]
    pairs = [("Responses:", f"{m}{labels}"), ("Without a result:", str(int(missing.sum())))]
    return summary_layout(table.title, pairs, header, rows, table.notes)


def _head(table: Table, labels: Labels) -> str:
    """The first responses."""
    shown = min(max(1, HEAD_ROWS // len(table.rows)), HEAD, labels.size)
    header = ["", *table.axes, *map(table.heading, table.columns)]
    rows = []
    for i in range(shown):
        cells = zip(table.rows, _cells(table, i), strict=True)
        rows += [[labels.names[i], *_texts(row), *numbers] for row, numbers in cells]
    return summary_layout("The first of them", [], header, rows)
