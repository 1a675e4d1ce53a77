"""Group labels: anything with one label per row becomes codes and levels. Errors about them are raised here."""

from __future__ import annotations

import collections
import datetime
import numbers
from typing import Any

import numpy as np

from jaxlmm.design.arrays import numeric
from jaxlmm.design.random import RandomTerm, intercept_term, make_random_term
from jaxlmm.runtime.arguments import check_concrete
from jaxlmm.sources.maps import in_memory

__all__ = ["group_codes", "labels_of", "make_grouping", "missing_labels", "random_term"]

# What missing labels turn into when a column that holds some is made text.
MISSING_TEXT = ("nan", "NaN", "<NA>", "NaT")


def make_grouping(groups: Any, n: int, *, name: str | None = None, term: str | None = None) -> RandomTerm:
    """The random intercept of one grouping factor of a design with n rows.

    Levels are the distinct labels: sorted if they can be, else in order of appearance; a pandas categorical
    keeps the order of its categories. Messages name the ``term`` of the formula, if it is one's.

    Raises
    ------
    ValueError
        Not one hashable label per row, missing labels, fewer than 2 groups, as many groups as rows.
    """
    name = str(name if name is not None else getattr(groups, "name", None) or "group")
    labels = labels_of(groups, "groups")
    if len(labels) != n:
        raise ValueError(f"groups has {len(labels)} labels, X has {n} rows; need one label per row.")
    _no_missing(labels)
    codes, levels = _factorize(groups, labels)
    if len(levels) < 2:
        if term is not None:
            raise ValueError(
                f"random term {term}: '{name}' has 1 level ({levels[0]!r}); a random term needs at least 2. "
                "Drop the term."
            )
        raise ValueError(
            f"groups has 1 distinct label ({levels[0]!r}); a random intercept needs at least 2. "
            "Use groups=None for a model without it."
        )
    if len(levels) == n:
        if term is not None:
            raise ValueError(
                f"random term {term}: '{name}' has a level of its own for each of the {n} rows, so its variance and "
                "the residual variance cannot be told apart; drop the term, or use a coarser grouping."
            )
        raise ValueError(
            f"groups has a label of its own for each of the {n} rows, so the group variance and the "
            "residual variance cannot be told apart; use groups=None or a coarser grouping."
        )
    return intercept_term(name, levels, codes)


def group_codes(grouping: RandomTerm, groups: Any) -> np.ndarray:
    """Position in ``grouping.levels`` of each new label, -1 where it is unknown or missing.

    Raises
    ------
    ValueError
        Not one hashable label per row; labels of another type than the levels that read the same,
        as '1' and 1, which must not pass for unknown.
    """
    table = {label: code for code, label in enumerate(grouping.levels)}
    labels = labels_of(groups, "groups_new").tolist()
    try:
        codes = np.array([table.get(v, -1) for v in labels], dtype=np.intp)
    except TypeError as error:
        raise ValueError(f"groups_new must hold hashable labels: {error}.") from None
    if (codes < 0).any():
        by_text = {str(label): label for label in grouping.levels}
        for row in np.flatnonzero(codes < 0):
            known = by_text.get(str(labels[row]))
            if known is not None:
                raise ValueError(
                    f"groups_new has the label {labels[row]!r} ({type(labels[row]).__name__}) in row {row}, where "
                    f"the fit's groups have {known!r} ({type(known).__name__}); give labels of the same type."
                )
    return codes


def labels_of(groups: Any, what: str) -> np.ndarray:
    """The labels, (n,): numbers and text as an array of their type, all else as Python objects."""
    check_concrete(groups, what)
    if isinstance(groups, (str, bytes)):
        raise ValueError(
            f"{what} is the text {groups!r}; give the labels themselves, one per row, such as data[{groups!r}]."
        )
    if isinstance(groups, np.ma.MaskedArray):
        array = np.array(groups.data, dtype=object)
        array[np.ma.getmaskarray(groups)] = None
    elif isinstance(groups, (list, tuple)):
        array = np.empty(len(groups), dtype=object)
        for i, v in enumerate(groups):  # one by one: labels may be tuples
            array[i] = v
    else:
        try:
            array = in_memory(np.asarray(groups))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what} cannot be made into an array of labels: {error}") from None
    if array.ndim == 0:
        raise ValueError(f"{what} is one {type(groups).__name__}; give an array or list of labels, one per row.")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f"{what} must have shape (n_obs,), found {array.shape}; there is one grouping factor only, "
            "so join several columns into one label per row."
        )
    kind = array.dtype.kind
    if kind == "V" and array.dtype.names is None:  # JAX's small floats
        return array.astype(np.float64)
    if kind in "mM":
        return _dates(array, what)
    if kind == "O":
        whole = np.empty(len(array), dtype=object)
        for i, v in enumerate(array):
            small = isinstance(v, np.generic)
            whole[i] = (_dates(np.array([v]), what)[0] if v.dtype.kind in "mM" else v.item()) if small else v
        return whole
    return array if kind in "biufcSU" else array.astype(object)


def _dates(array: np.ndarray, what: str) -> np.ndarray:
    """datetime64 or timedelta64 as Python's objects: equal, with equal hashes, whatever the unit was."""
    unit = f"{array.dtype.kind}8[us]"
    micro = array.astype(unit)
    if not np.all((micro == array) | np.isnat(array)):
        raise ValueError(f"{what} holds times finer than microseconds; turn them into text first.")
    return micro.astype(object)


def _factorize(groups: Any, labels: np.ndarray) -> tuple[np.ndarray, tuple[Any, ...]]:
    categorical = getattr(groups, "cat", groups)
    if hasattr(categorical, "categories") and hasattr(categorical, "codes"):
        used, codes = np.unique(np.asarray(categorical.codes), return_inverse=True)
        return codes.reshape(-1), tuple(labels_of(categorical.categories, "groups")[used].tolist())
    if labels.dtype.kind != "O":
        values, codes = np.unique(labels, return_inverse=True)
        return codes.reshape(-1), tuple(values.tolist())
    table: dict[Any, int] = collections.defaultdict(lambda: len(table))
    try:
        codes = np.array([table[v] for v in labels.tolist()], dtype=np.intp)
    except TypeError as error:
        raise ValueError(f"groups must hold hashable labels: {error}; tuples and text are.") from None
    try:
        levels = tuple(sorted(table))
    except TypeError:
        return codes, tuple(table)
    position = np.empty(len(levels), dtype=np.intp)
    for rank, label in enumerate(levels):
        position[table[label]] = rank
    return position[codes], levels


def missing_labels(labels: np.ndarray) -> np.ndarray:
    """Which labels are missing, (n,) of bool."""
    if labels.dtype.kind in "fc":
        return np.isnan(labels)
    if labels.dtype.kind == "O":
        return np.array([_is_missing(v) for v in labels.tolist()], dtype=bool)
    return np.isin(labels, MISSING_TEXT) if labels.dtype.kind == "U" else np.zeros(len(labels), dtype=bool)


def _no_missing(labels: np.ndarray) -> None:
    missing = missing_labels(labels)
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise ValueError(
            f"groups holds {int(missing.sum())} missing labels, the first ({labels[row]!s}) in row {row}; "
            "drop these rows from X, Y and groups, or say na='drop'."
        )


def _is_missing(label: Any) -> bool:
    if isinstance(label, tuple):
        return any(_is_missing(part) for part in label)
    if label is None or label is np.ma.masked or type(label).__name__ == "NAType":
        return True
    if isinstance(label, str):
        return label in MISSING_TEXT
    # A NaN of any type, and pandas.NaT, differ from themselves.
    return isinstance(label, (numbers.Number, datetime.datetime)) and label != label


def random_term(groups: Any, Z: Any = None, *, columns: Any = None, name: str | None = None) -> RandomTerm:
    """A random term for ``jaxlmm.fit(X, Y, random=[...])``: effects that vary between the levels of a factor.

    Parameters
    ----------
    groups : array-like, (n_obs,)
        Labels of the levels.
    Z : array-like, (n_obs, r), optional
        Columns whose effects vary; their covariance is estimated. Default: a random intercept. An intercept beside
        slopes is a column of ones: ``Z = np.column_stack([np.ones(n), x])``.
    columns : sequence of str, optional
        Names of the columns of Z. Default: the data frame's, or "(Intercept)" for ones and z0, z1, ...
    name : str, optional
        Of the factor. Default: the name of ``groups`` if it has one, else "group".

    Returns
    -------
    RandomTerm

    Raises
    ------
    ValueError
        Bad labels, a column that is not finite, all zero, constant within all levels beside an intercept, or a
        combination of the others.

    Examples
    --------
    lme4's ``(1 + days | subject) + (1 | item)``::

        Z = np.column_stack([np.ones(n), days])
        random_term(subject, Z, columns=["(Intercept)", "days"], name="subject")
        random_term(item, name="item")
    """
    given = columns if columns is not None else getattr(Z, "columns", None)
    if Z is None:
        matrix = None
    else:
        matrix = np.array(numeric(Z, "Z"), dtype=np.float64)
        if matrix.ndim == 1:
            matrix = matrix[:, None]
    labels = labels_of(groups, "groups")
    _no_missing(labels)
    codes, levels = _factorize(groups, labels)
    called = str(name if name is not None else getattr(groups, "name", None) or "group")
    return make_random_term(called, levels, codes, matrix, None if given is None else [str(c) for c in given])
