"""The design: fixed-effects matrix, grouping, names. Every ValueError about them is raised here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

__all__ = ["Design", "Grouping", "group_codes", "make_design", "numeric", "response_matrix"]

# Smallest norm, relative to a unit column, of what a column adds to those before it.
RANK_TOL = 1e-10


@dataclass(frozen=True)
class Grouping:
    """One grouping factor.

    Attributes
    ----------
    name : str
    levels : tuple
        The distinct labels: sorted if they can be, else in order of appearance; a pandas
        categorical keeps the order of its categories.
    codes : ndarray of int, (n_obs,)
        Position in ``levels`` of each row's label.
    """

    name: str
    levels: tuple[Any, ...]
    codes: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Number of rows of each level, (n_groups,)."""
        return np.bincount(self.codes, minlength=len(self.levels))


@dataclass(frozen=True)
class Design:
    """What all responses share.

    Attributes
    ----------
    X : ndarray, (n_obs, p)
    names : tuple of str, length p
    random : tuple of Grouping
        Random-intercept terms; empty for ordinary least squares, at most one so far.
    """

    X: np.ndarray
    names: tuple[str, ...]
    random: tuple[Grouping, ...]

    @property
    def n_obs(self) -> int:
        """Number of rows."""
        return self.X.shape[0]

    @property
    def n_fixef(self) -> int:
        """Number of columns of X."""
        return self.X.shape[1]

    @property
    def n_groups(self) -> int:
        """Number of levels of the grouping factor, 0 without one."""
        return len(self.random[0].levels) if self.random else 0


def make_design(X: Any, groups: Any = None, names: Sequence[str] | None = None) -> Design:
    """Check X and groups and freeze them.

    Parameters
    ----------
    X : array-like, (n_obs, p)
        Fixed-effects matrix, used as given: no intercept is added. A data frame brings its
        column names.
    groups : array-like, (n_obs,), optional
        Hashable labels. None: no random effect.
    names : sequence of str, optional
        Names of X's columns. Default: the data frame's, or x0, x1, ...

    Raises
    ------
    ValueError
        Wrong shapes, non-numeric or non-finite X, rank-deficient X (the columns are named),
        duplicate names, NaN in groups, fewer than 2 groups, as many groups as rows, n <= p.
    """
    own = getattr(X, "columns", None)
    if names is None and own is not None:
        names = [str(c) for c in own]
    matrix = np.array(numeric(X, "X"), dtype=np.float64)
    if matrix.ndim != 2:
        hint = "; for one covariate use X[:, None]" if matrix.ndim == 1 else ""
        raise ValueError(f"X must have 2 dimensions (n_obs, p), found shape {matrix.shape}{hint}.")
    n, p = matrix.shape
    if p == 0:
        raise ValueError(f"X has no columns (shape {matrix.shape}); give at least an intercept, np.ones((n, 1)).")
    names = tuple(f"x{j}" for j in range(p)) if names is None else tuple(str(v) for v in names)
    if len(names) != p:
        raise ValueError(f"names has {len(names)} entries, X has {p} columns.")
    duplicates = sorted({v for v in names if names.count(v) > 1})
    if duplicates:
        raise ValueError(f"names must be distinct; found more than once: {', '.join(duplicates)}.")
    bad = np.argwhere(~np.isfinite(matrix))
    if len(bad):
        row, col = (int(v) for v in bad[0])
        raise ValueError(
            f"X holds {len(bad)} NaN or infinite values, the first in row {row}, column "
            f"'{names[col]}'; drop these rows from X, Y and groups."
        )
    if n <= p:
        raise ValueError(f"X has {n} rows for {p} columns; need more observations than fixed effects.")
    _check_rank(matrix, names)
    random: tuple[Grouping, ...] = ()
    if groups is not None:
        random = (make_grouping(groups, n, p),)
    return Design(matrix, names, random)


def make_grouping(groups: Any, n: int, p: int) -> Grouping:
    """Codes and levels of one grouping factor, checked against a design of n rows and p columns."""
    name = str(getattr(groups, "name", None) or "group")
    codes, levels = _factorize(groups)
    if codes.shape != (n,):
        raise ValueError(f"groups has shape {codes.shape}, X has {n} rows; need one label a row.")
    if len(levels) < 2:
        raise ValueError(
            f"groups has {len(levels)} distinct label(s); a random intercept needs at least 2. "
            "Use groups=None for a model without it."
        )
    if len(levels) == n:
        raise ValueError(
            f"groups has a label of its own for each of the {n} rows, so the group variance and the "
            "residual variance cannot be told apart; use groups=None or a coarser grouping."
        )
    return Grouping(name, levels, codes)


def group_codes(grouping: Grouping, groups: Any) -> np.ndarray:
    """Position in ``grouping.levels`` of each new label, -1 where it is unknown or missing."""
    table = {label: code for code, label in enumerate(grouping.levels)}
    values = getattr(groups, "to_list", lambda: np.asarray(groups).tolist())()
    return np.array([table.get(v, -1) for v in values], dtype=np.intp)


def response_matrix(Y: Any, n_obs: int, names: Sequence[str] | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Y as a (n_obs, m) real array (not copied if it is one already) and the responses' names."""
    own = getattr(Y, "columns", None)
    if own is None and getattr(Y, "name", None) is not None:
        own = [Y.name]
    if isinstance(Y, np.ma.MaskedArray):
        Y = Y.astype(float).filled(np.nan)
    matrix = numeric(Y, "Y")
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2:
        raise ValueError(
            f"Y must have shape (n_obs,) or (n_obs, m), found {matrix.shape}; "
            "use Y.reshape(len(Y), -1) to make every other axis a response."
        )
    if matrix.shape[0] != n_obs:
        hint = "; it looks transposed, try Y.T" if matrix.shape[1] == n_obs else ""
        raise ValueError(f"Y has {matrix.shape[0]} rows, X has {n_obs}{hint}.")
    m = matrix.shape[1]
    if m == 0:
        raise ValueError("Y has no columns, so there is nothing to fit.")
    if names is None:
        if own is not None:
            names = [str(c) for c in own]
        else:
            return matrix, ()
    names = tuple(str(v) for v in names)
    if len(names) != m:
        raise ValueError(f"response_names has {len(names)} entries, Y has {m} columns.")
    if len(set(names)) != m:
        seen: set[str] = set()
        first = next(v for v in names if v in seen or seen.add(v))  # type: ignore[func-returns-value]
        raise ValueError(f"response names must be distinct; '{first}' is found more than once.")
    return matrix, names


def numeric(value: Any, what: str) -> np.ndarray:
    """``value`` as a real array; real numbers of any type stay as they are."""
    array = np.asarray(value)
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind == "O":
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError):
            pass
    raise ValueError(
        f"{what} must be numeric, found dtype {array.dtype}"
        + _first_non_number(array)
        + f"; convert {what} to floats first."
    )


def _first_non_number(array: np.ndarray) -> str:
    for index, v in np.ndenumerate(array):
        try:
            float(v)
        except (TypeError, ValueError):
            return f" (the first that is no number: {v!r} at {tuple(int(i) for i in index)})"
    return ""


def _check_rank(X: np.ndarray, names: tuple[str, ...]) -> None:
    norms = np.linalg.norm(X.astype(np.float64), axis=0)
    zero = [names[j] for j in np.flatnonzero(norms == 0)]
    if zero:
        raise ValueError(f"X is rank deficient: these columns are all zero: {', '.join(zero)}; drop them.")
    unit = X / norms
    _, R, order = scipy.linalg.qr(unit, mode="economic", pivoting=True, check_finite=False)
    independent = int(np.sum(np.abs(np.diag(R)) > RANK_TOL))
    if independent == X.shape[1]:
        return
    keep, drop = order[:independent], order[independent:]
    weights = scipy.linalg.solve_triangular(R[:independent, :independent], R[:independent, independent:])
    parts = []
    for k, j in enumerate(drop):
        used = [names[keep[i]] for i in np.flatnonzero(np.abs(weights[:, k]) > 1e-8)]
        parts.append(f"'{names[j]}' is a combination of {', '.join(repr(u) for u in used)}")
    raise ValueError(
        f"X is rank deficient ({independent} independent columns of {X.shape[1]}): "
        + "; ".join(parts)
        + "; drop a column of each set."
    )


def _factorize(groups: Any) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Codes and levels; pandas categoricals, numpy arrays and sequences of hashables."""
    categorical = getattr(groups, "cat", groups)
    if hasattr(categorical, "categories") and hasattr(categorical, "codes"):
        codes = np.asarray(categorical.codes)
        _no_missing(codes < 0)
        used = np.unique(codes)
        levels = tuple(np.asarray(categorical.categories, dtype=object)[used])
        return np.searchsorted(used, codes), levels
    if isinstance(groups, (list, tuple)):
        array = np.empty(len(groups), dtype=object)
        array[:] = [v.item() if isinstance(v, np.generic) else v for v in groups]
        kinds = {type(v) for v in groups}
        if kinds <= {int} or kinds <= {str} or kinds <= {float}:
            array = np.asarray(groups)
    else:
        array = np.asarray(groups)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"groups must have shape (n_obs,), found {array.shape}; one grouping factor only.")
    if array.dtype.kind != "O":
        if array.dtype.kind in "fc":
            _no_missing(np.isnan(array))
        if array.dtype.kind in "mM":
            _no_missing(np.isnat(array))
        values, codes = np.unique(array, return_inverse=True)
        return codes.reshape(-1), tuple(values.tolist())
    _no_missing(np.array([_is_missing(v) for v in array.tolist()], dtype=bool))
    table: dict[Any, int] = {}
    try:
        codes = np.array([table.setdefault(v, len(table)) for v in array.tolist()])
    except TypeError as error:
        raise ValueError(f"groups must hold hashable labels: {error}.") from None
    try:
        levels = tuple(sorted(table))
    except TypeError:
        return codes, tuple(table)
    position = np.empty(len(levels), dtype=np.intp)
    for rank, label in enumerate(levels):
        position[table[label]] = rank
    return position[codes], levels


def _is_missing(label: Any) -> bool:
    try:
        return label is None or bool(label != label)
    except (TypeError, ValueError):  # pandas.NA has no truth value
        return True


def _no_missing(missing: np.ndarray) -> None:
    if missing.any():
        raise ValueError(
            f"groups holds {int(missing.sum())} missing labels, the first in row "
            f"{int(np.flatnonzero(missing)[0])}; drop these rows from X, Y and groups."
        )
