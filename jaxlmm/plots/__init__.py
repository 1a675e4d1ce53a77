"""Drawings of results: estimates and intervals in, matplotlib axes out. No statistics are computed here.

Every function draws on ``ax`` and returns it. Without ``ax``, plot_effects takes the current axes and
all others make a figure: ``jaxlmm.plots.volcano(fit, "condition").figure.savefig("volcano.png")``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from jaxlmm.plots.base import CATEGORIES, MARKERS, fitted_responses, legend_outside, make_axes, percent, term_position
from jaxlmm.plots.many import icc_distribution, pvalue_histogram, volcano
from jaxlmm.plots.maps import stat_map
from jaxlmm.plots.one import caterpillar, qq_plot, residual_plot
from jaxlmm.plots.resampling import cluster_map, null_distribution, time_course
from jaxlmm.results.results import Fit

__all__ = [
    "caterpillar",
    "cluster_map",
    "forest",
    "icc_distribution",
    "null_distribution",
    "plot_effects",
    "pvalue_histogram",
    "qq_plot",
    "residual_plot",
    "stat_map",
    "time_course",
    "volcano",
]

# Red and blue of naplib, so that old and new figures can stand side by side.
PLUS_MINUS_COLORS = ((255 / 255, 44 / 255, 0.0), (97 / 255, 164 / 255, 205 / 255))
UNCLEAR_COLOR = (0.5, 0.5, 0.5)
# Half the width of the x axis, relative to the longest reach of an interval from 0.
X_ROOM = 1.1
# Most responses that one forest can keep apart.
MOST_RESPONSES = 20


def plot_effects(
    estimate: Any,
    lower: Any,
    upper: Any,
    names: Sequence[str],
    *,
    ax: Axes | None = None,
    plus_minus_colors: Any = None,
    line_alpha: float = 0.6,
    markersize: float = 8,
    center_zero: bool = True,
    print_ylabels: bool = True,
) -> Axes:
    """Draw effects as one row each: the interval as a line, the estimate as a round marker.

    Parameters
    ----------
    estimate, lower, upper : array-like, (k,)
        Estimates and the limits of their intervals; row i is drawn at y = i. NaN is left out.
    names : sequence of str, length k
        Labels of the rows.
    ax : matplotlib Axes, optional
        Default: the current axes, ``plt.gca()``.
    plus_minus_colors : sequence of two colours, optional
        For effects whose estimate and whole interval are above 0, and below 0. Default red, blue.
        All other effects are grey.
    line_alpha : float
        Opacity of the intervals.
    markersize : float
        Size of the markers, in points.
    center_zero : bool
        Put 0 in the middle of the x axis.
    print_ylabels : bool
        Show ``names`` beside the rows.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If the arrays and names do not have one common length of at least 1.
    """
    estimate, lower, upper = (np.asarray(a, dtype=np.float64) for a in (estimate, lower, upper))
    names = list(names)
    k = len(names)
    if k == 0 or not estimate.shape == lower.shape == upper.shape == (k,):
        raise ValueError(
            "estimate, lower, upper and names must have one common length of at least 1, found shapes "
            f"{estimate.shape}, {lower.shape}, {upper.shape} and {k} names."
        )
    plus, minus = PLUS_MINUS_COLORS if plus_minus_colors is None else plus_minus_colors
    ax = plt.gca() if ax is None else ax
    # What already stands on this x axis, here or on axes that share it, must stay in view.
    occupied = any(other.has_data() for other in ax.get_shared_x_axes().get_siblings(ax))

    above, below = (estimate > 0) & (lower > 0), (estimate < 0) & (upper < 0)
    for row in range(k):
        color = plus if above[row] else minus if below[row] else UNCLEAR_COLOR
        ax.plot([lower[row], upper[row]], [row, row], color=color, alpha=line_alpha)
        ax.plot(estimate[row], row, marker="o", markersize=markersize, color=color, linestyle="none")
    if center_zero:
        ends = np.abs([estimate, lower, upper])
        reach = X_ROOM * np.max(ends, where=np.isfinite(ends), initial=0.0)
        if occupied:
            reach = max(reach, *np.abs(ax.get_xlim()))
        reach = reach or 1.0  # nothing but NaN and 0 to draw
        ax.set_xlim(-reach, reach)
    ax.axvline(0, color="black", linestyle="dashed", linewidth=1, alpha=0.5, zorder=0)  # behind the effects

    ax.set_ylim(-0.5, k - 0.5)
    ax.set_yticks(range(k), labels=names)
    ax.tick_params(left=False, labelleft=print_ylabels)
    ax.spines[["right", "top", "left"]].set_visible(False)
    return ax


def forest(
    fit: Fit, responses: Any = None, terms: Any = None, level: float = 0.95, *, ax: Axes | None = None
) -> Axes:
    """Draw the fixed effects of one or several responses with intervals, one row per term.

    Parameters
    ----------
    fit : Fit
    responses : int, str, or sequence of them, optional
        Positions or names. Default: all. Several are drawn below each other in each row, told
        apart by colour and marker.
    terms : int, str, or sequence of them, optional
        Fixed effects, by name or position; the first is drawn at the top. Default: all, less
        constant columns such as the intercept, whose scale is seldom that of effects.
    level : float
        Of the Wald intervals.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        Term i is at y = i, and the y axis points down.

    Raises
    ------
    ValueError
        Unknown term or response, a response without a fit, none or more than 20 responses.
    """
    if responses is None:
        _check_few(fit.n_responses)
        responses = slice(None)
    chosen = fitted_responses(fit, responses)
    names, columns = chosen.response_names, _chosen_terms(fit, terms)
    m, k = len(names), len(columns)
    _check_few(m)
    limits = chosen.conf_int(level)

    ax = make_axes(ax, 5.5, float(np.clip(1.1 + k * (0.25 + 0.16 * m), 2.0, 8.0)))
    step, size = 0.75 / m, 6 if m <= 8 else 4
    rows = np.arange(k)
    handles = []
    for i, name in enumerate(names):
        y = rows + (i - (m - 1) / 2) * step
        color, marker = CATEGORIES[i % len(CATEGORIES)], MARKERS[i % len(MARKERS)]
        ax.hlines(y, limits[i, columns, 0], limits[i, columns, 1], color=color, linewidth=1.8, alpha=0.7)
        handles += ax.plot(
            chosen.coef[i, columns], y, linestyle="none", marker=marker, markersize=size, color=color, label=name
        )
    ax.axvline(0, color="black", linestyle="dashed", linewidth=1, alpha=0.5, zorder=0)
    ax.set_ylim(k - 0.5, -0.5)
    ax.set_yticks(rows, labels=[fit.names[j] for j in columns])
    ax.tick_params(left=False)
    ax.spines["left"].set_visible(False)
    of = f" on {names[0]}" if m == 1 else ""
    ax.set_xlabel(f"Effect{of}, {percent(level)} interval")
    if m > 1:
        ax.hlines(rows[1:] - 0.5, 0, 1, transform=ax.get_yaxis_transform(), color="0.9", linewidth=0.8, zorder=0)
        legend_outside(ax, handles)
    return ax


def _check_few(m: int) -> None:
    if not 0 < m <= MOST_RESPONSES:
        raise ValueError(f"a forest shows 1 to {MOST_RESPONSES} responses, found {m}; choose with responses=[...].")


def _chosen_terms(fit: Fit, terms: Any) -> list[int]:
    """Columns of X to draw."""
    if terms is None:
        varies = np.flatnonzero(np.ptp(fit.design.X, axis=0) > 0)
        return (varies if len(varies) else np.arange(len(fit.names))).tolist()
    single = isinstance(terms, str) or not hasattr(terms, "__iter__")
    columns = [term_position(fit, term) for term in ([terms] if single else terms)]
    if not columns:
        raise ValueError(f"terms is empty; the terms are {', '.join(map(repr, fit.names))}.")
    return columns
