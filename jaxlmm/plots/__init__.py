"""Drawings of results: estimates and intervals in, matplotlib axes out. No statistics are computed here.

Every function draws on ``ax`` and returns it. Without ``ax``, plot_effects takes the current axes and
all others make a figure: ``jaxlmm.plots.volcano(fit, "condition").figure.savefig("volcano.png")``. Those of a fit
are methods of ``fit.plot`` too, which lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from jaxlmm.plots.base import paper
from jaxlmm.plots.courses import effect_by_lag, erp, time_course
from jaxlmm.plots.forest import forest
from jaxlmm.plots.groups import group_lines
from jaxlmm.plots.many import icc_distribution, pvalue_histogram, volcano
from jaxlmm.plots.maps import stat_map, stat_maps
from jaxlmm.plots.means import marginal_means
from jaxlmm.plots.one import caterpillar, qq_plot, residual_plot
from jaxlmm.plots.resampling import cluster_map, null_distribution
from jaxlmm.plots.scalp import topomap

__all__ = [
    "caterpillar",
    "cluster_map",
    "effect_by_lag",
    "erp",
    "forest",
    "group_lines",
    "icc_distribution",
    "marginal_means",
    "null_distribution",
    "paper",
    "plot_effects",
    "pvalue_histogram",
    "qq_plot",
    "residual_plot",
    "stat_map",
    "stat_maps",
    "time_course",
    "topomap",
    "volcano",
]

# Red and blue of naplib, so that old and new figures can stand side by side.
PLUS_MINUS_COLORS = ((255 / 255, 44 / 255, 0.0), (97 / 255, 164 / 255, 205 / 255))
UNCLEAR_COLOR = (0.5, 0.5, 0.5)
# Half the width of the x axis, relative to the longest reach of an interval from 0.
X_ROOM = 1.1


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
