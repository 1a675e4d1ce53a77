"""Estimated marginal means, trends of a covariate, and contrasts of either.

A marginal mean is the average of the model's predictions over the rows of the reference grid that share the levels
asked for; a trend is the average of their derivatives in a covariate. Both are linear functions of the coefficients,
as contrasts of them are: for all responses at once they are matrix products.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.design.estimable import Estimable
from jaxlmm.inference import hypotheses
from jaxlmm.inference.adjustments import FamilyOfTests, adjusted_halfwidth, adjusted_pvalues, correlations, suitable
from jaxlmm.inference.averaging import average
from jaxlmm.inference.comparisons import Comparison, comparison
from jaxlmm.inference.estimates import Estimates
from jaxlmm.inference.grid import RowSource, reference_grid
from jaxlmm.inference.hypotheses import TTest, t_table
from jaxlmm.inference.largest import accuracy
from jaxlmm.inference.specs import OVERALL, Specs, names_of, read_specs
from jaxlmm.inference.tabular import Table, Tabular
from jaxlmm.runtime.arguments import shown
from jaxlmm.runtime.pictures import Pictured
from jaxlmm.runtime.text import Text

__all__ = ["Contrasts", "EMMeans", "MeansAndContrasts", "emmeans", "marginal_means"]

NOT_ESTIMABLE = "NaN: the data do not determine it, since some combination of levels has no row"


@dataclass(frozen=True, eq=False, repr=False)
class Contrasts(Tabular):
    """Contrasts of marginal means, or of trends, for m responses; arrays (m, c) for c contrasts.

    Attributes
    ----------
    labels : tuple of str
        "A - B": the first mean less the second.
    by : tuple of dict
        The levels of the ``by`` variables at which the contrast is made; empty dicts without.
    adjust : str
        The adjustment of ``pvalue``.
    test : TTest
        The t tests, with p-values not adjusted.
    families : tuple of (start, stop, n_means, rank)
        The contrasts that are adjusted together, how many means they compare, and how many are independent.
    axes : dict of str to sequence
        What tells the contrasts apart: all combinations, the last varying fastest.
    """

    labels: tuple[str, ...]
    by: tuple[dict[str, Any], ...]
    adjust: str
    test: TTest
    families: tuple[tuple[int, int, int, int], ...]
    axes: dict[str, Sequence[Any]]
    covariance: Callable[[slice], np.ndarray]
    notes: tuple[str, ...] = ()
    per: str | None = None

    @property
    def L(self) -> np.ndarray:
        """Weights of the fixed effects, (c, p); NaN for a contrast that the data do not determine."""
        return self.test.L

    @property
    def estimate(self) -> np.ndarray:
        """The contrasts."""
        return self.test.estimate

    @property
    def se(self) -> np.ndarray:
        """Their standard errors."""
        return self.test.se

    @property
    def df(self) -> np.ndarray:
        """Degrees of freedom of each contrast."""
        return self.test.df

    @property
    def statistic(self) -> np.ndarray:
        """Test statistics estimate / se."""
        return self.test.statistic

    @functools.cached_property
    def pvalue(self) -> np.ndarray:
        """Two-sided p-values, adjusted for the contrasts of one response at one level of ``by``."""
        raw = self.test.pvalue
        out = np.array(raw)
        for where, tests in self._families(raw):
            out[:, where] = adjusted_pvalues(self.adjust, tests)
        return out

    def conf_int(self, level: float = 0.95) -> np.ndarray:
        """Lower and upper limit of each contrast, (m, c, 2): simultaneous at one level of ``by``, by ``adjust``.

        Methods that reject step by step have no intervals of their own; theirs are Bonferroni's, as emmeans'.
        """
        half = np.full(self.se.shape, np.nan)
        for where, tests in self._families(self.test.pvalue):
            half[:, where] = adjusted_halfwidth(self.adjust, tests, level)
        half *= self.se
        return np.stack([self.estimate - half, self.estimate + half], axis=-1)

    def _families(self, pvalue: np.ndarray) -> list[tuple[slice, FamilyOfTests]]:
        out = []
        for start, stop, n_means, rank in self.families:
            at = slice(start, stop)
            there = functools.partial(self._correlations, at)
            out.append(
                (at, FamilyOfTests(self.statistic[:, at], self.df[:, at], pvalue[:, at], n_means, rank, there))
            )
        return out

    def _correlations(self, at: slice) -> np.ndarray:
        return correlations(self.covariance(at))

    def _table(self, level: float) -> Table:
        title = "Contrasts" + ("" if self.adjust == "none" else f", P adjusted by {self.adjust}")
        notes = self.notes
        if self.adjust == "mvt" and self.families:
            notes += (f"P by mvt: {accuracy(self._correlations(slice(*self.families[0][:2])))}",)
        return t_table(title, self.axes, self.test, self.pvalue, None, notes=notes, per=self.per)


@dataclass(frozen=True, eq=False, repr=False)
class EMMeans(Tabular, Pictured):
    """Estimated marginal means of m responses, or trends; arrays (m, k) for k means.

    The means are on the scale of the response as it was fitted.

    Attributes
    ----------
    labels : tuple of dict
        Levels of the variables, those of ``specs`` and of ``by``.
    specs, by : tuple of str
        The first of ``specs`` varies fastest, and all of them faster than those of ``by``.
    full : ndarray, (k, p_all)
        Weights of all columns of X, also of those that were not fitted since the data do not determine them.
    trend : str or None
        The covariate whose slopes these are.
    """

    labels: tuple[dict[str, Any], ...]
    specs: tuple[str, ...]
    by: tuple[str, ...]
    full: np.ndarray
    estimable: Estimable
    estimates: Estimates
    df_method: str
    notes: tuple[str, ...] = ()
    trend: str | None = None

    @functools.cached_property
    def L(self) -> np.ndarray:
        """Weights of the fixed effects, (k, p); NaN for a mean that the data do not determine."""
        return self.estimable.weights(self.full)

    @functools.cached_property
    def _test(self) -> TTest:
        return _tested(self.estimates, self.L, self.df_method)

    @property
    def names(self) -> tuple[str, ...]:
        """One text a mean: its levels of ``specs``."""
        return tuple(_name(label, self.specs) for label in self.labels)

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
        axes = _axes(self.labels, (self.specs + self.by)[::-1]) or {OVERALL: ["overall"]}
        title = f"Slopes of {self.trend}" if self.trend else "Estimated marginal means"
        notes = self.notes if np.isfinite(self.L).all() else (*self.notes, NOT_ESTIMABLE)
        return t_table(title, axes, self, None, self.conf_int(level), notes=notes, per=self.trend)

    def pairs(
        self,
        adjust: str | None = "tukey",
        *,
        by: Any = None,
        reverse: bool = False,
        exclude: Any = None,
        include: Any = None,
    ) -> Contrasts:
        """Compare every mean with every later one, within each level of ``by``; see :meth:`contrast`.

        Parameters
        ----------
        adjust : str
            Adjustment of the p-values for the pairs of one response at one level of ``by``, not for the number of
            responses. "tukey": the studentized range with each difference's own degrees of freedom (Tukey-Kramer).
        by : str or sequence of str, optional
            Variables in the place of those that the means were divided by; ``[]`` for none.
        reverse : bool
            The second less the first.
        exclude, include : str or sequence of str, optional
            As of :meth:`contrast`.
        """
        found = self.contrast("pairwise", adjust=adjust, by=by, reverse=reverse, exclude=exclude, include=include)
        if not found.labels:
            names = ", ".join(self.specs) or "the overall mean"
            raise ValueError(f"{names} has a single marginal mean, so there is nothing to compare.")
        return found

    def test(self, adjust: str = "none") -> Contrasts:
        """t tests that each mean, or trend, is 0, as R's ``test(emmeans(...))``."""
        return self.contrast("identity", adjust=adjust)

    def contrast(
        self,
        method: Any = "eff",
        *,
        adjust: str | None = None,
        by: Any = None,
        ref: Any = None,
        reverse: bool = False,
        interaction: bool = False,
        exclude: Any = None,
        include: Any = None,
    ) -> Contrasts:
        """Contrasts of the means within each level of ``by``, as R's ``contrast``.

        Parameters
        ----------
        method : str; dict of weights by the names of contrasts; or array-like, (k,) or (q, k)
            - "pairwise", "revpairwise": all differences;
            - "trt.vs.ctrl": from the mean ``ref``, by default the first; "trt.vs.ctrlk": from the last;
            - "eff", "del.eff": from the mean of all, or of all others;
            - "consec", "mean_chg": of neighbours; of all later means from all earlier ones;
            - "poly": orthogonal polynomials of the positions, in integers;
            - "identity": the means themselves.

            Weights are for the k means at one level of ``by``, or a dict from names of means:
            ``{"b vs rest": {"b": 1, "a": -0.5, "c": -0.5}}``.
        adjust : str, optional
            Adjustment of the p-values for the contrasts of one response at one level of ``by``: "tukey" (of pairs
            alone), "dunnettx" (emmeans' approximation), "mvt" (of the largest of the correlated t: by quadrature for
            three means, and from a control in balanced designs; else to 0.2 to 1 percent, as the table says),
            "scheffe", "sidak", "bonferroni", "holm", "hochberg", "hommel", "bh" ("fdr"), "by",
            "none". Default: emmeans' for the method:
            tukey for pairs, dunnettx from a control, mvt for "consec" and "mean_chg", fdr for effects, else none.
        by : str or sequence of str, optional
            Variables in the place of those that the means were divided by; ``[]`` for none.
        ref : str or sequence of str, optional
            What "trt.vs.ctrl" compares with: the name of a mean, or of several, which are averaged.
        reverse : bool
            Turn the differences round.
        interaction : bool
            Contrasts of contrasts: the method for each variable, and all products of them; adjusted by "none" unless
            ``adjust`` says otherwise.
        exclude, include : str or sequence of str, optional
            Names of means that have no part in the comparison, or of the only ones that have, within each level of
            ``by``. Those left out do not count for ``adjust`` either.

        Raises
        ------
        ValueError
            An unknown method, mean, variable or adjustment, weights of another length.
        """
        own = self.by if by is None else names_of(by, "by")
        known = self.specs + self.by
        for name in own:
            if name not in known:
                raise ValueError(f"by names {name!r}; the means are those of {', '.join(known) or 'everything'}.")
        outer = tuple(name for name in known if name in own)
        inner = tuple(name for name in known if name not in own)
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i, label in enumerate(self.labels):
            groups.setdefault(tuple(label[name] for name in outer), []).append(i)
        first = next(iter(groups.values()))
        left = {"exclude": exclude, "include": include}
        made, axes = self._comparison(
            method, [self.labels[i] for i in first], inner, interaction, ref=ref, reverse=reverse, **left
        )
        default = "none" if interaction else made.adjust
        word, note = suitable(default if adjust is None else adjust, made.pairs, len(made.names))
        q, rank = len(made.names), int(np.linalg.matrix_rank(made.weights)) if made.names else 0
        full = np.concatenate([made.weights @ np.nan_to_num(self.full[rows]) for rows in groups.values()])
        lost = np.concatenate(
            [(made.weights != 0) @ np.isnan(self.full[rows]).any(axis=1) for rows in groups.values()]
        )
        full[lost.astype(bool)] = np.nan
        L = self.estimable.weights(full)
        notes = [*self.notes, *([note] if note else []), *([] if np.isfinite(L).all() else [NOT_ESTIMABLE])]
        return Contrasts(
            made.names * len(groups),
            tuple(dict(zip(outer, levels, strict=True)) for levels in groups for _ in range(q)),
            word,
            _tested(self.estimates, L, self.df_method),
            tuple((j * q, (j + 1) * q, made.n_means, rank) for j in range(len(groups))),
            _axes(self.labels, outer[::-1]) | axes,
            lambda at: _covariance(self.estimates, L[at], self.df_method),
            tuple(notes),
            self.trend,
            responses=self.responses,
        )

    def _comparison(
        self,
        method: Any,
        labels: list[dict[str, Any]],
        inner: tuple[str, ...],
        products: bool,
        **options: Any,
    ) -> tuple[Comparison, dict[str, Sequence[Any]]]:
        """The weights for the means of one level of by, and the axes of the contrasts."""
        if not products:
            made = comparison(method, [_bracketed(_name(label, inner)) for label in labels], **options)
            return made, {"contrast": made.names}
        if not isinstance(method, str):
            raise ValueError(f"interaction=True takes the name of a method for each variable, found {shown(method)}.")
        if options["exclude"] is not None or options["include"] is not None:
            raise ValueError("exclude and include go with one comparison; with interaction=True take levels by at=.")
        names: list[str] = [""]
        weights = np.ones((1, 1))
        axes: dict[str, Sequence[Any]] = {}
        for name in inner:
            levels = list(dict.fromkeys(label[name] for label in labels))
            one = comparison(method, [_bracketed(_text(name, level)) for level in levels], **options)
            weights = np.kron(one.weights, weights)
            names = [f"{old}, {new}" if old else new for new in one.names for old in names]
            axes = {f"{name}_{method}": one.names, **axes}
        return Comparison(tuple(names), weights, "none"), axes


@dataclass(frozen=True, eq=False, repr=False)
class MeansAndContrasts:
    """What R's ``emmeans(fit, pairwise ~ a)`` gives: ``emmeans`` and ``contrasts``."""

    emmeans: EMMeans
    contrasts: Contrasts

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def summary(self, response: int | str | None = None, *, level: float = 0.95) -> Text:
        """Both tables, of one response (its label or position), or of an overview of all."""
        both = [part.summary(response, level=level) for part in (self.emmeans, self.contrasts)]
        return Text("\n\n".join(both))


def emmeans(
    source: RowSource,
    estimates: Estimates,
    df_method: str,
    specs: Any,
    by: Any = None,
    at: Any = None,
    weights: Any = "equal",
    *,
    var: str | None = None,
    responses: Any = None,
) -> EMMeans | MeansAndContrasts:
    """Marginal means of fits, or with ``var`` trends; other arguments and errors as in :func:`marginal_means`."""
    wanted = read_specs(specs, by, [v.name for v in source.variables])
    labels, L = _means(source, wanted, at, weights, var)
    notes = _notes(source, wanted, at, weights, var)
    made = EMMeans(
        labels, wanted.specs, wanted.by, L, source.estimable, estimates, df_method, notes, var, responses=responses
    )
    if wanted.method is None:
        return made
    return MeansAndContrasts(made, made.contrast(wanted.method))


def marginal_means(
    source: RowSource,
    specs: Any,
    by: Any = None,
    at: Any = None,
    weights: Any = "equal",
    *,
    var: str | None = None,
) -> tuple[tuple[dict[str, Any], ...], np.ndarray]:
    """The weights of the columns of X that give marginal means.

    Parameters
    ----------
    source : RowSource
    specs : str or sequence of str
        The variables at whose levels means are wanted, or R's formula.
    by : str or sequence of str, optional
        More such variables, within whose levels means will be compared.
    at : mapping of str to value or values, optional
        Covariates: values in place of the mean. Factors: the levels to keep. Averages over a
        variable not in ``specs`` or ``by`` are over these values.
    weights : str or sequence of float
        See :func:`jaxlmm.inference.averaging.average`.
    var : str, optional
        The covariate whose slopes are wanted, in place of means.

    Returns
    -------
    labels : tuple of dict
        Levels of ``specs`` and ``by``.
    L : ndarray, (k, p_all)

    Raises
    ------
    ValueError
        Unknown variables or levels, no variable, one in both ``specs`` and ``by``, a huge grid.
    """
    wanted = read_specs(specs, by, [v.name for v in source.variables])
    return _means(source, wanted, at, weights, var)


def _means(
    source: RowSource, wanted: Specs, at: Any, weights: Any, var: str | None
) -> tuple[tuple[dict[str, Any], ...], np.ndarray]:
    grid = reference_grid(source, at)
    if var is not None:
        grid = grid.slopes(source, var)
    return average(grid, (*wanted.specs, *wanted.by), weights)


def _notes(source: RowSource, wanted: Specs, at: Any, weights: Any, var: str | None) -> tuple[str, ...]:
    """What emmeans says of averages: over which variables, and that they interact with those asked for."""
    given = dict(at or {})
    facing = {*wanted.specs, *wanted.by, *([var] if var else [])}
    over = [
        v.name
        for v in source.variables
        if v.name not in facing and len(np.atleast_1d(np.array(given.get(v.name, v.levels), dtype=object))) > 1
    ]
    notes = []
    if source.offset is not None and var is None:
        notes.append(f"Of the response less its offset {source.offset}")
    if over:
        kind = f"weights {weights!r}" if isinstance(weights, str) else "weights as given"
        notes.append(f"Averaged over {', '.join(over)}" + ("" if weights == "equal" else f", {kind}"))
    if facing and any(facing < term for term in source.term_variables):
        notes.append("The variables interact with others: averages over these may mislead")
    return tuple(notes)


def _tested(estimates: Estimates, L: np.ndarray, df_method: str) -> TTest:
    """t tests of the rows of L that hold no NaN; NaN for the others."""
    good = np.isfinite(L).all(axis=1)
    found = hypotheses.t_test(estimates, L[good], np.zeros(int(good.sum())), df_method)
    if good.all():
        return found
    m, q = len(estimates), len(L)

    def spread(values: np.ndarray) -> np.ndarray:
        out = np.full((m, q), np.nan)
        out[:, good] = values
        return out

    return TTest(L, np.zeros(q), spread(found.estimate), spread(found.se), spread(found.df))


def _covariance(estimates: Estimates, L: np.ndarray, df_method: str) -> np.ndarray:
    """Covariances (m, q, q) of contrasts; those with NaN weights have variance 0."""
    return hypotheses.contrast_vcov(estimates, np.nan_to_num(L), df_method)


def _axes(labels: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Sequence[Any]]:
    return {name: list(dict.fromkeys(label[name] for label in labels)) for name in names}


def _name(label: Mapping[str, Any], names: Sequence[str]) -> str:
    return " ".join(_text(name, label[name]) for name in names) or "overall"


def _bracketed(name: str) -> str:
    """A name as part of "a - b"."""
    return f"({name})" if "-" in name else name


def _text(name: str, level: Any) -> str:
    """A level as part of a label; a number alone would not say what it is."""
    if isinstance(level, numbers.Real) and not isinstance(level, (bool, np.bool_)):
        return f"{name}{level:g}"
    return str(level)
