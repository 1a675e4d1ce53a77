"""Joint tests of the marginal means of every term of a model, as R's ``joint_tests`` (emmeans).

The hypothesis of a term is that all contrasts of contrasts of its variables' marginal means are 0: differences of
neighbouring levels, one variable after another. Covariates stand at their mean less 1 and plus 1, so that their own
contrast is their mean slope. F is that of the estimated covariances (Kenward-Roger's are adjusted, F is not scaled);
its denominator is the smallest of the degrees of freedom of orthonormal contrasts that span the hypothesis.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.inference import distributions
from jaxlmm.inference.averaging import average
from jaxlmm.inference.comparisons import comparison
from jaxlmm.inference.estimates import Estimates
from jaxlmm.inference.grid import Grid, RowSource, known_variable, reference_grid
from jaxlmm.inference.hypotheses import contrast_se_df, contrast_vcov
from jaxlmm.inference.specs import names_of
from jaxlmm.inference.tabular import Table, Tabular

__all__ = ["JointTests", "joint_tests"]

# A row that adds less to those before it adds nothing.
RANK_TOL = 1e-7
CONFOUNDED = "(confounded)"
LOST = "Some combination of levels has no row: of each term what the data determine is tested"


@dataclass(frozen=True, eq=False, repr=False)
class JointTests(Tabular):
    """F tests of t terms at each level of ``by``, for m responses.

    Attributes
    ----------
    terms : tuple of str
        Of each test; where some combination of levels has no row, "(confounded)" is what no term is tested for.
    by : tuple of dict
        The levels of each test; empty dicts without.
    df_num : ndarray of int, (k,)
        What of the term the data determine; 0 for nothing.
    statistic, df_den, pvalue : ndarray, (m, k)
    df_method : str
    """

    terms: tuple[str, ...]
    by: tuple[dict[str, Any], ...]
    df_num: np.ndarray
    statistic: np.ndarray
    df_den: np.ndarray
    pvalue: np.ndarray
    df_method: str
    notes: tuple[str, ...] = ()

    def _table(self, level: float) -> Table:
        axes: dict[str, Any] = {"term": list(dict.fromkeys(self.terms))}
        axes |= {name: list(dict.fromkeys(label[name] for label in self.by)) for name in reversed(tuple(self.by[0]))}
        columns = {
            "df_num": self.df_num, "df_den": self.df_den, "statistic": self.statistic, "pvalue": self.pvalue,
        }  # fmt: skip
        title = f"Joint tests of marginal means, {self.df_method} degrees of freedom"
        return Table(title, axes, columns, {"statistic": "F", "pvalue": "P>F"}, self.notes)


def joint_tests(
    source: RowSource, estimates: Estimates, df_method: str, by: Any = None, at: Any = None
) -> JointTests:
    """Joint tests of fits; arguments as in :meth:`jaxlmm.Fit.joint_tests`."""
    outer = names_of(by, "by")
    variables = {v.name: v for v in source.variables}
    for name in outer:
        known_variable(name, variables, "by")
    spread = {
        v.name: (v.levels[0] - 1, v.levels[0] + 1) for v in variables.values() if not v.factor and len(v.levels) == 1
    }
    grid = reference_grid(source, at, spread)
    inner = [name for name in grid.levels if name not in outer and len(grid.levels[name]) > 1]
    terms = [
        names
        for k in range(1, len(inner) + 1)
        for names in itertools.combinations(inner, k)
        if any(set(names) <= term for term in source.term_variables)
    ]
    if not terms:
        raise ValueError(f"there is nothing to test beside {', '.join(outer) or 'the intercept'}.")
    spans = {":".join(names): _hypotheses(grid, names, outer) for names in terms}
    levels = list(itertools.product(*(grid.levels[name] for name in outer[::-1])))
    tests = {term: [_f_test(estimates, grid, Q, df_method) for Q in found] for term, found in spans.items()}
    if grid.estimable.null.shape[1]:
        tests[CONFOUNDED] = _confounded(estimates, grid, inner, outer, list(spans.values()), df_method)
    kept = {term: found for term, found in tests.items() if any(one.df_num for one in found)}
    every = [one for found in kept.values() for one in found]
    labels = tuple(dict(zip(outer[::-1], level, strict=True)) for level in levels) * len(kept)

    def column(name: str) -> np.ndarray:
        return np.stack([getattr(one, name) for one in every], axis=1)

    return JointTests(
        tuple(term for term in kept for _ in levels), labels,
        np.array([one.df_num for one in every], dtype=int),
        column("statistic"), column("df_den"), column("pvalue"), df_method,
        (LOST,) if grid.estimable.null.shape[1] else (),
    )  # fmt: skip


@dataclass(frozen=True)
class _Joint:
    """One F test for m responses."""

    df_num: int
    statistic: np.ndarray
    df_den: np.ndarray

    @property
    def pvalue(self) -> np.ndarray:
        if not self.df_num:
            return np.full(len(self.statistic), np.nan)
        return distributions.f_pvalues(self.statistic, self.df_num, self.df_den)


def _hypotheses(grid: Grid, names: Sequence[str], outer: Sequence[str]) -> list[np.ndarray]:
    """For each level of ``outer`` orthonormal rows (r, p_all) that span what the data determine of the hypothesis."""
    _, L = average(grid, (*names, *outer))
    weights = np.ones((1, 1))
    for name in names:
        weights = np.kron(_neighbours(len(grid.levels[name])), weights)
    blocks = L.reshape(-1, weights.shape[1], L.shape[1])
    return [_orthonormal(grid.estimable.within(weights @ block)) for block in blocks]


def _neighbours(k: int) -> np.ndarray:
    return comparison("consec", [str(i) for i in range(k)]).weights


def _confounded(
    estimates: Estimates,
    grid: Grid,
    inner: Sequence[str],
    outer: Sequence[str],
    spans: Sequence[Sequence[np.ndarray]],
    df_method: str,
) -> list[_Joint]:
    """What differs between cells, and that no term is tested for, at each level of ``outer``."""
    _, L = average(grid, (*inner, *outer))
    k = int(np.prod([len(grid.levels[name]) for name in inner], dtype=int))
    out = []
    for j, block in enumerate(L.reshape(-1, k, L.shape[1])):
        whole = _f_test(estimates, grid, _orthonormal(grid.estimable.within(_neighbours(k) @ block)), df_method)
        told = _f_test(estimates, grid, _orthonormal(np.concatenate([found[j] for found in spans])), df_method)
        rest = whole.df_num - told.df_num
        sums = whole.df_num * whole.statistic - told.df_num * np.nan_to_num(told.statistic)
        statistic = sums / rest if rest > 0 else np.full(len(estimates), np.nan)
        out.append(_Joint(max(rest, 0), statistic, whole.df_den if rest > 0 else statistic))
    return out


def _f_test(estimates: Estimates, grid: Grid, Q: np.ndarray, df_method: str) -> _Joint:
    """That Q coef = 0, for orthonormal rows Q (r, p_all)."""
    m, r = len(estimates), len(Q)
    if not r:
        return _Joint(0, np.full(m, np.nan), np.full(m, np.nan))
    L = Q[:, grid.estimable.kept]
    covariance, values = contrast_vcov(estimates, L, df_method), estimates.product(L)
    _, df = contrast_se_df(estimates, L, df_method)
    statistic = np.full(m, np.nan)
    good = np.isfinite(values).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2))
    inner = np.linalg.solve(covariance[good], values[good, :, None])[:, :, 0]
    statistic[good] = np.sum(values[good] * inner, axis=1) / r
    return _Joint(r, statistic, np.where(good, df.min(axis=1), np.nan))


def _orthonormal(L: np.ndarray) -> np.ndarray:
    """Orthonormal rows that span the rows of L, one after another."""
    out = np.zeros((0, L.shape[1]))
    largest = np.abs(L).max(initial=0.0)
    for row in L:
        norm = float(np.linalg.norm(row))
        if norm <= RANK_TOL * largest:
            continue
        fresh = row / norm
        for _ in range(2):  # once more, for what rounding left
            fresh = fresh - out.T @ (out @ fresh)
        if np.linalg.norm(fresh) > RANK_TOL:
            out = np.vstack([out, fresh / np.linalg.norm(fresh)])
    return out
