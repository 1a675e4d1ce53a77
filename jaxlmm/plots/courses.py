"""Courses over one dimension of the responses, such as time: effects, means by condition, effects lag by lag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.linalg
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxlmm.inference.distributions import check_level
from jaxlmm.inference.emmeans import EMMeans
from jaxlmm.inference.hypotheses import f_test
from jaxlmm.inference.multiplicity import ADJUSTMENTS, adjust_pvalues, adjustment
from jaxlmm.plots.base import (
    ABOVE,
    ADJUSTED,
    BELOW,
    CATEGORIES,
    MARKERS,
    check_alpha,
    effect_columns,
    fitting,
    legend_outside,
    make_axes,
    one_term,
    percent,
    spans,
    zero_line,
)
from jaxlmm.plots.means import MOST, level_ticks, style_of
from jaxlmm.plots.table import fit_or_table
from jaxlmm.plots.words import cut, dim_label, level_texts, measured, number_texts, term_text
from jaxlmm.resampling.result import PermutationTest
from jaxlmm.results.results import Fit
from jaxlmm.runtime.arguments import name_list

__all__ = ["effect_by_lag", "erp", "time_course"]

# Points are drawn, not a line alone, where there are so few.
FEW = 12
# What a difference of means adds to others, relative to the largest, must be more than this.
RANK = 1e-7
# Greys of the spans of several tests.
SHADES = ("0.15", "0.5", "0.7")


def time_course(
    fit: Fit | Any,
    term: int | str | None = None,
    band: Any = None,
    *,
    test: Any = None,
    alpha: float = 0.05,
    level: float = 0.95,
    band_label: str = "simultaneous band",
    ax: Axes | None = None,
) -> Axes:
    """Draw an effect over the one dimension of the responses, such as time, with intervals or a band.

    Parameters
    ----------
    fit : Fit, or a table such as ``fit.tidy()``
        Of responses with one dimension, labelled by increasing numbers or not labelled.
    term : int or str, optional
        A coefficient, by name or position. Default: the only one beside the intercept.
    band : array-like, (m, 2), optional
        Lower and upper limits, such as :meth:`~jaxlmm.resampling.bootstrap.Bootstrap.band` gives;
        default: pointwise intervals.
    test : PermutationTest, str, array-like of bool (m,), or dict of name to any of these; optional
        What is significant is marked below the curve: corrected p-values of the test; those of the coefficient by an
        adjustment such as "bh", over all responses; or what is given. Each entry of a dict has a row.
    alpha : float
        Level of the marks.
    level : float
        Of the pointwise intervals.
    band_label : str
        What the legend calls ``band``.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        Responses without a fit are gaps.

    Raises
    ------
    ValueError
        Responses with another number of dimensions; a band or a test of another length; unknown term.
    """
    fit = fit_or_table(fit)
    check_alpha(alpha)
    x, label = _course(fit, "a time course")
    j, m = one_term(fit, term), fit.n_responses
    limits = fit.conf_int(level)[:, j] if band is None else np.asarray(band, dtype=np.float64)
    if limits.shape != (m, 2):
        raise ValueError(f"the fit has {m} responses: band must be ({m}, 2) and test of as many.")
    marked = _marked(fit, test, alpha, lambda: _adjusted(fit, fit.pvalue[:, j]))
    ax = make_axes(ax, 6.0, 3.2)
    name = f"{percent(level)} interval, pointwise" if band is None else band_label
    text = term_text(fit.names[j])
    handles = [
        *_line(ax, x, fit.coef[:, j], {"color": BELOW, "linestyle": "-"}, text),
        _band(ax, x, limits, BELOW, 0.25, name),
    ]
    _finish(ax, x, label, measured(f"Effect of {text}", fit.labels.units))
    colours = [ABOVE, *SHADES]
    handles += spans(ax, x, [(said, mask, colours[k % 4]) for k, (said, mask) in enumerate(marked)])
    legend_outside(ax, handles)
    return ax


def erp(
    fit: Fit | EMMeans,
    specs: Any = None,
    *,
    at: Mapping[str, Any] | None = None,
    test: Any = "bh",
    alpha: float = 0.05,
    level: float = 0.95,
    weights: Any = "equal",
    ax: Axes | None = None,
) -> Axes:
    """Draw the marginal mean of each condition over time, with bands, and what differs significantly below.

    Parameters
    ----------
    fit : Fit by formula, or what ``fit.emmeans(...)`` gives
        Of responses with one dimension, such as ``fit.sel(channel="Cz")``.
    specs : str or sequence of str
        Variables of the formula: a curve for each combination of their levels. A covariate has its mean and one
        standard deviation below and above. May be left out of marginal means.
    at : mapping of str to value or values, optional
        As in :meth:`jaxlmm.Fit.emmeans`.
    test : str, PermutationTest, array-like of bool (m,), dict of name to any of these, or None
        What the bars below mark: an adjustment such as "bh" of the F tests that all curves are equal, over all
        responses of ``fit``; the corrected p-values of a test; what is given. Each entry of a dict has a row.
    alpha : float
        Level of the bars.
    level : float
        Of the bands, which hold for each mean and each time alone.
    weights : str or sequence of float
        As in :meth:`jaxlmm.Fit.emmeans`.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        ``ax.lines`` begin with the curves. Responses without a fit are gaps.

    Raises
    ------
    ValueError
        Responses with another number of dimensions; unknown variables; more than 8 curves; a test of another length.

    Notes
    -----
    The band of a mean includes the differences between subjects, which a comparison within subjects does not: bands
    that overlap say nothing about whether conditions differ. The bars do.
    """
    check_level(level)
    check_alpha(alpha)
    means, labels = _means(fit, specs, at, weights)
    x, label = _course(labels, "an ERP")
    names = (*means.specs, *means.by)
    rows = means.labels
    if not 0 < len(rows) <= MOST:
        raise ValueError(f"there are {len(rows)} curves; colours tell at most {MOST} apart: keep some with at=.")
    texts = _texts(rows, names)
    marked = _marked(labels, test, alpha, lambda: _differ(means))
    limits = means.conf_int(level)
    ax = make_axes(ax, 6.0, 3.4)
    handles: list[Any] = []
    for k, text in enumerate(texts):
        style = style_of(k)
        _band(ax, x, limits[:, k], style["color"], 0.2)
        handles += _line(ax, x, means.estimate[:, k], style, cut(text, 40))
    _finish(ax, x, label, measured("Mean", labels.labels.units))
    handles += spans(ax, x, [(said, mask, SHADES[k % 3]) for k, (said, mask) in enumerate(marked)])
    legend_outside(ax, handles, title=f"{', '.join(names)}; {percent(level)} interval")
    return ax


def effect_by_lag(
    fit: Fit | Any,
    terms: Any = None,
    *,
    adjust: str = "bh",
    alpha: float = 0.05,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Draw effects at each time lag, or window, as points with intervals; those that are significant are filled.

    Parameters
    ----------
    fit : Fit, or a table such as ``fit.tidy()``
        Of responses with one dimension: lags, windows, bands. Its labels are numbers or names.
    terms : int, str, or sequence of them, optional
        Fixed effects, by name or position. Default: all but the intercept.
    adjust : {"bh", "by", "bonferroni", "holm", "none"}
        How p-values are adjusted over the lags, each term for itself.
    alpha : float
        Level at which adjusted p-values are significant.
    level : float
        Of the intervals.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        Of each term a thin line, then its points, filled and open.

    Raises
    ------
    ValueError
        Responses with another number of dimensions; unknown terms or adjustment; more than 8 terms.
    """
    fit = fit_or_table(fit)
    check_alpha(alpha)
    method = adjustment(adjust, ADJUSTMENTS, "adjust")
    x, label = _course(fit, "an effect by lag", names=True)
    columns = effect_columns(fit, terms)
    if len(columns) > MOST:
        raise ValueError(
            f"there are {len(columns)} terms, of which colours tell at most {MOST} apart: choose terms=."
        )
    p = np.where(fit.converged[:, None], fit.pvalue[:, columns], np.nan)
    significant = adjust_pvalues(p, method, axis=0) <= alpha
    limits = fit.conf_int(level)[:, columns]
    ax = make_axes(ax, 6.0, 3.4)
    step = float(np.min(np.diff(x), initial=np.inf)) if len(x) > 1 else 1.0
    shift = min(0.6 / len(columns), 0.18) * step
    handles: list[Any] = []
    for k, j in enumerate(columns):
        at = x + (k - (len(columns) - 1) / 2) * shift
        color, marker = CATEGORIES[k % len(CATEGORIES)], MARKERS[k % len(MARKERS)]
        style: dict[str, Any] = {"linestyle": "none", "marker": marker, "markersize": 4, "color": color}
        ax.plot(at, fit.coef[:, j], color=color, linewidth=0.7, alpha=0.5)
        ax.vlines(at, limits[:, k, 0], limits[:, k, 1], color=color, linewidth=1.0)
        found = significant[:, k]
        ax.plot(at[found], fit.coef[found, j], **style)
        ax.plot(at[~found], fit.coef[~found, j], **style, markerfacecolor="white", markeredgewidth=0.9)
        handles.append(Line2D([], [], label=term_text(fit.names[j]), **style))
    _finish(ax, x, label, measured("Effect" if len(columns) > 1 else f"Effect of {term_text(fit.names[columns[0]])}",
                                   fit.labels.units))  # fmt: skip
    ax.set_xlim(x[0] - 0.6 * step, x[-1] + 0.6 * step)
    _name_lags(ax, fit, x)
    filled: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4, "color": "0.35"}
    if len(columns) == 1:
        handles = []
    handles += [
        Line2D([], [], label=f"{ADJUSTED[method]} p ≤ {alpha:g}", **filled),
        Line2D([], [], label="not significant", **filled, markerfacecolor="white"),
    ]
    legend_outside(ax, handles)
    return ax


# -- parts ------------------------------------------------------------------------------------------


def _course(fit: Any, what: str, *, names: bool = False) -> tuple[np.ndarray, str]:
    """Where the responses are along their dimension, and what it is called."""
    if len(fit.dims) != 1:
        listed = ", ".join(map(str, fit.dims)) or "none"
        raise ValueError(
            f"{what} needs one dimension, the responses have {len(fit.dims)}: {listed}; choose labels of the others "
            "with sel, such as fit.sel(channel='Cz')."
        )
    dim = fit.dims[0]
    coord = fit.labels.coords.get(dim)
    label = dim_label(fit.labels, dim)
    m = len(fit.response_names)
    if coord is None or coord.levels or np.asarray(coord.values).dtype.kind not in "iuf":
        if coord is not None and not names:
            raise ValueError(f"{what} needs labels that are numbers, those of {dim!r} are not; draw a forest.")
        return np.arange(m, dtype=float), label
    x = np.asarray(coord.values, dtype=np.float64)
    if np.any(np.diff(x) <= 0):
        raise ValueError(f"the labels of {dim!r} must increase from each response to the next; sort them with sel.")
    return x, label


def _means(fit: Any, specs: Any, at: Any, weights: Any) -> tuple[EMMeans, Any]:
    """Marginal means of all responses, and what has these."""
    if isinstance(fit, EMMeans):
        if fit.responses is None or specs is not None:
            raise ValueError("marginal means bring their variables: leave out specs, or give the fit.")
        return fit, _Labelled(fit.responses)
    if not hasattr(fit, "emmeans"):
        raise ValueError(f"fit must be a Fit by formula, or its emmeans, found {type(fit).__name__}.")
    if specs is None:
        raise ValueError("say which conditions are to be drawn: specs='cond', or ['cond', 'group'].")
    names, given = name_list(specs, "specs"), dict(at or {})
    variables = {v.name: v for v in fit.source.variables} if fit.source is not None else {}
    for name in names:
        if (
            name in variables
            and name not in given
            and not variables[name].factor
            and len(variables[name].levels) == 1
        ):
            values = np.asarray(fit.source.values(name), dtype=np.float64)
            mean, sd = float(values.mean()), float(values.std(ddof=1))
            given[name] = [mean - sd, mean, mean + sd]
    found = fit.emmeans(specs, at=given or None, weights=weights)
    if not isinstance(found, EMMeans):
        raise ValueError("specs must be names of variables; what compares means goes to test=.")
    return found, fit


class _Labelled:
    """Labels alone, in the place of a fit."""

    def __init__(self, labels: Any):
        self.labels, self.dims, self.response_names, self.n_responses = labels, labels.dims, labels.names, labels.size


def _texts(rows: Any, names: tuple[str, ...]) -> list[str]:
    """A text for each combination of levels."""
    parts = []
    for name in names:
        values = [row[name] for row in rows]
        numeric = all(isinstance(v, float) for v in values)
        texts = number_texts(np.asarray(values)) if numeric else level_texts(name, np.asarray(values, dtype=object))
        parts.append([f"{name} = {text}" if numeric and len(names) > 1 else text for text in texts])
    return [", ".join(row) for row in zip(*parts, strict=True)]


def _differ(means: EMMeans) -> np.ndarray:
    """p-values (m,) of all means being equal; NaN where there is one mean, or the data do not determine them."""
    L = means.L
    if len(L) < 2 or not np.isfinite(L).all():
        return np.full(len(means.estimate), np.nan)
    differences = L[1:] - L[0]
    # Those that no others imply, whatever the units of the columns.
    size = np.linalg.norm(differences, axis=0)
    _, R, order = scipy.linalg.qr((differences / np.where(size > 0, size, 1.0)).T, mode="economic", pivoting=True)
    diagonal = np.abs(np.diag(R))
    rows = order[: len(diagonal)][diagonal > RANK * diagonal.max()] if diagonal.size and diagonal.max() else order[:0]
    if not len(rows):
        return np.full(len(means.estimate), np.nan)
    return np.asarray(f_test(means.estimates, differences[rows], np.zeros(len(rows)), means.df_method).pvalue)


def _adjusted(fit: Any, p: np.ndarray) -> np.ndarray:
    return np.where(fit.converged, p, np.nan)


def _marked(fit: Any, test: Any, alpha: float, pvalues: Any) -> list[tuple[str, np.ndarray]]:
    """What is marked below, as (label, mask (m,)) each; ``pvalues`` gives those that an adjustment is for."""
    if test is None:
        return []
    out = []
    several = isinstance(test, Mapping)
    for name, one in test.items() if several else [("", test)]:
        if isinstance(one, str):
            method = adjustment(one, ADJUSTMENTS, "test")
            mask = adjust_pvalues(pvalues(), method) <= alpha
            said = f"{ADJUSTED[method]} p ≤ {alpha:g}"
        elif isinstance(one, PermutationTest):
            mask, said = one.pvalue_corrected <= alpha, f"corrected p ≤ {alpha:g}"
        else:
            mask, said = np.asarray(one), "significant"
            if mask.dtype != bool:
                raise ValueError(
                    f"test must be booleans such as p <= 0.05, a PermutationTest or a method, found {mask.dtype}."
                )
        if mask.shape != (fit.n_responses,):
            raise ValueError(f"the fit has {fit.n_responses} responses: test must be of as many, found {mask.shape}.")
        out.append((f"{name}: {said}" if name else said, mask))
    return out


def _line(ax: Axes, x: np.ndarray, y: np.ndarray, style: dict[str, Any], label: str) -> list[Any]:
    """A curve; with points where there are few of them, or none has a neighbour."""
    there = np.isfinite(y)
    alone = len(x) <= FEW or not np.any(there[1:] & there[:-1])
    made = ax.plot(x, y, linewidth=1.5, label=label, marker="o" if alone else "", markersize=3, **style)
    return list(made)


def _band(ax: Axes, x: np.ndarray, limits: np.ndarray, color: Any, alpha: float, label: str | None = None) -> Any:
    """A band between limits (m, 2); a line where a response has no neighbour."""
    there = np.isfinite(limits).all(axis=1)
    alone = there & ~np.append(there[1:], False) & ~np.append(False, there[:-1])
    ax.vlines(x[alone], *limits[alone].T, color=color, linewidth=1.0, alpha=0.7)
    return ax.fill_between(x, *limits.T, color=color, alpha=alpha, linewidth=0, label=label)


def _finish(ax: Axes, x: np.ndarray, label: str, text: str) -> None:
    """Zero lines and labels of axes."""
    zero_line(ax, "y")
    if x[0] < 0 < x[-1]:
        zero_line(ax, "x")
    ax.set(xlabel=fitting(ax, "x", label), ylabel=fitting(ax, "y", text))
    half = 0.0 if len(x) > 1 else 0.5
    ax.set_xlim(x[0] - half, x[-1] + half)


def _name_lags(ax: Axes, fit: Any, x: np.ndarray) -> None:
    """The lags themselves below the axis, where they are names."""
    coord = fit.labels.coords.get(fit.dims[0])
    if coord is None or coord.values is None or np.asarray(coord.values).dtype.kind in "iuf":
        return
    level_ticks(ax, [str(value) for value in np.asarray(coord.values).tolist()])
