"""The design: fixed-effects matrix, grouping, names. Errors about X, names and weights are raised here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from jaxlmm.design.arrays import distinct, numeric
from jaxlmm.design.columns import Columns, make_columns
from jaxlmm.design.dropped import DroppedRows
from jaxlmm.design.groups import make_grouping
from jaxlmm.design.identifiability import RANK_TOL, orthonormal_basis, pivoted
from jaxlmm.design.random import RandomTerm, check_random_terms
from jaxlmm.design.terms import TermStructure
from jaxlmm.design.within import centred_within
from jaxlmm.runtime.threads import single_threaded_blas

__all__ = ["Design", "checked_design", "make_design"]

# Columns of X outside this range would overflow or underflow in squares and covariances.
X_SMALLEST, X_LARGEST = 1e-100, 1e100


@dataclass(frozen=True)
class Design:
    """What all responses share.

    Attributes
    ----------
    X : ndarray, (n_obs, p)
    names : tuple of str, length p
    random : tuple of RandomTerm
        Random terms; empty for ordinary least squares.
    weights : ndarray, (n_obs,), or None
        Precisions of the observations: the residual variance of row i is sigma2 / weights[i].
    terms : TermStructure or None
        Which columns make a term, for ``anova`` and ``emmeans``.
    dropped : DroppedRows or None
        Rows that were given and are not in the design, since values are missing.
    """

    X: np.ndarray
    names: tuple[str, ...]
    random: tuple[RandomTerm, ...]
    weights: np.ndarray | None = None
    terms: TermStructure | None = None
    dropped: DroppedRows | None = None

    def take(self, rows: np.ndarray, weights: np.ndarray | None = None) -> Design:
        """The design of some rows, checked again; groups without a row are left out.

        ``weights`` of these rows, if given, stand for the design's.
        """
        random = tuple(term.take(rows) for term in self.random)
        if weights is None and self.weights is not None:
            weights = self.weights[rows]
        return checked_design(self.X[rows], self.names, random, weights, self.terms)

    @functools.cached_property
    def root_w(self) -> np.ndarray | None:
        """Roots of the weights, (n_obs,), or None."""
        return None if self.weights is None else np.sqrt(self.weights)

    @functools.cached_property
    def columns(self) -> Columns:
        """X with centred columns of norm 1."""
        return make_columns(self.X, self.root_w)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: nothing that can be made again."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @property
    def n_obs(self) -> int:
        """Number of rows."""
        return self.X.shape[0]

    @property
    def n_given(self) -> int:
        """Number of rows that were given, those dropped among them."""
        return self.n_obs if self.dropped is None else self.dropped.n_given

    @property
    def n_fixef(self) -> int:
        """Number of columns of X."""
        return self.X.shape[1]

    @property
    def n_groups(self) -> int:
        """Number of levels of the first grouping factor, 0 without one."""
        return len(self.random[0].levels) if self.random else 0

    @property
    def has_one_intercept(self) -> bool:
        """Whether the random part is one random intercept."""
        return len(self.random) == 1 and self.random[0].is_intercept


def make_design(
    X: Any,
    groups: Any = None,
    names: Sequence[str] | None = None,
    weights: Any = None,
    terms: TermStructure | None = None,
    random: Sequence[Any] | None = None,
) -> Design:
    """Check X and random terms and freeze them.

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
    random : sequence of RandomTerm, or labels, optional
        Any random terms, instead of ``groups``; labels make a random intercept.

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
        hint = "; responses of several dimensions are Y, the second argument" if matrix.ndim > 2 else hint
        raise ValueError(f"X must have 2 dimensions (n_obs, p), found shape {matrix.shape}{hint}.")
    n, p = matrix.shape
    if p == 0:
        raise ValueError(f"X has no columns (shape {matrix.shape}); give at least an intercept, np.ones((n, 1)).")
    names = tuple(f"x{j}" for j in range(p)) if names is None else distinct(names, p, "names", "X")
    bad = np.argwhere(~np.isfinite(matrix))
    if len(bad):
        row, col = (int(v) for v in bad[0])
        hint = ", or say na='drop'" if np.isnan(matrix[row, col]) else ""
        raise ValueError(
            f"X holds {len(bad)} NaN or infinite values, the first in row {row}, column "
            f"'{names[col]}'; drop these rows from X, Y and groups{hint}."
        )
    _check_rows(n, p)
    return checked_design(matrix, names, _random_terms(groups, random, n), _checked_weights(weights, n), terms)


def _random_terms(groups: Any, random: Sequence[Any] | None, n: int) -> tuple[RandomTerm, ...]:
    if random is None:
        return () if groups is None else (make_grouping(groups, n),)
    if groups is not None:
        raise ValueError("groups and random are both given; leave groups out, and put its intercept into random.")
    if not isinstance(random, (list, tuple)):
        raise ValueError(
            f"random must be a list of random terms, found {type(random).__name__}; make each by jaxlmm.random_term."
        )
    found = tuple(_random_term(term, n) for term in random)
    for term in found:
        if len(term.codes) != n:
            raise ValueError(
                f"random term {term.label} has {len(term.codes)} rows, X has {n}; need one label per row."
            )
    return found


def _random_term(given: Any, n: int) -> RandomTerm:
    if isinstance(given, RandomTerm):
        return given
    try:
        return make_grouping(given, n)
    except ValueError as error:
        raise ValueError(f"random holds what is no random term, nor labels of groups: {error}") from None


def checked_design(
    X: np.ndarray,
    names: tuple[str, ...],
    random: tuple[RandomTerm, ...],
    weights: np.ndarray | None,
    terms: TermStructure | None,
) -> Design:
    """A design whose estimates exist: of full rank, with degrees of freedom for every variance."""
    # Threads of a BLAS that have nothing more to do go on taking time for a while, from the fit that follows.
    with single_threaded_blas():
        return _checked(Design(X, names, random, weights, terms))


def _checked(design: Design) -> Design:
    X, names, random = design.X, design.names, design.random
    n, p = X.shape
    _check_rows(n, p)
    _check_sizes(X, names)
    root_w, columns = design.root_w, design.columns
    _check_rank(columns.unit if root_w is None else root_w[:, None] * columns.unit, names)
    check_random_terms(random, n)
    if design.has_one_intercept:
        if random[0].n_levels < 2:
            raise ValueError("a random intercept needs at least 2 groups.")
        _check_identifiable(columns.unit, random[0], root_w, names)
    elif random:
        for term in random:
            _check_not_fixed(columns.unit, term, root_w)
    return design


def _check_rows(n: int, p: int) -> None:
    if n <= p:
        raise ValueError(f"X has {n} rows for {p} columns; need more rows (observations) than columns.")


def _checked_weights(weights: Any, n: int) -> np.ndarray | None:
    if weights is None:
        return None
    values = np.array(numeric(weights, "weights"), dtype=np.float64)
    if values.shape != (n,):
        own = "; weights of each response's own are given with Y" if values.ndim > 1 else ""
        raise ValueError(f"weights has shape {values.shape}, X has {n} rows; need one weight per row{own}.")
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        raise ValueError(
            f"weights must be positive and finite, found {values[bad[0]]} in row {bad[0]} ({len(bad)} such rows); "
            "drop the rows that are not to count."
        )
    return values


def _check_sizes(X: np.ndarray, names: tuple[str, ...]) -> None:
    """Refuse columns of zeros, and those whose squares would overflow or underflow."""
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


def _check_rank(unit: np.ndarray, names: tuple[str, ...]) -> None:
    """Refuse columns of norm 1 of which some are combinations of others; says which of which."""
    independent, R, order = pivoted(unit)
    if independent == unit.shape[1]:
        return
    keep, drop = order[:independent], order[independent:]
    shares = scipy.linalg.solve_triangular(R[:independent, :independent], R[:independent, independent:])
    parts = []
    for k, j in enumerate(drop):
        used = sorted(keep[np.abs(shares[:, k]) > 1e-6])
        what = f"a combination of {', '.join(repr(names[i]) for i in used)}" if used else "constant but for roundings"
        parts.append(f"'{names[j]}' is {what}")
    raise ValueError(
        f"X is rank deficient ({independent} independent columns of {unit.shape[1]}): {'; '.join(parts)} "
        f"(to {-np.log10(RANK_TOL):.0f} digits); drop a column of each set, or centre a column whose mean dwarfs its "
        "spread."
    )


def _check_identifiable(
    unit: np.ndarray, grouping: RandomTerm, root_w: np.ndarray | None, names: Sequence[str]
) -> None:
    """Refuse designs in which X leaves one of the two variances no degree of freedom.

    With pw the rank of X centred within groups, G + pw - p are left between groups and n - G - pw
    within. With none between, the REML deviance is flat; with none within, the ML deviance is
    unbounded, and REML estimates rest on nothing but unequal group sizes.
    """
    (n, p), G = unit.shape, len(grouping.levels)
    if G > p and n - G > p:  # enough of both whatever pw is
        return
    within = centred_within(unit, grouping.codes, G, root_w)[1]
    pw = orthonormal_basis(within).shape[1]
    if G + pw <= p:
        fixed = ~within.any(axis=0) & ~(unit == unit[0]).all(axis=0)
        told = list(dict.fromkeys(name.partition("[")[0] for name, one in zip(names, fixed, strict=True) if one))
        of = f" by {', '.join(map(repr, told[:4]))}, constant within each '{grouping.name}'," if told else ""
        raise ValueError(
            f"X fits the means of all {G} groups on its own,{of} so the group variance cannot be estimated; "
            "drop the columns that code the groups, or use groups=None."
        )
    if n - G - pw <= 0:
        raise ValueError(
            f"{n} rows less {G} groups less {pw} columns of X that vary within groups leave no degrees of freedom "
            "within groups, so the residual variance cannot be told from the group variance; "
            "use groups=None, a coarser grouping or fewer columns."
        )


def _check_not_fixed(unit: np.ndarray, term: RandomTerm, root_w: np.ndarray | None) -> None:
    """Refuse a term of which X fits every effect on its own, so that the likelihood is flat in its variance."""
    rows = np.ones(len(unit)) if root_w is None else root_w
    Q = orthonormal_basis(rows[:, None] * unit)
    for name, column in zip(term.columns, term.Z.T, strict=True):
        value = rows * column / np.max(np.abs(column))
        # |M Z|^2 = |Z|^2 - |Q'Z|^2, for the columns of every level together.
        inside = np.zeros((term.n_levels, Q.shape[1]))
        np.add.at(inside, term.codes, value[:, None] * Q)
        total = float(value @ value)
        if total - float(np.sum(inside**2)) <= 1e-10 * total:
            raise ValueError(
                f"random term {term.label}: X fits the effects of '{name}' at all {term.n_levels} levels of "
                f"'{term.name}' on its own, so their variance cannot be estimated; drop '{name}' from the random "
                "term, or the columns of X that code the levels."
            )
