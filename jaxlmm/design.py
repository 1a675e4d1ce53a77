"""The design: fixed-effects matrix, grouping, names. Errors about X, Y and names are raised here."""

from __future__ import annotations

import collections
import decimal
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse

from jaxlmm.labels import Grouping, group_codes, make_grouping
from jaxlmm.terms import TermStructure

__all__ = ["Design", "Grouping", "checked_design", "group_codes", "make_design", "numeric", "response_matrix"]

# Smallest norm, relative to a unit column, of what a column adds to those before it.
RANK_TOL = 1e-10
# Columns of X outside this range would overflow or underflow in squares and covariances.
X_SMALLEST, X_LARGEST = 1e-100, 1e100


@dataclass(frozen=True)
class Design:
    """What all responses share.

    Attributes
    ----------
    X : ndarray, (n_obs, p)
    names : tuple of str, length p
    random : tuple of Grouping
        Random-intercept terms; empty for ordinary least squares, at most one so far.
    weights : ndarray, (n_obs,), or None
        Precisions of the observations: the residual variance of row i is sigma2 / weights[i].
    terms : TermStructure or None
        Which columns make a term, for ``anova`` and ``emmeans``.
    """

    X: np.ndarray
    names: tuple[str, ...]
    random: tuple[Grouping, ...]
    weights: np.ndarray | None = None
    terms: TermStructure | None = None

    def take(self, rows: np.ndarray) -> Design:
        """The design of some rows, checked again; groups without a row are left out."""
        groups = None
        if self.random:
            grouping = self.random[0]
            codes = grouping.codes[rows]
            present = np.unique(codes)
            groups = Grouping(
                grouping.name, tuple(grouping.levels[j] for j in present), np.searchsorted(present, codes)
            )
        weights = None if self.weights is None else self.weights[rows]
        return checked_design(self.X[rows], self.names, groups, weights, self.terms)

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


def make_design(
    X: Any,
    groups: Any = None,
    names: Sequence[str] | None = None,
    weights: Any = None,
    terms: TermStructure | None = None,
) -> Design:
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
    weights : array-like, (n_obs,), optional
        Positive precisions of the observations.
    terms : TermStructure, optional

    Raises
    ------
    ValueError
        Wrong shapes, non-numeric or non-finite X, rank-deficient X (the columns are named),
        duplicate names, n <= p, bad groups (see ``make_grouping``), and designs that leave no
        degrees of freedom to one of the variances.
    """
    if names is None:
        names = getattr(X, "columns", None)
    matrix = np.array(numeric(X, "X"), dtype=np.float64)
    if matrix.ndim != 2:
        hint = "; for one covariate use X[:, None]" if matrix.ndim == 1 else ""
        raise ValueError(f"X must have 2 dimensions (n_obs, p), found shape {matrix.shape}{hint}.")
    n, p = matrix.shape
    if p == 0:
        raise ValueError(f"X has no columns (shape {matrix.shape}); give at least an intercept, np.ones((n, 1)).")
    names = tuple(f"x{j}" for j in range(p)) if names is None else _distinct(names, p, "names", "X")
    bad = np.argwhere(~np.isfinite(matrix))
    if len(bad):
        row, col = (int(v) for v in bad[0])
        raise ValueError(
            f"X holds {len(bad)} NaN or infinite values, the first in row {row}, column "
            f"'{names[col]}'; drop these rows from X, Y and groups."
        )
    _check_rows(n, p)
    grouping = None if groups is None else make_grouping(groups, n)
    return checked_design(matrix, names, grouping, _checked_weights(weights, n), terms)


def checked_design(
    X: np.ndarray,
    names: tuple[str, ...],
    grouping: Grouping | None,
    weights: np.ndarray | None,
    terms: TermStructure | None,
) -> Design:
    """A design whose estimates exist: of full rank, with degrees of freedom for every variance."""
    n, p = X.shape
    _check_rows(n, p)
    unit = _unit_columns(X, names)
    _check_rank(unit, names)
    if grouping is not None:
        if len(grouping.levels) < 2:
            raise ValueError("a random intercept needs at least 2 groups.")
        _check_identifiable(unit, grouping)
    return Design(X, names, () if grouping is None else (grouping,), weights, terms)


def _check_rows(n: int, p: int) -> None:
    if n <= p:
        raise ValueError(f"X has {n} rows for {p} columns; need more rows (observations) than columns.")


def _checked_weights(weights: Any, n: int) -> np.ndarray | None:
    if weights is None:
        return None
    values = np.array(numeric(weights, "weights"), dtype=np.float64)
    if values.shape != (n,):
        raise ValueError(f"weights has shape {values.shape}, X has {n} rows; need one weight a row.")
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        raise ValueError(
            f"weights must be positive and finite, found {values[bad[0]]} in row {bad[0]} ({len(bad)} such rows); "
            "drop the rows that are not to count."
        )
    return values


def response_matrix(Y: Any, n_obs: int, names: Sequence[str] | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Check Y against a design of ``n_obs`` rows.

    Parameters
    ----------
    Y : array-like, (n_obs,) or (n_obs, m)
        NaN, None, pandas.NA and masked values make a response that is not fitted.
    n_obs : int
    names : sequence of str, optional
        Names of the responses. Default: the data frame's or series' own.

    Returns
    -------
    matrix : ndarray, (n_obs, m)
        Real; not copied if Y is a real array already.
    names : tuple of str
        Empty if there are none.

    Raises
    ------
    ValueError
        Wrong shapes, non-numeric Y (a data frame's column is named), wrong or duplicate names.
    """
    matrix = numeric(Y, "Y")
    if names is None:
        names = getattr(Y, "columns", None)
        # The name of an array with more dimensions (xarray, HDF5) is not that of a response.
        if names is None and matrix.ndim == 1 and getattr(Y, "name", None) is not None:
            names = [Y.name]
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2:
        raise ValueError(
            f"Y must have shape (n_obs,) or (n_obs, m), found {matrix.shape}; "
            "use Y.reshape(len(Y), -1) to make every other axis a response."
        )
    if matrix.shape[0] != n_obs:
        hint = "; it looks transposed, try Y.T" if matrix.shape[1] == n_obs else "; they must have the same rows"
        raise ValueError(f"Y has {matrix.shape[0]} rows, X has {n_obs}{hint}.")
    m = matrix.shape[1]
    if m == 0:
        raise ValueError("Y has no columns, so there is nothing to fit.")
    return matrix, () if names is None else _distinct(names, m, "response_names", "Y")


def numeric(value: Any, what: str) -> np.ndarray:
    """``value`` as a real array, missing values as NaN.

    Parameters
    ----------
    value : array-like
        An array of real numbers is returned as it is, whatever their type. Text is refused, even
        where it reads as numbers.
    what : str
        What to call it in errors.
    """
    if scipy.sparse.issparse(value):
        raise ValueError(f"{what} is a scipy sparse matrix; give a dense array, {what}.toarray().")
    frame = hasattr(value, "columns") and hasattr(value, "iloc")
    for j, dtype in enumerate(value.dtypes if frame else [getattr(value, "dtype", None)]):
        if hasattr(dtype, "categories"):
            column = f" column '{value.columns[j]}'" if frame else ""
            raise ValueError(f"{what}{column} is categorical; make numbers of it, such as pandas.get_dummies.")
    if isinstance(value, np.ma.MaskedArray):
        real = value.dtype.kind in "biuf"
        array = np.array(value.data, dtype=np.float64 if real else object)
        array[np.ma.getmaskarray(value)] = np.nan
    else:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{what} cannot be made into an array: {error}") from None
    kind = array.dtype.kind
    if kind in "biuf":
        with np.errstate(over="ignore"):  # what float64 cannot hold of a long double becomes infinite
            return array if array.dtype.itemsize <= 8 else array.astype(np.float64)
    if kind == "V" and array.dtype.names is None and array.dtype.itemsize <= 2:
        return array.astype(np.float32)  # JAX's small floats; float32 holds them exactly
    if frame:
        columns = [numeric(value.iloc[:, j], f"{what} column '{c}'") for j, c in enumerate(value.columns)]
        return np.column_stack(columns) if columns else np.zeros(array.shape)
    if kind == "O" and array.ndim == 0:
        raise ValueError(f"{what} is one {type(value).__name__}; give an array or a data frame.")
    if kind == "O":
        return _objects_to_floats(array, what)
    raise ValueError(f"{what} must be numeric, found dtype {array.dtype}{_HINTS.get(kind, _HINTS['U'])}")


_HINTS = {
    "c": "; take its real part, modulus or phase.",
    "M": "; make numbers of the times, such as days since the first.",
    "m": "; divide by a unit, such as numpy.timedelta64(1, 's').",
    "U": "; convert it to floats, or make dummy columns of its categories.",
}


def _objects_to_floats(array: np.ndarray, what: str) -> np.ndarray:
    """Python numbers as float64; None and pandas.NA as NaN."""
    values = array.ravel().tolist()
    types = {type(v): type(v).__name__ in ("NAType", "NoneType") for v in values}
    allowed = (numbers.Real, decimal.Decimal, np.bool_)
    wrong = {t for t, missing in types.items() if not missing and not issubclass(t, allowed)}
    wrong |= {t for t in types if issubclass(t, np.timedelta64)}
    if wrong:
        at = next(i for i, v in enumerate(values) if type(v) in wrong)
        position = zip(("row", "column"), np.unravel_index(at, array.shape), strict=False)
        where = ", ".join(f"{axis} {i}" for axis, i in position)
        found = f"{values[at]!r:.60} ({type(values[at]).__name__})" + (f" in {where}" if where else "")
        raise ValueError(f"{what} must be numeric, found {found}{_HINTS['U']}")
    try:
        flat = np.array([np.nan if types[type(v)] else float(v) for v in values], dtype=np.float64)
    except OverflowError:
        raise ValueError(f"{what} holds integers too large for float64; rescale it.") from None
    return flat.reshape(array.shape)


def _distinct(names: Any, n: int, what: str, of: str) -> tuple[str, ...]:
    """``names`` as n different strings."""
    if isinstance(names, (str, bytes)) or not hasattr(names, "__iter__"):
        raise ValueError(f"{what} must be a sequence of {n} names, found {names!r}; write [{names!r}] for one name.")
    names = tuple(str(v) for v in (names.to_numpy() if hasattr(names, "to_numpy") else names))
    if len(names) != n:
        raise ValueError(f"{what} has {len(names)} entries, {of} has {n} columns; give one name a column.")
    if len(set(names)) < n:
        twice = [f"'{v}'" for v, count in collections.Counter(names).items() if count > 1]
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise ValueError(f"{what} must be distinct; found more than once: {', '.join(twice[:5])}{more}; rename them.")
    return names


def _unit_columns(X: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """X with columns of norm 1."""
    largest = np.max(np.abs(X), axis=0)
    zero = [f"'{names[j]}'" for j in np.flatnonzero(largest == 0)]
    if zero:
        raise ValueError(f"X is rank deficient: these columns are all zero: {', '.join(zero)}; drop them.")
    outside = np.flatnonzero((largest < X_SMALLEST) | (largest > X_LARGEST))
    if len(outside):
        j = outside[0]
        raise ValueError(
            f"X column '{names[j]}' has values up to {largest[j]:.3g}, outside {X_SMALLEST:g} to {X_LARGEST:g}; "
            "rescale it."
        )
    unit = X / largest
    return np.asarray(unit / np.linalg.norm(unit, axis=0))


def _check_rank(unit: np.ndarray, names: tuple[str, ...]) -> None:
    _, R, order = scipy.linalg.qr(unit, mode="economic", pivoting=True, check_finite=False)
    independent = int(np.sum(np.abs(np.diag(R)) > RANK_TOL))
    if independent == unit.shape[1]:
        return
    keep, drop = order[:independent], order[independent:]
    weights = scipy.linalg.solve_triangular(R[:independent, :independent], R[:independent, independent:])
    parts = []
    for k, j in enumerate(drop):
        used = sorted(keep[np.abs(weights[:, k]) > 1e-8])
        parts.append(f"'{names[j]}' is a combination of {', '.join(repr(names[i]) for i in used)}")
    raise ValueError(
        f"X is rank deficient ({independent} independent columns of {unit.shape[1]}): {'; '.join(parts)} "
        "(to 10 digits); drop a column of each set, or centre a column whose mean dwarfs its spread."
    )


def _check_identifiable(unit: np.ndarray, grouping: Grouping) -> None:
    """Refuse designs in which X leaves one of the two variances no degree of freedom.

    With pw the rank of X centred within groups, G + pw - p are left between groups and n - G - pw
    within. With none between, the REML deviance is flat; with none within, the ML deviance is
    unbounded, and REML estimates rest on nothing but unequal group sizes.
    """
    (n, p), G, codes = unit.shape, len(grouping.levels), grouping.codes
    if G > p and n - G > p:  # enough of both whatever pw is
        return
    within = unit - unit[np.unique(codes, return_index=True)[1]][codes]
    sums = np.zeros((G, p))
    np.add.at(sums, codes, within)
    within -= (sums / grouping.sizes[:, None])[codes]
    norms = np.linalg.norm(within, axis=0)
    varies = norms > 8 * np.finfo(np.float64).eps * np.sqrt(n)  # as crossprod, which takes the rest for 0
    R = scipy.linalg.qr(within[:, varies] / norms[varies], mode="r", pivoting=True, check_finite=False)[0]
    pw = int(np.sum(np.abs(np.diag(R)) > 1e-9))
    if G + pw <= p:
        raise ValueError(
            f"X fits the means of all {G} groups on its own, so the group variance cannot be estimated; "
            "drop the columns that code the groups, or use groups=None."
        )
    if n - G - pw <= 0:
        raise ValueError(
            f"{n} rows less {G} groups less {pw} columns of X that vary within groups leave no degrees of freedom "
            "within groups, so the residual variance cannot be told from the group variance; "
            "use groups=None, a coarser grouping or fewer columns."
        )
