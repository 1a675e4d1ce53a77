"""Drawings of all responses at once: effects against their p-values, and distributions."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from jaxlmm.inference.multiplicity import ADJUSTMENTS, adjust_pvalues, adjustment, threshold
from jaxlmm.plots.base import (
    ABOVE,
    ADJUSTED,
    BELOW,
    GREY,
    LINE,
    RASTERIZE,
    axes_points,
    check_alpha,
    fitting,
    font_points,
    grouping_name,
    legend_inside,
    legend_outside,
    make_axes,
    note,
    one_term,
    percent,
    zero_line,
)
from jaxlmm.plots.table import ESTIMATE, fit_or_table
from jaxlmm.plots.words import cut_apart, measured, response_texts, term_text
from jaxlmm.results.results import Fit

__all__ = ["icc_distribution", "pvalue_histogram", "volcano"]

# Share of the axis that a name beside the points may take.
MOST_NAME = 0.34


def volcano(
    fit: Fit | Any,
    term: str | int | None = None,
    *,
    adjust: str = "bh",
    alpha: float = 0.05,
    label_top: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the coefficient of one fixed effect against -log10 p, one point per response.

    Parameters
    ----------
    fit : Fit, or a table such as ``fit.tidy()`` or ``fit.top(term, n=None)``
    term : str or int, optional
        Name or position of the fixed effect. Default: the only one beside the intercept.
    adjust : {"bh", "by", "bonferroni", "holm", "none"}
        How p-values are adjusted over responses; see ``adjust_pvalues``. The adjusted ones give
        the colours, the unadjusted the height.
    alpha : float
        Level at which adjusted p-values are significant.
    label_top : int
        Name that many responses, those of smallest p.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        ``ax.collections`` are the points that are not significant, below 0, above 0. The horizontal line is the
        critical unadjusted p-value: what lies on it or above it is significant, and nothing else is.

    Raises
    ------
    ValueError
        Unknown term or adjustment, alpha outside (0, 1), negative ``label_top``.
    """
    fit = fit_or_table(fit)
    j = one_term(fit, term)
    method = adjustment(adjust, ADJUSTMENTS, "adjust")
    check_alpha(alpha)
    if label_top < 0:
        raise ValueError(f"label_top must be 0 or more, found {label_top!r}.")
    p, coef = _pvalues(fit, j), fit.coef[:, j]
    known = ~np.isnan(p)
    significant = adjust_pvalues(p, method) <= alpha  # False where NaN
    with np.errstate(divide="ignore"):
        height = np.where(p > 0, -np.log10(p), np.where(known, fit.neglog10p[:, j], np.nan))

    ax = make_axes(ax, 5.5, 4.4)
    many = len(p) > RASTERIZE
    handles: list[Any] = []
    for name, where, color in (
        ("not significant", known & ~significant, GREY),
        ("below 0", significant & (coef < 0), BELOW),
        ("above 0", significant & (coef >= 0), ABOVE),
    ):
        label = f"{name}: {where.sum():,}"
        ax.scatter(
            coef[where], height[where], s=4 if many else 12, color=color, linewidths=0, alpha=0.8,
            label=label, rasterized=many,
        )  # fmt: skip
        handles.insert(0, Line2D([], [], linestyle="none", marker="o", markersize=4, color=color, label=label))
    largest = float(p[significant].max()) if significant.any() else None
    line = None
    if known.any():
        critical = threshold(int(known.sum()), int(significant.sum()), method, alpha, largest)
        line = float(-np.log10(critical)) if critical > 0 else None
    if line is not None:
        style: dict[str, Any] = {"color": "black", "linestyle": "dotted", "linewidth": 0.9}
        ax.axhline(line, zorder=0, **style)
        handles.append(Line2D([], [], label=f"{ADJUSTED[method]} p = {alpha:g}", **style))
    if not known.all():
        handles.append(note(f"without a fit: {(~known).sum():,}"))
    reach = float(np.max(np.abs(coef[known]), initial=0.0)) or 1.0
    ax.set_xlim(-1.08 * reach, 1.08 * reach)
    ax.set_ylim(0, 1.05 * float(np.max(height[known], initial=max(1.0, line or 0.0))))
    zero_line(ax, "x")
    name = fit.names[j]
    label = name if name == ESTIMATE else f"Effect of {term_text(name)}"
    ax.set(xlabel=fitting(ax, "x", measured(label, fit.labels.units)), ylabel=r"$-\log_{10}\,p$")
    legend_outside(ax, handles)
    if label_top:
        order = np.lexsort((-np.abs(coef), -height))[: min(label_top, int(known.sum()))]
        texts = response_texts(fit)
        _name_points(ax, coef[order], height[order], [texts[i] for i in order])
    return ax


def pvalue_histogram(
    fit: Fit | Any, term: str | int | None = None, *, bins: int = 20, ax: Axes | None = None
) -> Axes:
    """Draw the p-values of one fixed effect over all responses as a histogram.

    Without any effect they are uniform, up to the dashed line; bars above it at the left are
    effects, and a rise to the right points to standard errors that are too large.

    Parameters
    ----------
    fit : Fit, or a table such as ``fit.tidy()``
    term : str or int, optional
        Name or position of the fixed effect. Default: the only one beside the intercept.
    bins : int
        Number of bars, of equal width from 0 to 1.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        Unknown term, no bins.
    """
    fit = fit_or_table(fit)
    j = one_term(fit, term)
    _check_bins(bins)
    p = _pvalues(fit, j)
    known = p[~np.isnan(p)]
    counts, edges = np.histogram(known, bins=bins, range=(0.0, 1.0))
    ax = make_axes(ax, 5.0, 3.6)
    ax.bar(edges[:-1], counts, width=1 / bins, align="edge", color=BELOW, edgecolor="white", linewidth=0.5)
    level = len(known) / bins
    line = ax.axhline(level, color="black", linestyle="dashed", linewidth=1.2, label="uniform: no effects")
    ax.set(xlim=(0, 1), xlabel=fitting(ax, "x", f"p-value of {term_text(fit.names[j])}"), ylabel="Responses")
    ax.set_ylim(0, 1.05 * max(counts.max(), level, 1.0))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    missing = len(p) - len(known)
    legend_inside(ax, [line, *([note(f"without a fit: {missing:,}")] if missing else [])], loc="upper right")
    return ax


def icc_distribution(fit: Fit, *, bins: int = 30, ax: Axes | None = None) -> Axes:
    """Draw the intraclass correlations of all responses as a histogram.

    Singular fits, whose group variance is estimated as exactly 0, are drawn as one line at 0.

    Parameters
    ----------
    fit : Fit
    bins : int
        Number of bars, from 0 to the largest ICC.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        A model without random effect, no bins.
    """
    group = grouping_name(fit)
    _check_bins(bins)
    icc = fit.icc[fit.converged & ~fit.singular]
    n_singular, n_fitted = int(fit.singular.sum()), int(fit.converged.sum())
    end = float(np.max(icc, initial=0.0)) or 1.0
    counts, edges = np.histogram(icc, bins=bins, range=(0.0, end))
    ax = make_axes(ax, 5.0, 3.6)
    bars = ax.bar(
        edges[:-1], counts, width=end / bins, align="edge", color=BELOW, edgecolor="white", linewidth=0.5,
        label=f"group variance above 0: {len(icc):,}",
    )  # fmt: skip
    handles: list[Any] = [bars]
    if n_singular:
        share = percent(round(n_singular / n_fitted, 3))
        handles += ax.plot(
            [0, 0], [0, n_singular], color=ABOVE, linewidth=3, marker="o", markevery=[1], markersize=7,
            label=f"singular fits, ICC = 0: {n_singular:,} ({share})",
        )  # fmt: skip
    if n_fitted < fit.n_responses:
        handles.append(note(f"without a fit: {fit.n_responses - n_fitted:,}"))
    ax.set(xlabel=f"Intraclass correlation of {group}", ylabel="Responses")
    ax.set_xlim(-0.03 * end, 1.02 * end)
    ax.set_ylim(0, 1.08 * max(n_singular, counts.max(), 1))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    legend_inside(ax, handles, loc="upper right")
    return ax


def _pvalues(fit: Fit, j: int) -> np.ndarray:
    """p-values of one term, NaN where there is no fit to rely on."""
    return np.where(fit.converged, fit.pvalue[:, j], np.nan)


def _check_bins(bins: Any) -> None:
    if isinstance(bins, bool) or not isinstance(bins, (int, np.integer)) or bins < 1:
        raise ValueError(f"bins must be a whole number, at least 1, found {bins!r}.")


def _name_points(ax: Axes, x: np.ndarray, y: np.ndarray, names: list[str]) -> None:
    """Names at the left and right edge, in order of height and apart from each other, with lines to their points.

    The x axis is made longer, so that no point is under a name; one that would take more than a third of it is cut.
    """
    size = font_points(plt.rcParams["legend.fontsize"])
    width, height = axes_points(ax)
    low, high = ax.get_ylim()
    apart = LINE * size / height * (high - low)
    most = max(int(MOST_NAME * width / (0.6 * size)), 6)
    names, shares = cut_apart(names, most), []
    for side, at, align in ((x < 0, 0.01, "left"), (x >= 0, 0.99, "right")):
        rows = np.flatnonzero(side)
        rows = rows[np.argsort(-y[rows], kind="stable")]
        widths = [0.0]
        for i, level in zip(rows, _spread(y[rows], apart), strict=True):
            text = ax.annotate(
                names[i], (x[i], y[i]), (at, level), textcoords=("axes fraction", "data"),
                ha=align, va="center", fontsize=size,
                arrowprops={
                    "arrowstyle": "-", "color": "0.5", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2,
                    "relpos": (1.0 if align == "left" else 0.0, 0.5),
                },
            )  # fmt: skip
            widths.append(0.04 + Text.get_window_extent(text).width / ax.get_window_extent().width)
        shares.append(min(max(widths), 0.42))
    left, right = ax.get_xlim()
    span = (right - left) / (1 - sum(shares))
    ax.set_xlim(left - shares[0] * span, right + shares[1] * span)


def _spread(heights: np.ndarray, apart: float) -> np.ndarray:
    """Heights, given from the top, moved as little as it takes to be that far apart and above 0."""
    out = heights.copy()
    for k in range(1, len(out)):
        out[k] = min(out[k], out[k - 1] - apart)
    if len(out) and out[-1] < apart / 2:  # pushed through the floor: build up from there
        out[-1] = apart / 2
        for k in range(len(out) - 2, -1, -1):
            out[k] = max(out[k], out[k + 1] + apart)
    return out
