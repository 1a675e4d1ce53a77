"""Permutation tests: the map with its clusters, the null distribution of the largest score."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxlmm.plots.base import ABOVE, GREY, check_alpha, font_points, legend_outside, make_axes
from jaxlmm.plots.maps import stat_map
from jaxlmm.plots.order import row_order
from jaxlmm.resampling.result import PermutationTest

__all__ = ["cluster_map", "null_distribution"]

# Most clusters whose p-values stand in the legend.
MOST_NAMED = 4
SCORES = {"max": "largest statistic", "cluster": "mass of the largest cluster", "tfce": "largest enhanced statistic"}


def cluster_map(
    test: PermutationTest, *, alpha: float = 0.05, order: Any = None, ax: Axes | None = None, **options: Any
) -> Axes:
    """Draw the statistics of responses with two dimensions, lines around what is significant, clusters by number.

    Parameters
    ----------
    test : PermutationTest
        Of responses with two dimensions, such as channel and time. Needs xarray.
    alpha : float
        Level of the corrected p-values.
    order : sequence of str, mne.Info, or dict of name to (x, y, z); optional
        Of the rows; see :func:`jaxlmm.plots.stat_map`.
    ax : Axes, optional
        Default: that of a new figure.
    **options
        For :func:`jaxlmm.plots.stat_map`.

    Returns
    -------
    Axes
        Each significant cluster has its number (that of ``test.clusters()``) at its peak, and its p-value in the
        legend.

    Raises
    ------
    ValueError
        Responses with another number of dimensions.
    """
    check_alpha(alpha)
    maps = test.to_dataset()
    t = maps["statistic"]
    if t.ndim != 2:
        raise ValueError(
            f"a map needs two dimensions, the responses have {t.ndim}: {', '.join(map(str, t.dims))}; choose with "
            "to_dataset().sel(...) and draw by stat_map."
        )
    breaks: tuple[int, ...] = ()
    if order is not None:
        rows, breaks = row_order([str(name) for name in t[t.dims[0]].values], order)
        maps = maps.isel({t.dims[0]: rows})
        t = maps["statistic"]
    significant = (maps["pvalue_corrected"] <= alpha).values
    shown = (np.flatnonzero(test.cluster_pvalue <= alpha) + 1).tolist() if test.kind == "cluster" else []
    label = f"corrected p ≤ {alpha:g}"
    if len(shown):
        label = "cluster " + ", ".join(f"{k}: p = {test.cluster_pvalue[k - 1]:.2g}" for k in shown[:MOST_NAMED])
        label += ", …" if len(shown) > MOST_NAMED else ""
    ax = stat_map(t, mask=significant, ax=ax, **dict(value_label=test.letter, mask_label=label) | options)
    for part in breaks:
        ax.axhline(part - 0.5, color="0.3", linewidth=0.6, zorder=2)
    if test.kind != "cluster":
        return ax
    numbers = maps["cluster"].values
    along = [_positions(t, axis) for axis in (0, 1)]
    for k in shown:
        size = np.where(numbers == k, np.abs(t.values), -np.inf)
        row, column = np.unravel_index(np.argmax(size), size.shape)
        text = ax.text(
            along[1][column], along[0][row], str(k), ha="center", va="center", fontweight="bold",
            fontsize=font_points("medium"), zorder=4,
        )  # fmt: skip
        text.set_path_effects([patheffects.withStroke(linewidth=2, foreground="white")])
    return ax


def _positions(t: Any, axis: int) -> np.ndarray:
    """Where the labels of a dimension are drawn."""
    values = np.asarray(t.coords[t.dims[axis]].values) if t.dims[axis] in t.coords else np.arange(t.shape[axis])
    return values if values.dtype.kind in "iufmM" else np.arange(t.shape[axis])


def null_distribution(test: PermutationTest, *, alpha: float = 0.05, ax: Axes | None = None) -> Axes:
    """Draw the largest score of every draw, the critical value, and what was observed.

    Parameters
    ----------
    test : PermutationTest
    alpha : float
        Level of the critical value.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
    """
    check_alpha(alpha)
    ax = make_axes(ax, 5.5, 3.2)
    null = test.null[np.isfinite(test.null)]
    observed = float(np.nanmax(np.abs(test.score) if test.tail == "two-sided" else test.score))
    critical = test.critical(alpha)
    ax.hist(null, bins="auto", color=GREY, edgecolor="white", linewidth=0.4)
    handles = []
    if np.isfinite(critical):
        ax.axvline(critical, color="black", linestyle="dashed", linewidth=1)
        handles.append(Line2D([], [], color="black", linestyle="dashed", label=f"p = {alpha:g}: {critical:.3g}"))
    ax.axvline(observed, color=ABOVE, linewidth=1.5)
    handles.append(Line2D([], [], color=ABOVE, label=f"observed: {observed:.3g}"))
    ax.set(xlabel=SCORES[test.kind][0].upper() + SCORES[test.kind][1:], ylabel="Draws")
    legend_outside(ax, handles)
    return ax
