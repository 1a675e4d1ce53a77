"""Random terms: which effects vary between the levels of which grouping factor, and when a model has them.

A term of r columns adds to row i the effects of its level: sum_j Z[i, j] b[level of i, j], with one
covariance matrix (r, r) for all levels. A random intercept is Z = 1.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

__all__ = [
    "RandomTerm", "check_random_terms", "intercept_term", "make_random_term", "parameter_labels", "same_partition",
    "term_keys", "terms_outside",
]  # fmt: skip

# What a column of Z adds to those before it, relative to its norm, must be more than this.
COLLINEAR = 1e-8


@dataclass(frozen=True, eq=False)
class RandomTerm:
    """One random term of a design.

    Attributes
    ----------
    name : str
        The grouping factor as the formula writes it, such as "subject" or "subject:channel".
    levels : tuple
    codes : ndarray of int, (n_obs,)
        Position in ``levels`` of each row's label.
    Z : ndarray, (n_obs, r)
    columns : tuple of str, length r
        Names of the effects; ("(Intercept)",) for a random intercept.
    """

    name: str
    levels: tuple[Any, ...]
    codes: np.ndarray
    Z: np.ndarray
    columns: tuple[str, ...]

    @property
    def n_levels(self) -> int:
        """Number of levels."""
        return len(self.levels)

    @property
    def counts(self) -> np.ndarray:
        """Number of rows of each level, (levels,)."""
        return np.bincount(self.codes, minlength=len(self.levels))

    @property
    def size(self) -> int:
        """r, the number of effects of a level."""
        return self.Z.shape[1]

    @property
    def is_intercept(self) -> bool:
        """Whether the term is one random intercept."""
        return self.size == 1 and bool(np.all(self.Z == 1))

    @property
    def label(self) -> str:
        """The term as messages write it, such as "(x0 + x1 | subject)"."""
        return f"({' + '.join('1' if name == '(Intercept)' else name for name in self.columns)} | {self.name})"

    def take(self, rows: np.ndarray) -> RandomTerm:
        """The term on some rows, checked again; levels without a row are left out."""
        codes = self.codes[rows]
        present = np.unique(codes)
        levels = tuple(self.levels[j] for j in present)
        if self.is_intercept:
            return intercept_term(self.name, levels, np.searchsorted(present, codes))
        return make_random_term(self.name, levels, np.searchsorted(present, codes), self.Z[rows], self.columns)


def intercept_term(name: str, levels: Sequence[Any], codes: np.ndarray) -> RandomTerm:
    """A random intercept."""
    return RandomTerm(str(name), tuple(levels), codes, np.ones((len(codes), 1)), ("(Intercept)",))


def make_random_term(
    name: str,
    levels: Sequence[Any],
    codes: np.ndarray,
    Z: np.ndarray | None = None,
    columns: Sequence[str] | None = None,
) -> RandomTerm:
    """A checked random term; by default a random intercept.

    Raises
    ------
    ValueError
        Fewer than 2 levels, a column that is not finite or all zero, columns that depend on each other.
    """
    n = len(codes)
    Z = np.ones((n, 1)) if Z is None else np.asarray(Z, dtype=np.float64)
    if Z.ndim == 1:
        Z = Z[:, None]
    if columns is None:
        columns = ["(Intercept)" if np.all(Z[:, j] == 1) else f"z{j}" for j in range(Z.shape[1])]
    term = RandomTerm(str(name), tuple(levels), np.asarray(codes, dtype=np.intp), Z, tuple(columns))
    if Z.shape[0] != n or Z.ndim != 2 or Z.shape[1] < 1:
        raise ValueError(f"random term {term.name!r}: Z has shape {Z.shape}, the labels have {n} rows.")
    if len(term.columns) != term.size:
        raise ValueError(f"random term {term.name!r}: {len(term.columns)} names for {term.size} columns of Z.")
    if term.n_levels < 2:
        raise ValueError(
            f"random term {term.label}: '{term.name}' has {term.n_levels} level; a random term needs at least 2. "
            "Drop the term."
        )
    _check_columns(term)
    return term


def _check_columns(term: RandomTerm) -> None:
    Z = term.Z
    bad = np.argwhere(~np.isfinite(Z))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"random term {term.label}: column '{term.columns[column]}' is {Z[row, column]} in row {row}; "
            "drop the rows whose covariates are missing."
        )
    zero = [name for name, column in zip(term.columns, Z.T, strict=True) if not column.any()]
    if zero:
        raise ValueError(f"random term {term.label}: column '{zero[0]}' is all zero; drop it.")
    if term.size < 2:
        return
    unit = Z / np.max(np.abs(Z), axis=0)
    unit = unit / np.linalg.norm(unit, axis=0)
    R = scipy.linalg.qr(unit, mode="r", check_finite=False)[0]
    short = np.flatnonzero(np.abs(np.diag(R)[: term.size]) < COLLINEAR)
    if len(short) or len(Z) < term.size:
        name = term.columns[short[0] if len(short) else -1]
        raise ValueError(
            f"random term {term.label}: column '{name}' is a combination of the columns before it, so its variance "
            "cannot be told from theirs; drop it."
        )
    if term.columns[0] == "(Intercept)":
        _check_within(term)
    _check_together(term)


def _check_together(term: RandomTerm) -> None:
    """Two columns must meet in some level, or nothing says how their effects are correlated."""
    present = np.zeros((term.codes.max() + 1, term.size))
    np.maximum.at(present, term.codes, (term.Z != 0).astype(float))
    apart = np.argwhere(np.triu(present.T @ present == 0))
    if len(apart):
        a, b = (term.columns[j] for j in apart[0])
        raise ValueError(
            f"random term {term.label}: no level of '{term.name}' has both '{a}' and '{b}', so nothing says how "
            "their effects are correlated; put them into terms of their own, as numeric columns."
        )


def _check_within(term: RandomTerm) -> None:
    """A slope beside an intercept must vary within some level, or it is an intercept of its own."""
    first = np.unique(term.codes, return_index=True)[1]
    positions = np.searchsorted(np.unique(term.codes), term.codes)
    for name, column in zip(term.columns[1:], term.Z.T[1:], strict=True):
        if np.all(column == column[first][positions]):
            column, _, level = name.partition("[")
            kind = "factor" if level else "covariate"
            raise ValueError(
                f"random term {term.label}: the {kind} '{column}' is constant within all levels of '{term.name}' (it "
                "has one value for each of them), so nothing says how its effect varies between them; drop "
                f"'{column}' from the random term, its fixed effect can stay."
            )


def check_random_terms(terms: Sequence[RandomTerm], n_obs: int) -> None:
    """Raise ValueError where a model cannot have these terms together.

    As many effects as observations or more (as lme4), or the same columns twice on one factor.
    """
    for term in terms:
        effects = term.n_levels * term.size
        if effects >= n_obs:
            raise ValueError(
                f"random term {term.label}: {term.n_levels} levels times {term.size} columns are {effects} random "
                f"effects, as many as the {n_obs} observations or more, so its variance and the residual variance "
                "cannot be told apart; drop columns, or use a coarser grouping."
            )
    for k, term in enumerate(terms):
        for other in terms[:k]:
            if term.n_levels != other.n_levels or not same_partition(term.codes, other.codes):
                continue
            both = np.column_stack([other.Z, term.Z])
            unit = both / np.linalg.norm(both, axis=0)
            if np.linalg.svd(unit, compute_uv=False)[-1] < COLLINEAR:
                raise ValueError(
                    f"random terms {other.label} and {term.label} share a column on the same levels, so their "
                    f"variances cannot be told apart; drop it from one of them.{_doubled_factor(other, term)}"
                )


def _doubled_factor(first: RandomTerm, second: RandomTerm) -> str:
    """What to write in the place of ``(a || g)``, of a factor a."""
    dummies = [name.partition("[")[0] for name in second.columns]
    if not first.is_intercept or second.size < 2 or len(set(dummies)) > 1 or "[" not in second.columns[0]:
        return ""
    a, g = dummies[0], second.name
    return (
        f" '||' takes the columns of a factor together, as lme4 does: ({a} || {g}) is (1 | {g}) + (0 + {a} | {g}), "
        f"whose likelihood is that of ({a} | {g}), so write that; or make numeric columns of '{a}' for effects that "
        "vary independently."
    )


def terms_outside(inner: Sequence[RandomTerm], outer: Sequence[RandomTerm]) -> list[RandomTerm]:
    """Terms of ``inner`` that no term of ``outer`` holds: same levels, and columns that its columns span."""
    return [term for term in inner if not any(_holds(other, term) for other in outer)]


def _holds(outer: RandomTerm, inner: RandomTerm) -> bool:
    if not same_partition(outer.codes, inner.codes):
        return False
    Q = np.linalg.qr(outer.Z / np.linalg.norm(outer.Z, axis=0)).Q
    unit = inner.Z / np.linalg.norm(inner.Z, axis=0)
    return bool(np.all(np.linalg.norm(unit - Q @ (Q.T @ unit), axis=0) <= COLLINEAR))


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two vectors of codes divide the rows alike."""
    pairs = np.unique(np.stack([a, b]), axis=1).shape[1]
    return pairs == len(np.unique(a)) == len(np.unique(b))


def term_keys(random: Sequence[RandomTerm]) -> tuple[str, ...]:
    """A name for each term, as lme4 writes them: a factor's second term is "subject.1".

    Which is the second: lme4 sorts terms whose numbers of levels rise anywhere, and those of equal numbers are in
    reverse then: of ``(1 | item) + (x || subject)`` with more subjects than items, "subject" is the slope.
    """
    seen: collections.Counter[str] = collections.Counter()
    sizes = np.array([term.n_levels for term in random])
    order = np.argsort(sizes, kind="stable")[::-1] if np.any(np.diff(sizes) > 0) else np.arange(len(sizes))
    keys = [""] * len(sizes)
    for k in order.tolist():
        name = random[k].name
        keys[k] = name if not seen[name] else f"{name}.{seen[name]}"
        seen[name] += 1
    return tuple(keys)


def parameter_labels(random: Sequence[RandomTerm]) -> tuple[str, ...]:
    """Labels of the K standard deviations and correlations, as R's ``confint(fit, oldNames=FALSE)``."""
    out: list[str] = []
    for term in random:
        for i, a in enumerate(term.columns):
            out += [f"sd_{a}|{term.name}", *(f"cor_{b}.{a}|{term.name}" for b in term.columns[i + 1 :])]
    return tuple(out)
