"""Resampling: the map with its clusters, the null distribution, a time course with its band."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxlmm.plots.base import ABOVE, BELOW, GREY, legend_outside, make_axes, term_position
from jaxlmm.plots.maps import stat_map
from jaxlmm.resampling.result import PermutationTest
from jaxlmm.results.results import Fit

__all__ = ["cluster_map", "null_distribution", "time_course"]

SCORES = {"max": "largest statistic", "cluster": "mass of the largest cluster", "tfce": "largest enhanced statistic"}


def cluster_map(test: PermutationTest, *, alpha: float = 0.05, ax: Axes | None = None, **options: Any) -> Axes:
    """Draw the statistics of responses with two dimensions, lines around what is significant, clusters by number.

    Parameters
    ----------
    test : PermutationTest
        Of responses with two dimensions, such as channel and time. Needs xarray.
    alpha : float
        Level of the corrected p-values.
    ax : Axes, optional
        Default: that of a new figure.
    **options
        For :func:`jaxlmm.plots.stat_map`.

    Returns
    -------
    Axes
        Each significant cluster has its number (that of ``test.clusters()``) at its peak.

    Raises
    ------
    ValueError
        Responses with another number of dimensions.
    """
    maps = test.to_dataset()
    t = maps["statistic"]
    if t.ndim != 2:
        raise ValueError(
            f"a map needs two dimensions, the responses have {t.ndim}: {', '.join(map(str, t.dims))}; choose with "
            "to_dataset().sel(...) and draw by stat_map."
        )
    significant = (maps["pvalue_corrected"] <= alpha).values
    label = f"corrected p ≤ {alpha:g}" if test.kind != "cluster" else f"clusters with corrected p ≤ {alpha:g}"
    ax = stat_map(t, mask=significant, ax=ax, **dict(value_label=test.letter, mask_label=label) | options)
    if test.kind != "cluster":
        return ax
    numbers = maps["cluster"].values
    along = [_positions(ax, t, axis) for axis in (0, 1)]
    for k in np.flatnonzero(test.cluster_pvalue <= alpha) + 1:
        size = np.where(numbers == k, np.abs(t.values), -np.inf)
        row, column = np.unravel_index(np.argmax(size), size.shape)
        text = ax.text(
            along[1][column], along[0][row], str(k), ha="center", va="center", fontsize=9, fontweight="bold"
        )
        text.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white")])
    return ax


def _positions(ax: Axes, t: Any, axis: int) -> np.ndarray:
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
    """
    ax = make_axes(ax, 5.5, 3.2)
    null = test.null[np.isfinite(test.null)]
    observed = float(np.nanmax(np.abs(test.score) if test.tail == "two-sided" else test.score))
    critical = test.critical(alpha)
    ax.hist(null, bins="auto", color=GREY, edgecolor="white", linewidth=0.4)
    handles = []
    if np.isfinite(critical):
        ax.axvline(critical, color="black", linestyle="dashed", linewidth=1.2)
        handles.append(Line2D([], [], color="black", linestyle="dashed", label=f"p = {alpha:g}: {critical:.3g}"))
    ax.axvline(observed, color=ABOVE, linewidth=1.8)
    handles.append(Line2D([], [], color=ABOVE, label=f"observed: {observed:.3g}"))
    ax.set(xlabel=SCORES[test.kind][0].upper() + SCORES[test.kind][1:], ylabel="Draws")
    legend_outside(ax, handles)
    return ax


def time_course(
    fit: Fit,
    term: int | str,
    band: Any = None,
    *,
    test: PermutationTest | None = None,
    alpha: float = 0.05,
    ax: Axes | None = None,
) -> Axes:
    """Draw an effect over the one dimension of the responses, such as time, with intervals or a band.

    Parameters
    ----------
    fit : Fit
        Of responses with one dimension, labelled by increasing numbers or not labelled.
    term : int or str
        A coefficient, by name or position.
    band : array-like, (m, 2), optional
        Lower and upper limits, such as :meth:`~jaxlmm.resampling.bootstrap.Bootstrap.band` gives;
        default: pointwise 95 % intervals.
    test : PermutationTest, optional
        Of the same responses: what is significant is marked below the curve.
    alpha : float
        Level of the marks.
    ax : Axes, optional
        Default: that of a new figure.

    Raises
    ------
    ValueError
        Responses with another number of dimensions; a band or a test of another length.
    """
    if len(fit.dims) != 1:
        raise ValueError(f"a time course needs one dimension, the responses have {len(fit.dims)}: choose with sel.")
    j, m = term_position(fit, term), fit.n_responses
    limits = fit.conf_int()[:, j] if band is None else np.asarray(band, dtype=np.float64)
    if limits.shape != (m, 2) or (test is not None and len(test.statistic) != m):
        raise ValueError(f"the fit has {m} responses: band must be ({m}, 2) and test of as many.")
    coord = fit.labels.coords.get(fit.dims[0])
    x = np.arange(m) if coord is None else np.asarray(coord.values)
    ax = make_axes(ax, 6.0, 3.2)
    name = "95 % interval, pointwise" if band is None else "band"
    handles = [
        ax.fill_between(x, limits[:, 0], limits[:, 1], color=BELOW, alpha=0.25, linewidth=0, label=name),
        *ax.plot(x, fit.coef[:, j], color=BELOW, linewidth=1.6, label=fit.names[j]),
    ]
    ax.axhline(0, color="black", linestyle="dashed", linewidth=1, alpha=0.5, zorder=0)
    if test is not None and np.any(found := test.pvalue_corrected <= alpha):
        foot = np.nanmin(limits) - 0.06 * (np.nanmax(limits) - np.nanmin(limits))
        marks = np.where(found, foot, np.nan)
        handles += ax.plot(x, marks, color=ABOVE, linewidth=3, marker="_", label=f"corrected p ≤ {alpha:g}")
    ax.set(xlabel=str(fit.dims[0]), ylabel=f"Effect of {fit.names[j]}")
    legend_outside(ax, handles)
    return ax
