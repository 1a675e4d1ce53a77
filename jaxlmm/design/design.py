"""The design: fixed-effects matrix, grouping, names. Errors about X, names and weights are raised here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from jaxlmm.design.arrays import distinct, numeric
from jaxlmm.design.groups import Grouping, make_grouping
from jaxlmm.design.terms import TermStructure

__all__ = ["Design", "Grouping", "checked_design", "make_design"]

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
    names = tuple(f"x{j}" for j in range(p)) if names is None else distinct(names, p, "names", "X")
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
