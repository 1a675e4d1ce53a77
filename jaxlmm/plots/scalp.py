"""Scalp maps of an effect, drawn by MNE in one call."""

from __future__ import annotations

import numbers
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy.spatial import QhullError

from jaxlmm.inference.multiplicity import ADJUSTMENTS, adjust_pvalues, adjustment
from jaxlmm.plots.base import (
    ADJUSTED,
    axes_points,
    check_alpha,
    figure_width,
    fitting,
    legend_outside,
    make_axes,
    note,
    one_term,
)
from jaxlmm.plots.maps import VALUES, Scale, colour_bar
from jaxlmm.plots.panels import divide, grid_of, title_points
from jaxlmm.plots.table import fit_or_table
from jaxlmm.plots.words import number_texts, term_text
from jaxlmm.results.images import map_values
from jaxlmm.results.results import Fit
from jaxlmm.runtime.arguments import check_option
from jaxlmm.runtime.extras import extra

__all__ = ["topomap"]

# The dimension whose numbers are seconds unless they say otherwise, and how many of them are drawn by default.
TIME = "time"
TIMES = 5
# Least width of a map, in points.
PANEL = 30.0
# Narrower maps have smaller marks, in points.
SMALL = 90.0


def topomap(
    fit: Fit | Any,
    info: Any,
    term: str | int | None = None,
    times: Any = None,
    *,
    variable: str = "statistic",
    adjust: str | None = "bh",
    alpha: float = 0.05,
    ch_type: str | None = None,
    limit: float | None = None,
    cmap: Any = None,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw an effect on the scalp at several times, with one scale of colours. Needs mne.

    Parameters
    ----------
    fit : Fit, or a table such as ``fit.tidy()``
        Of responses with the dimensions "channel" and "time", or "channel" alone. One dimension of names and one of
        numbers, such as electrodes and frequencies, will do.
    info : mne.Info
        Of the data, with the positions of the channels.
    term : str or int, optional
        Name or position of the fixed effect. Default: the only one beside the intercept.
    times : int, or sequence of float, optional
        How many, equally spaced, or which times (or frequencies); the nearest are drawn. Default: 5.
    variable : {"statistic", "coef", "zscore", "se", "neglog10p", "pvalue", "pvalue_adjusted"}
    adjust : str, optional
        White dots are channels that are significant by this adjustment over all responses; None: no dots.
    alpha : float
        Level of adjusted p-values.
    ch_type : str, optional
        Of the channels to draw, such as "eeg", "mag" or "grad", where there are several types.
    limit : float, optional
        Value at the ends of the colours. Default: the largest absolute value in the maps drawn.
    cmap : str or Colormap
    ax : Axes, optional
        Default: that of a new figure.
    **options
        For ``mne.viz.plot_topomap``, such as ``contours``, ``sphere`` or ``names``.

    Returns
    -------
    Axes
        The maps are ``ax.child_axes``. Channels without a fit are left out of a map, and counted in the legend.

    Raises
    ------
    ImportError
        MNE-Python is not installed.
    ValueError
        Other dimensions; channels that ``info`` has not, or of several types; unknown term, variable or adjustment.
    """
    mne = extra("mne", "scalp maps")
    fit = fit_or_table(fit)
    j = one_term(fit, term)
    variable = check_option("variable", variable, VALUES)
    check_alpha(alpha)
    across, along = _dims(fit)

    def grid(values: np.ndarray) -> np.ndarray:
        cube = values.reshape(fit.shape)
        return cube[:, None] if along is None else cube if fit.dims[0] == across else cube.T

    at, titles = (np.zeros(1, dtype=int), [""]) if along is None else _times(fit, along, times)
    picked, rows = _channels(mne, info, [str(name) for name in fit.labels.coords[across].values], ch_type)
    values = grid(map_values(fit, j, variable, adjust or "bh").astype(np.float64))[rows][:, at]
    marked = np.zeros(values.shape, dtype=bool)
    if adjust is not None:
        method = adjustment(adjust, ADJUSTMENTS, "adjust")
        p = np.where(fit.converged, fit.pvalue[:, j], np.nan)
        marked = grid(adjust_pvalues(p, method) <= alpha)[rows][:, at]
    there = np.isfinite(values)
    largest = float(np.max(np.abs(values), where=there, initial=0.0))
    scale = Scale.of(variable, largest, limit, cmap, fit.labels.units, term_text(fit.names[j]))

    n = len(at)
    width = 0.85 * axes_points(ax)[0] if ax is not None else 0.75 * 72 * figure_width(6.4)
    rows_, columns = grid_of(n, int(width // PANEL))
    made = ax is None
    ax = make_axes(ax, 6.4, float(np.clip(rows_ * width / columns / 72 + 0.4, 1.3, 6.0)), tidy=False, rows=True)
    panels = divide(ax, rows_, columns, n=n, gap=(3.0, title_points(titles) + 2), title=title_points(titles))
    images, flat = [], False
    for k, panel in enumerate(panels):
        use = there[:, k]
        panel.set_title(titles[k])
        if use.sum() < 4:  # too few for a surface
            panel.set_axis_off()
            continue
        settings: dict[str, Any] = {
            "vlim": (scale.low, scale.high), "cmap": scale.cmap, "contours": 0, "sensors": "k.",
            "mask": marked[use, k],
            "mask_params": {"marker": "o", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 3.0,
                            "markeredgewidth": 0.5, "linewidth": 0},
        }  # fmt: skip
        part = mne.pick_info(picked, np.flatnonzero(use), copy=True)
        try:
            image, _ = mne.viz.plot_topomap(values[use, k], part, axes=panel, show=False, **(settings | options))
        except QhullError:
            panel.clear()
            panel.set_axis_off()
            flat = True
            continue
        small = axes_points(panel)[0] < SMALL
        for line in panel.lines:  # marks as small as the map
            if line.get_marker() in (".", "o"):
                line.set_markersize((1.2 if small else 3.0) if line.get_marker() == "." else (2.2 if small else 4.0))
        images.append(image)
    if flat and not images:
        if made:
            plt.close(ax.get_figure(root=True))
        raise ValueError(
            "the channels lie on one line or circle, between which MNE draws no map; draw their values over time."
        )
    if images:
        bar = colour_bar(ax, images[0], fitting(ax, "y", scale.label), over=scale.over)
        bar.ax.locator_params(nbins=5)
    handles: list[Any] = []
    if marked.any() and adjust is not None:
        style: dict[str, Any] = {
            "marker": "o",
            "markerfacecolor": "white",
            "markeredgecolor": "black",
            "markersize": 3.5,
        }
        handles.append(Line2D([], [], linestyle="none", label=f"{ADJUSTED[method]} p ≤ {alpha:g}", **style))
    if not there.all():
        handles.append(note(f"channels without a fit: {int((~there.all(axis=1)).sum()):,}"))
    if handles:
        legend_outside(ax, handles, above=title_points(titles))
    return ax


def _dims(fit: Any) -> tuple[Any, Any]:
    """The dimension of the channels and that of the times, which may be called otherwise; None for no times."""
    kinds = {}
    for dim in fit.dims:
        coord = fit.labels.coords.get(dim)
        there = coord is not None and not coord.levels
        kinds[dim] = ("numbers" if np.asarray(coord.values).dtype.kind in "iuf" else "names") if there else ""
    across = [dim for dim, kind in kinds.items() if kind == "names"]
    along = [dim for dim, kind in kinds.items() if kind == "numbers"]
    if len(across) != 1 or len(along) > 1 or len(across) + len(along) != len(kinds):
        raise ValueError(
            "scalp maps need the dimensions 'channel' and 'time', or 'channel' alone, with their labels; the fit has "
            f"{', '.join(map(repr, map(str, fit.dims)))}: choose labels of others, such as fit.sel(freq=10)."
        )
    return across[0], along[0] if along else None


def _times(fit: Any, dim: Any, times: Any) -> tuple[np.ndarray, list[str]]:
    """Positions of times, and their texts."""
    coord = fit.labels.coords[dim]
    values = np.asarray(coord.values, dtype=np.float64)
    if times is None or (isinstance(times, numbers.Integral) and not isinstance(times, bool)):
        count = TIMES if times is None else int(times)
        if count < 1:
            raise ValueError(f"times must be at least 1, or the times to draw, found {times!r}.")
        count = min(count, len(values))
        # The middles of equal parts.
        at = ((np.arange(count) + 0.5) * len(values) / count).astype(int)
    else:
        wanted = np.atleast_1d(np.asarray(times, dtype=np.float64))
        half = np.max(np.diff(values), initial=0.0) / 2 + 1e-9
        if not len(wanted) or np.any(wanted < values[0] - half) or np.any(wanted > values[-1] + half):
            raise ValueError(f"times must be from {values[0]:g} to {values[-1]:g}, found {times!r}.")
        at = np.array([int(np.abs(values - one).argmin()) for one in wanted])
    units = f" {coord.attrs['units']}" if coord.attrs.get("units") else " s" if dim == TIME else ""
    name = "" if units else f"{dim} "
    texts = [text.replace("-", "\N{MINUS SIGN}") for text in number_texts(np.round(values[at], 6))]
    return at, [f"{name}{text}{units}" for text in texts]


def _channels(mne: Any, info: Any, names: list[str], ch_type: str | None) -> tuple[Any, list[int]]:
    """The info of the channels to draw, and their rows in the fit."""
    if not hasattr(info, "ch_names"):
        raise ValueError(f"info must be an mne.Info, such as epochs.info, found {type(info).__name__}.")
    unknown = [name for name in names if name not in info.ch_names]
    if unknown:
        raise ValueError(f"info has no channel {unknown[0]!r}; give the info of the data that were fitted.")
    kinds = {name: mne.channel_type(info, info.ch_names.index(name)) for name in names}
    found = list(dict.fromkeys(kinds.values()))
    if ch_type is None and len(found) > 1:
        raise ValueError(f"the channels are of several types: say ch_type=, one of {', '.join(map(repr, found))}.")
    if ch_type is not None and ch_type not in found:
        raise ValueError(f"there is no channel of type {ch_type!r}; the types are {', '.join(map(repr, found))}.")
    order = [name for name in info.ch_names if kinds.get(name) == (ch_type or found[0])]
    picks = [info.ch_names.index(name) for name in order]
    return mne.pick_info(info, picks), [names.index(name) for name in order]
