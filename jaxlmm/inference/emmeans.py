"""Estimated marginal means and all their pairwise differences.

The reference grid has a row for every combination of the levels of all factors, observed or not,
with covariates at their mean over all rows of the data (the same for all responses, whatever they
miss). A marginal mean is the average, with equal weights, of the model's
predictions over the rows that share the levels asked for (Searle, Speed & Milliken 1980, Am Stat
34:216-221). As R's emmeans, a covariate with only two values keeps both, like a factor.
"""

from __future__ import annotations

import collections
import functools
import itertools
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jaxlmm.inference import hypotheses
from jaxlmm.inference.estimates import Estimates
from jaxlmm.inference.hypotheses import TTest, t_table
from jaxlmm.inference.multiplicity import adjust_pvalues, adjustment
from jaxlmm.inference.tabular import Table, Tabular
from jaxlmm.inference.tukey import range_tail
from jaxlmm.runtime.arguments import name_list, shown

__all__ = ["ADJUSTMENTS", "EMMeans", "GridVariable", "Pairs", "RowSource", "emmeans", "marginal_means"]

# A name in backticks, or as Q('a name').
QUOTED = re.compile(r"^(?:`([^`]+)`|Q\((['\"])(.+)\2\))$")
ADJUSTMENTS = ("tukey", "holm", "bonferroni", "sidak", "bh", "by", "none")
LARGEST_GRID = 1_000_000
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

    def rows(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Rows of X, (n, p), for n values of each variable."""


@dataclass(frozen=True, eq=False, repr=False)
class Pairs(Tabular):
    """Differences of all pairs of marginal means for m responses; arrays (m, c) for c pairs.

    Attributes
    ----------
    labels : tuple of str
        "A - B": the first mean less the second.
    by : tuple of dict
        The levels of the ``by`` variables at which the pair is compared; empty dicts without.
    adjust : str
        The adjustment of ``pvalue``.
    test : TTest
        The t tests, with p-values not adjusted.
    families : tuple of (start, stop, n_means)
        The pairs that are adjusted together, and how many means they compare.
    """

    labels: tuple[str, ...]
    by: tuple[dict[str, Any], ...]
    adjust: str
    test: TTest
    families: tuple[tuple[int, int, int], ...]

    @property
    def L(self) -> np.ndarray:
        """Weights of the fixed effects, (c, p)."""
        return self.test.L

    @property
    def estimate(self) -> np.ndarray:
        """The differences."""
        return self.test.estimate

    @property
    def se(self) -> np.ndarray:
        """Their standard errors."""
        return self.test.se

    @property
    def df(self) -> np.ndarray:
        """Degrees of freedom of each difference."""
        return self.test.df

    @property
    def statistic(self) -> np.ndarray:
        """Test statistics estimate / se."""
        return self.test.statistic

    @functools.cached_property
    def pvalue(self) -> np.ndarray:
        """Two-sided p-values, adjusted for the pairs of one response at one level of ``by``."""
        out = np.array(self.test.pvalue)
        for start, stop, n_means in self.families:
            cols = slice(start, stop)
            out[:, cols] = self._adjusted(out[:, cols], cols, n_means)
        return out

    def _table(self, level: float) -> Table:
        names = tuple(self.by[0])
        axes: dict[str, Any] = {name: list(dict.fromkeys(at[name] for at in self.by)) for name in reversed(names)}
        each = len(self.labels) // len(self.families)
        title = "Pairwise differences" + ("" if self.adjust == "none" else f", P adjusted by {self.adjust}")
        return t_table(title, axes | {"contrast": self.labels[:each]}, self.test, self.pvalue, None)

    def _adjusted(self, p: np.ndarray, cols: slice, n_means: int) -> np.ndarray:
        if self.adjust == "tukey":
            # With two means the range is the difference: its test is the t test.
            if n_means == 2:
                return p
            return range_tail(np.sqrt(2) * np.abs(self.statistic[:, cols]), n_means, self.df[:, cols])
        if self.adjust == "sidak":
            with np.errstate(divide="ignore"):
                return np.asarray(-np.expm1(p.shape[1] * np.log1p(-p)))
        return np.asarray(adjust_pvalues(p, self.adjust, axis=1))


@dataclass(frozen=True, eq=False, repr=False)
class EMMeans(Tabular):
    """Estimated marginal means of m responses; arrays (m, k) for k means.

    The means are on the scale of the response as it was fitted.

    Attributes
    ----------
    labels : tuple of dict
        Levels of the variables, those of ``specs`` and of ``by``.
    specs, by : tuple of str
        The first of ``specs`` varies fastest, and all of them faster than those of ``by``.
    L : ndarray, (k, p)
        Weights of the fixed effects.
    """

    labels: tuple[dict[str, Any], ...]
    specs: tuple[str, ...]
    by: tuple[str, ...]
    L: np.ndarray
    estimates: Estimates
    df_method: str

    @functools.cached_property
    def _test(self) -> TTest:
        return hypotheses.t_test(self.estimates, self.L, np.zeros(len(self.L)), self.df_method)

    @property
    def names(self) -> tuple[str, ...]:
        """One text a mean: its levels of ``specs``."""
        return tuple(" ".join(_text(name, label[name]) for name in self.specs) for label in self.labels)

    @property
    def estimate(self) -> np.ndarray:
        """The means."""
        return self._test.estimate

    @property
    def se(self) -> np.ndarray:
        """Their standard errors."""
        return self._test.se

    @property
    def df(self) -> np.ndarray:
        """Their degrees of freedom, by the ``df_method`` of the fit."""
        return self._test.df

    def conf_int(self, level: float = 0.95) -> np.ndarray:
        """Lower and upper limit of each mean, (m, k, 2), not adjusted for their number."""
        return self._test.conf_int(level)

    def _table(self, level: float) -> Table:
        # The first of specs varies fastest, and those of by slowest.
        names = (self.specs + self.by)[::-1]
        axes = {name: list(dict.fromkeys(label[name] for label in self.labels)) for name in names}
        return t_table("Estimated marginal means", axes, self, None, self.conf_int(level))

    def pairs(self, adjust: str = "tukey") -> Pairs:
        """Compare every mean with every later one, within each level of ``by``.

        Parameters
        ----------
        adjust : {"tukey", "holm", "bonferroni", "sidak", "bh", "by", "none"}
            Adjustment of the p-values for the pairs of one response at one level of ``by``:
            Tukey's studentized range with each difference's own degrees of freedom (Tukey-Kramer;
            as emmeans), those of :func:`jaxlmm.adjust_pvalues`, by any of their names, or Sidak's.
            Not for the number of responses.
        """
        adjust = adjustment(adjust, ADJUSTMENTS, "adjust")
        alike: dict[tuple[Any, ...], list[int]] = {}
        for i, label in enumerate(self.labels):
            alike.setdefault(tuple(label[name] for name in self.by), []).append(i)
        pairs: list[tuple[int, int]] = []
        families = []
        for rows in alike.values():
            start = len(pairs)
            pairs += itertools.combinations(rows, 2)
            families.append((start, len(pairs), len(rows)))
        if not pairs:
            raise ValueError(f"{', '.join(self.specs)} has a single marginal mean, so there is nothing to compare.")
        first, second = (list(side) for side in zip(*pairs, strict=True))
        L, names = self.L[first] - self.L[second], self.names
        return Pairs(
            tuple(f"{names[i]} - {names[j]}" for i, j in pairs),
            tuple({name: self.labels[i][name] for name in self.by} for i in first),
            adjust,
            hypotheses.t_test(self.estimates, L, np.zeros(len(L)), self.df_method),
            tuple(families),
            responses=self.responses,
        )


def emmeans(
    source: RowSource, estimates: Estimates, df_method: str, specs: Any, by: Any = None, at: Any = None
) -> EMMeans:
    """Marginal means of fits; ``specs``, ``by``, ``at`` and errors as in :func:`marginal_means`."""
    labels, L = marginal_means(source, specs, by, at)
    return EMMeans(labels, _names(specs, "specs"), _names(by, "by"), L, estimates, df_method)


def marginal_means(
    source: RowSource, specs: Any, by: Any = None, at: Any = None
) -> tuple[tuple[dict[str, Any], ...], np.ndarray]:
    """The weights of the fixed effects that give marginal means.

    Parameters
    ----------
    source : RowSource
    specs : str or sequence of str
        The variables at whose levels means are wanted.
    by : str or sequence of str, optional
        More such variables, within whose levels pairs will be compared.
    at : mapping of str to value or values, optional
        Covariates: values in place of the mean. Factors: the levels to keep. Averages over a
        variable not in ``specs`` or ``by`` are over these values.

    Returns
    -------
    labels : tuple of dict
        Levels of ``specs`` and ``by``.
    L : ndarray, (k, p)

    Raises
    ------
    ValueError
        Unknown variables or levels, no variable, one in both ``specs`` and ``by``, a huge grid.
    """
    variables = {v.name: v for v in source.variables}
    known = ", ".join(variables) or "(none)"
    wanted, outer = _names(specs, "specs"), _names(by, "by")
    if not wanted:
        raise ValueError(f"specs names no variable; give one or more of {known}.")
    if len(set(wanted + outer)) < len(wanted + outer):
        raise ValueError(f"specs and by must name different variables, found {', '.join(wanted + outer)}.")
    if at is not None and not isinstance(at, Mapping):
        raise ValueError(f"at must be a dict of values by the names of variables, found {shown(at)}.")
    given = {} if at is None else dict(at)
    for what, names in (("specs", wanted), ("by", outer), ("at", tuple(given))):
        unknown = [name for name in names if name not in variables]
        if unknown and "~" in unknown[0]:
            raise ValueError(_specs_instead(unknown[0], list(variables)))
        if unknown:
            raise ValueError(f"{what} names {unknown[0]!r}; the variables of the model are {known}.")
    levels = {name: _levels(v, given[name]) if name in given else v.levels for name, v in variables.items()}
    size = int(np.prod([len(values) for values in levels.values()], dtype=float))
    if size > LARGEST_GRID:
        raise ValueError(f"the reference grid has {size} rows; keep fewer levels of some factors with at=.")
    # Slowest first, and the averaged variables slowest of all: each block of k rows is one set of means.
    averaged = [name for name in levels if name not in wanted + outer]
    order = averaged + list(outer[::-1] + wanted[::-1])
    cells = list(itertools.product(*(levels[name] for name in order)))
    rows = source.rows({name: [cell[i] for cell in cells] for i, name in enumerate(order)})
    k = int(np.prod([len(levels[name]) for name in wanted + outer]))
    L = rows.reshape(-1, k, rows.shape[1]).mean(axis=0)
    labels = tuple({name: cell[order.index(name)] for name in wanted + outer} for cell in cells[:k])
    return labels, L


def _specs_instead(text: str, known: list[str]) -> str:
    """What to write for R's "pairwise ~ a * b | g"."""
    left, _, right = text.partition("~")
    inner, _, outer = right.partition("|")
    specs = [name for name in known if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", inner)] or known[:1]
    by = [name for name in known if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", outer)]
    given = repr(specs[0] if len(specs) == 1 else specs) + (f", by={(by[0] if len(by) == 1 else by)!r}" if by else "")
    pairs = ".pairs()" if left.strip() in ("pairwise", "revpairwise") else ""
    return f"specs is R's formula {text!r}; write emmeans({given}){pairs}."


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
    try:
        return value in levels
    except (TypeError, ValueError):  # an array: equal to a level in some places only
        return False


def _names(names: Any, what: str) -> tuple[str, ...]:
    """Names of variables; in backticks or as Q('a name') too, as in a formula."""
    return tuple(QUOTED.sub(lambda m: m[1] or m[3], name) for name in name_list(names, what))


def _text(name: str, level: Any) -> str:
    """A level as part of a label; a number alone would not say what it is."""
    return f"{name}{level:g}" if isinstance(level, numbers.Real) and not isinstance(level, bool) else str(level)
