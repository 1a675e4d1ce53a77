"""Long tables, a row per observation and response: which observation and which response each row is.

A response is a combination of the columns ``by``. An observation is what has one set of covariates and groups; the
user says by which columns it is known, or its covariates and groups do. What cannot be decided is an error.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jaxlmm.formula.data import find_columns
from jaxlmm.formula.design import ReadFormula, read_formula
from jaxlmm.formula.formula import named_response
from jaxlmm.formula.suspect import refuse_twins
from jaxlmm.runtime.arguments import name_list, shown
from jaxlmm.sources.table import as_frame, plain_column
from jaxlmm.tabular.dataset import RESERVED
from jaxlmm.tabular.labels import Coord, Labels

__all__ = ["Spread", "spread"]

# Values of a column of ``by`` that are closer than this share of their size are one value with roundings.
ROUNDING = 1e-9
# A table of responses that is larger than this, and has few rows in it, is not what anybody means.
MOST_BYTES, SPARSEST = 2**30, 50


@dataclass(frozen=True, eq=False)
class Spread:
    """A long table with a row per observation, and beside it its responses.

    Attributes
    ----------
    frame : DataFrame, n_obs rows
        The columns that the model uses, in the order in which the observations first stand in the table.
    values : ndarray, (n_obs, *shape)
        NaN where the table has no row.
    labels : Labels
        Of the responses: a dimension for each column of ``by``.
    weights : ndarray, (n_obs,) or the shape of ``values``, or None
        The former if all responses share them.
    """

    frame: Any
    values: np.ndarray
    labels: Labels
    weights: np.ndarray | None


@dataclass(frozen=True, eq=False)
class _Cells:
    """The combinations of ``by``: the one of each row, (rows,), and their labels."""

    codes: np.ndarray
    labels: Labels

    @property
    def m(self) -> int:
        """Number of combinations."""
        return self.labels.size

    def at(self, row: int) -> str:
        """The combination of a row, for messages."""
        places = np.unravel_index(self.codes[row], self.labels.shape)
        named = zip(self.labels.dims, places, strict=True)
        return ", ".join(f"{dim}={_text(self.labels.coords[dim].values[k])}" for dim, k in named)


def spread(
    formula: str,
    data: Any,
    by: str | Sequence[str],
    *,
    obs: str | Sequence[str] | None = None,
    response: str | None = None,
    weights: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> Spread:
    """A long table as responses.

    Parameters
    ----------
    formula : str
        As in :func:`jaxlmm.lmm`.
    data : DataFrame, or what makes one
    by : str or sequence of str
        Columns whose combinations are the responses. Numbers and times are sorted, categories keep their order, text
        stands in the order in which it first appears.
    obs : str or sequence of str, optional
        Columns that tell observations apart. Without them the columns that the model uses do; see Notes.
    response : str, optional
        The column of the values, if the formula names none.
    weights : str, optional
        Column of the weights.
    context : mapping, optional

    Raises
    ------
    ValueError
        Two rows of one observation and response; covariates or groups that differ between the responses of one
        observation; observations that cannot be told apart; columns that are not there, or that stand for two things.

    Notes
    -----
    Without ``obs`` rows with the same covariates and groups are the same observation where every combination has each
    of them at most once, and one combination has all of them: the others miss what they have not. Where a combination
    has some of them twice (trials that were repeated), all combinations must hold the same rows in the same order,
    and the k-th row of each is the k-th observation. Rows with the same covariates and groups are exchangeable in the
    model of one response, so the fit of each response does not depend on which is which.
    """
    frame, given = as_frame(data), dict(context or {})
    if not len(frame):
        raise ValueError("data has no rows, so there is nothing to fit; look at what selected them.")
    by, obs = _columns(by, frame, "by"), _columns(obs, frame, "obs")
    if not by:
        raise ValueError("by names no column; give those whose combinations are the responses, or leave it out.")
    read = read_formula(formula, frame, given)
    used = list(dict.fromkeys([*read.used(frame, given, formula), *read.group_columns]))
    find_columns(read.group_columns, frame, f"formula '{formula}' groups by")
    if weights is not None:
        find_columns([weights], frame, "weights names")
    _refuse_two_roles(formula, by, obs, used, weights)
    y, own = named_response(formula, read, frame, given, response)
    twice = [name for name in (*by, *obs, *used) if name in own]
    if twice:
        raise ValueError(f"column {twice[0]!r} holds the response, and by, obs or the right side of the formula too.")
    cells = _cells(frame, by)
    _refuse_whole_columns(formula, read, frame, given, response, y, cells)
    others = [name for name in frame.columns if name not in (*by, *used, *own, weights)]
    keys, named = _observations(frame, cells, used, obs, others)
    _refuse_twice(frame, cells, keys, named, used, others)
    _refuse_different(frame, cells, keys, named, used)
    n, m = int(keys.max()) + 1, cells.m
    _refuse_sparse(n, m, frame, cells)
    first = np.unique(keys, return_index=True)[1]
    kept = list(dict.fromkeys([*used, *obs]))
    values = np.full((n, m), np.nan, dtype=y.dtype if y.dtype.kind == "f" else np.float64)
    values[keys, cells.codes] = y
    return Spread(
        frame[kept].iloc[first].reset_index(drop=True),
        values.reshape(n, *cells.labels.shape),
        cells.labels,
        None if weights is None else _weights(plain_column(frame[weights]), keys, cells, n),
    )


def _columns(names: Any, frame: Any, what: str) -> tuple[str, ...]:
    found = name_list(names, what)
    find_columns(found, frame, f"{what} names")
    twice = [name for name in found if found.count(name) > 1]
    if twice:
        raise ValueError(f"{what} names {twice[0]!r} twice; leave one out.")
    return found


def _refuse_two_roles(
    formula: str, by: Sequence[str], obs: Sequence[str], used: Sequence[str], weights: str | None
) -> None:
    """Each column has one part."""
    for name in by:
        if name in used:
            raise ValueError(
                f"formula '{formula}' uses {name!r}, which by names too: each response has one value of it, so it "
                "cannot be in the model; leave it out of one of them."
            )
        if name in obs or name == weights:
            raise ValueError(f"by and {'obs' if name in obs else 'weights'} both name {name!r}; leave one out.")
        if name in RESERVED:
            raise ValueError(f"by names {name!r}, which the results use; rename the column.")


def _cells(frame: Any, by: Sequence[str]) -> _Cells:
    """The response of each row."""
    codes: list[np.ndarray] = []
    coords: dict[Hashable, Coord] = {}
    for name in by:
        code, levels = _levels(plain_column(frame[name]), name)
        codes.append(code)
        coords[name] = Coord((name,), levels)
    shape = tuple(len(coords[name].values) for name in by)
    return _Cells(np.ravel_multi_index(codes, shape), Labels(tuple(by), shape, coords))


def _levels(column: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The label of each row of a column of ``by``, as a position, and the labels in their order."""
    missing = np.flatnonzero(column.isna().to_numpy())
    if len(missing):
        raise ValueError(
            f"column '{name}' of by has {len(missing)} missing value{'s' * (len(missing) > 1)}, the first in row "
            f"{missing[0]}: it must say which response a row belongs to; fill it, or drop these rows from the data."
        )
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.cat.remove_unused_categories()
        return column.cat.codes.to_numpy().astype(np.intp), _labels(column.cat.categories.to_numpy(), name)
    values = column.to_numpy()
    if values.dtype.kind == "O":
        codes, levels = pd.factorize(values)
        return codes, _labels(levels, name)
    levels, codes = np.unique(values, return_inverse=True)
    if levels.dtype.kind == "f":
        close = np.flatnonzero(np.diff(levels) <= ROUNDING * np.abs(levels).max())
        if len(close):
            raise ValueError(
                f"column '{name}' of by holds {_text(levels[close[0]])} and {_text(levels[close[0] + 1])}, which "
                f"differ by a rounding and would be two responses; round it before, such as data['{name}'].round(6)."
            )
    return codes.reshape(-1), levels


def _labels(levels: np.ndarray, name: str) -> np.ndarray:
    """Labels in an array of one type."""
    if levels.dtype.kind != "O":
        return levels
    if all(isinstance(level, str) for level in levels):
        refuse_twins(levels.tolist(), name, f"data['{name}']")
        return np.array(list(levels), dtype=np.str_)
    kinds = " and ".join(sorted({type(level).__name__ for level in levels}))
    raise ValueError(f"column '{name}' of by holds {kinds} objects; make it numbers or text.")


# -- which observation a row is ------------------------------------------------------------------


def _observations(
    frame: Any, cells: _Cells, used: Sequence[str], obs: Sequence[str], others: Sequence[str]
) -> tuple[np.ndarray, Sequence[str]]:
    """The observation of each row, numbered as they first appear, and the columns that say so, for messages."""
    if obs:
        for name in obs:
            rows = np.flatnonzero(frame[name].isna().to_numpy())
            if len(rows):
                raise ValueError(
                    f"column '{name}' of obs has {len(rows)} missing value{'s' * (len(rows) > 1)}, the first in row "
                    f"{rows[0]}: it must say which observation a row belongs to; fill it, or drop these rows."
                )
        return _coded(frame, obs), obs
    keys = _coded(frame, used)
    if pd.Series(keys * cells.m + cells.codes).duplicated().any():
        return _in_order(frame, cells, keys, used, others), ()
    n = int(keys.max()) + 1
    if np.bincount(cells.codes).max() < n:
        raise ValueError(
            f"no combination of {_listed(cells.labels.dims)} has all {n} sets of values of {_listed(used)} that the "
            "data have, so rows that are missing cannot be told from covariates that differ between the responses; "
            f"say which columns tell observations apart, such as obs={_as_given(used)}."
        )
    return keys, used


def _in_order(frame: Any, cells: _Cells, keys: np.ndarray, used: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """The k-th row of each combination is the k-th observation, where they all hold the same rows."""
    order = np.argsort(cells.codes, kind="stable")
    counts = np.bincount(cells.codes)
    counts = counts[counts > 0]
    by = _listed(cells.labels.dims)
    several = f"several rows of one combination of {by} have the same {_listed(used)}"
    if not used:
        several = f"the model has no column that tells the rows of one combination of {by} apart"
    rows = order.reshape(len(counts), -1) if (counts == counts[0]).all() else None
    if rows is None or not (keys[rows] == keys[rows[0]]).all():
        how = "not all combinations have as many rows" if rows is None else "not all have them in the same order"
        hint = _would_do(frame, cells, used, others)
        raise ValueError(f"{several}, and {how}; say which columns tell observations apart, obs=[...]{hint}.")
    for name in others:
        labels = _coded(frame, [name])[rows]
        if not (labels == labels[0]).all() and (np.sort(labels, axis=1) == np.sort(labels[0])).all():
            raise ValueError(
                f"{several}, and column '{name}' holds the same values in each combination in another order; say "
                f"which columns tell observations apart, obs=[...]{_would_do(frame, cells, used, others)}, or leave "
                f"'{name}' out of the data if it says nothing about them."
            )
    found = np.empty(len(frame), dtype=np.intp)
    found[rows] = np.arange(rows.shape[1])
    return found


def _would_do(frame: Any, cells: _Cells, used: Sequence[str], others: Sequence[str]) -> str:
    """A column that could tell observations apart, alone or beside those of the model, for a message."""
    for name in others:
        for names in ([name], [*used[-1:], name], [*used, name]):
            keys = _coded(frame, names)
            once = not pd.Series(keys * cells.m + cells.codes).duplicated().any()
            if once and int(keys.max()) + 1 < len(frame):
                return f", perhaps obs={_as_given(names)}"
    return ""


def _coded(frame: Any, names: Sequence[str]) -> np.ndarray:
    """Sets of values of some columns as numbers, in the order in which they first appear; missing is a value."""
    keys = np.zeros(len(frame), dtype=np.intp)
    for name in names:
        column = frame[name]
        values = column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column
        codes, levels = pd.factorize(values, use_na_sentinel=False)
        keys = pd.factorize(keys * max(len(levels), 1) + codes)[0]
    return np.asarray(keys, dtype=np.intp)


# -- what is refused -------------------------------------------------------------------------------


def _refuse_twice(
    frame: Any, cells: _Cells, keys: np.ndarray, named: Sequence[str], used: Sequence[str], others: Sequence[str]
) -> None:
    """Two rows of one observation and response."""
    both = pd.Series(keys * cells.m + cells.codes)
    again = np.flatnonzero(both.duplicated().to_numpy())
    if not len(again):
        return
    b = int(again[0])
    a = int(np.flatnonzero(both.to_numpy() == both[b])[0])
    tells, more = (
        [v for v in names if v not in named and frame[v].iloc[a] != frame[v].iloc[b]] for names in (used, others)
    )
    apart = f"obs={_as_given([*named, *tells])}" if tells else "obs=[...]"
    if more and not tells:
        apart += f" (they differ in {_listed(more[:2])}, or does that belong into by?)"
    number = f" ({len(again)} such rows)" if len(again) > 1 else ""
    raise ValueError(
        f"rows {a} and {b} of data are both observation {_known(frame, named, a)} at {cells.at(a)}{number}; leave "
        f"one out or average them, or if they are two observations say what tells them apart, {apart}."
    )


def _refuse_different(frame: Any, cells: _Cells, keys: np.ndarray, named: Sequence[str], used: Sequence[str]) -> None:
    """A covariate or group that differs between the responses of one observation."""
    first = np.unique(keys, return_index=True)[1][keys]
    for name in used:
        codes = _coded(frame, [name])
        other = np.flatnonzero(codes != codes[first])
        if len(other):
            b = int(other[0])
            a = int(first[b])
            column = frame[name]
            raise ValueError(
                f"column '{name}' differs between the responses of observation {_known(frame, named, b)}: "
                f"{_text(column.iloc[a])} at {cells.at(a)} (row {a}), {_text(column.iloc[b])} at {cells.at(b)} (row "
                f"{b}). All responses of an observation have the same covariates and groups; mend the data, or name "
                "in obs what else tells observations apart."
            )


def _refuse_sparse(n: int, m: int, frame: Any, cells: _Cells) -> None:
    if n * m * 8 > MOST_BYTES and n * m > SPARSEST * len(frame):
        sizes = ", ".join(f"{dim}: {size}" for dim, size in zip(cells.labels.dims, cells.labels.shape, strict=True))
        raise ValueError(
            f"data has {len(frame)} rows for {n} observations of {m} responses ({sizes}), which would fill "
            f"{n * m * 8 / 2**30:.3g} GB with missing values; is there a column in by that numbers the rows?"
        )


def _refuse_whole_columns(
    formula: str, read: ReadFormula, frame: Any, context: Mapping[str, Any], response: str | None, y: np.ndarray,
    cells: _Cells,
) -> None:  # fmt: skip
    """A response that is computed of whole columns would be one for all responses together."""
    if read.responses is None or read.responses[0][1].strip("`") in frame.columns:
        return
    rows = np.flatnonzero(cells.codes == cells.codes[0])
    alone = named_response(formula, read, frame.iloc[rows], context, response)[0]
    if not np.allclose(alone, y[rows], rtol=1e-12, atol=0, equal_nan=True):
        raise ValueError(
            f"the response '{read.responses[0][0]}' is computed of whole columns, which with by= would be all "
            "responses together; compute it within each response before."
        )


def _weights(column: Any, keys: np.ndarray, cells: _Cells, n: int) -> np.ndarray:
    """Weights of the observations, or of each response's own where they differ between the responses."""
    w = np.asarray(column, dtype=np.float64)
    first = np.unique(keys, return_index=True)[1]
    if np.array_equal(w, w[first][keys], equal_nan=True):
        return w[first]
    own = np.full((n, cells.m), np.nan)
    own[keys, cells.codes] = w
    return own.reshape(n, *cells.labels.shape)


# -- words ---------------------------------------------------------------------------------------


def _known(frame: Any, names: Sequence[str], row: int) -> str:
    return ", ".join(f"{name}={_text(frame[name].iloc[row])}" for name in names) or str(row)


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(repr(name) for name in names)


def _as_given(names: Sequence[str]) -> str:
    return repr(names[0]) if len(names) == 1 else f"[{_listed(names)}]"


def _text(value: Any) -> str:
    return shown(value.item() if isinstance(value, np.generic) else value)
