"""Marginal means and interactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes

from jaxlmm.inference.distributions import check_level
from jaxlmm.inference.emmeans import EMMeans
from jaxlmm.plots.base import (
    CATEGORIES,
    MARKERS,
    RASTERIZE,
    axes_points,
    fitting,
    font_points,
    legend_outside,
    make_axes,
    percent,
)
from jaxlmm.plots.curves import Curves, level_positions, observations, read_curves, rows_of
from jaxlmm.plots.panels import below, divide, grid_of, title_points
from jaxlmm.plots.words import cut, measured, wrapped
from jaxlmm.results.results import Fit

__all__ = ["draw_means", "level_ticks", "marginal_means", "offset", "scatter", "style_of"]

# Most levels that are told apart by colour and dashes.
MOST = 8
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), "-.", (0, (6, 1, 1, 1, 1, 1)))
# Width over which the levels of a second variable stand beside each other, where the levels of the first are 1 apart.
DODGE = 0.5
# Most values of a covariate at which points stand beside each other.
FEW = 20
# Least width of a panel, in points.
PANEL = 85.0


def marginal_means(
    fit: Fit | EMMeans | Any,
    specs: Any = None,
    by: Any = None,
    at: Mapping[str, Any] | None = None,
    *,
    response: int | str = 0,
    weights: Any = "equal",
    level: float = 0.95,
    data: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw estimated marginal means of one response, their interactions too, with intervals.

    Parameters
    ----------
    fit : Fit by formula; what ``fit.emmeans(...)`` gives; or its ``tidy()`` table
    specs : str or sequence of str
        Variables of the formula: the first along the x axis, the others as colours. A covariate along x gives lines
        with bands over its range in the data; as a colour or panel its values are the mean and one standard deviation
        below and above. May be left out of marginal means and their tables.
    by : str or sequence of str, optional
        Variables whose levels have a panel each.
    at : mapping of str to value or values, optional
        As in :meth:`jaxlmm.Fit.emmeans`.
    response : int or str
        Position or name.
    weights : str or sequence of float
        As in :meth:`jaxlmm.Fit.emmeans`.
    level : float
        Of the intervals, which hold for each mean alone.
    data : bool
        Whether the observations are drawn too, of a fit that has them.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        With ``by``, its ``child_axes`` are the panels. Means that the data do not determine are left out.

    Raises
    ------
    ValueError
        Unknown variables, levels or response; more than 8 colours; a fit without a formula; a table without means.
    """
    check_level(level)
    curves, name, units = read_curves(fit, specs, by, at, response, weights, level)
    count = len(curves.levels(curves.colour))
    if count > MOST:
        raise ValueError(
            f"{' and '.join(curves.colour)} have {count} levels, of which colours tell at most {MOST} apart; keep "
            "some with at=, or give them panels with by=."
        )
    points = observations(fit, curves, response) if data else None
    ax, panels, above = _panels(ax, curves)
    handles: list[Any] = []
    for panel, where in zip(panels, curves.levels(curves.panel), strict=True):
        if points is not None:
            scatter(panel, curves, points, where)
        handles = draw_means(panel, curves, where)
    _label(ax, panels, curves, name, units, above, handles, level)
    return ax


def _panels(ax: Axes | None, curves: Curves) -> tuple[Axes, list[Axes], float]:
    """The axes, their panels, and the room that titles of these take."""
    made = ax is None
    ax = make_axes(ax, 5.0, 3.6)
    if not curves.panel:
        return ax, [ax], 0.0
    titles = curves.texts(curves.panel, named=True)
    rows, columns = grid_of(len(titles), int(axes_points(ax)[0] // PANEL))
    figure = ax.get_figure(root=True)
    if made and rows > 1 and figure is not None:
        figure.set_figheight(min(float(figure.get_figheight()) * (0.4 + 0.7 * rows), 9.0))
    width = axes_points(ax)[0] / columns
    titles = [wrapped(text, width, font_points(plt.rcParams["axes.titlesize"])) for text in titles]
    above = title_points(titles)
    panels = divide(ax, rows, columns, n=len(titles), gap=(8.0, below() + above + 2), title=above)
    for k, panel in enumerate(panels):
        panel.set_title(titles[k])
        panel.spines[["top", "right"]].set_visible(False)
        if k:
            panel.sharey(panels[0])
            panel.sharex(panels[0])
        panel.tick_params(labelleft=k % columns == 0)
    return ax, panels, above


def style_of(k: int) -> dict[str, Any]:
    """Colour and dashes of the k-th level."""
    return {"color": CATEGORIES[k % len(CATEGORIES)], "linestyle": DASHES[k % len(DASHES)]}


def draw_means(ax: Axes, curves: Curves, where: tuple[Any, ...], *, over: bool = False) -> list[Any]:
    """The means of one panel; entries of a legend.

    ``over`` other lines they are thicker, joined, and set off by white.
    """
    halo: dict[str, Any] = {}
    if over:
        halo["path_effects"] = [patheffects.Stroke(linewidth=4, foreground="white"), patheffects.Normal()]
    colours = curves.levels(curves.colour)
    texts = curves.texts(curves.colour, named=False if len(curves.colour) == 1 else None)
    inside = curves.rows(curves.panel, where)
    handles: list[Any] = []
    positions = level_positions(curves)
    for k, level in enumerate(colours):
        rows = np.flatnonzero(curves.rows(curves.colour, level, inside))
        values = [curves.labels[i][curves.x] for i in rows]
        if curves.numeric:
            order = np.argsort(np.asarray(values, dtype=float), kind="stable")
            rows = rows[order]
            at = np.asarray(values, dtype=np.float64)[order]
            ax.fill_between(at, *curves.limits[rows].T, color=style_of(k)["color"], alpha=0.2, linewidth=0)
            width = 2.2 if over else 1.6
            (line,) = ax.plot(at, curves.estimate[rows], label=texts[k], linewidth=width, **style_of(k), **halo)
            handles.append(line)
            continue
        at = np.array([positions[value] for value in values]) + offset(k, len(colours))
        style = {"color": style_of(k)["color"]}
        if over:
            ax.plot(at, curves.estimate[rows], linewidth=2.2, **style_of(k), **halo)
        elif len(colours) > 1:
            ax.plot(at, curves.estimate[rows], linewidth=0.8, alpha=0.6, **style_of(k))
        ax.vlines(at, *curves.limits[rows].T, linewidth=1.4, **style)
        marker = MARKERS[k % len(MARKERS)]
        handles += ax.plot(
            at, curves.estimate[rows], linestyle="none", marker=marker, markersize=5, label=texts[k], **style
        )
    return handles


def offset(k: int, n: int) -> float:
    """How far the k-th of n levels stands beside the level of the first variable."""
    return (k - (n - 1) / 2) * min(DODGE / n, 0.18)


def _apart(x: np.ndarray) -> float:
    """Distance between the values of a covariate that has few of them, whose points would hide each other; else 0."""
    values = np.unique(x.astype(np.float64))
    return float(np.diff(values).min()) if 1 < len(values) <= FEW else 0.0


def scatter(ax: Axes, curves: Curves, points: Mapping[str, np.ndarray], where: tuple[Any, ...]) -> None:
    """The observations of one panel; those of a covariate that divides colours or panels go to the nearest value."""
    colours = curves.levels(curves.colour)
    inside = rows_of(points, curves.panel, where, curves)
    positions = level_positions(curves)
    rng = np.random.default_rng(0)  # of the jitter
    for k, level in enumerate(colours):
        rows = inside & rows_of(points, curves.colour, level, curves)
        y = points[""][rows]
        if curves.numeric:
            x = points[curves.x][rows].astype(np.float64)
            x += 0.5 * offset(k, len(colours)) * _apart(points[curves.x])
        else:
            kept = np.array([value in positions for value in points[curves.x][rows].tolist()], dtype=bool)
            at = [positions[value] for value in points[curves.x][rows][kept].tolist()]
            width = 0.3 * DODGE / len(colours)
            x = np.array(at, dtype=float) + offset(k, len(colours)) + rng.uniform(-width, width, len(at))
            y = y[kept]
        many = len(points[""]) > RASTERIZE
        ax.scatter(
            x,
            y,
            s=3 if many else 6,
            color=style_of(k)["color"],
            alpha=0.25,
            linewidths=0,
            zorder=0.5,
            rasterized=many,
        )


def _label(
    ax: Axes, panels: list[Axes], curves: Curves, name: str, units: str | None, above: float, handles: list[Any],
    level: float,
) -> None:  # fmt: skip
    """Names of axes, levels and colours."""
    for panel in panels:
        if not curves.numeric:
            level_ticks(panel, [str(value[0]) for value in curves.levels([curves.x])])
    for panel in panels:
        if panel.yaxis.get_tick_params().get("labelleft", True):
            panel.set_ylabel(fitting(panel, "y", measured(name or "Mean", units)))
    ax.set_xlabel(fitting(ax, "x", curves.x), labelpad=below() + 2 if len(panels) > 1 else None)
    interval = f"{percent(level)} interval"
    if curves.colour:
        for handle in handles:
            handle.set_label(cut(str(handle.get_label()), 30))
        title = f"{curves.title(curves.colour)}; {interval}"
        legend_outside(ax, handles, title=title, above=above)
    else:
        handles[0].set_label(f"mean, {interval}")
        legend_outside(ax, handles[:1], above=above)


def level_ticks(ax: Axes, texts: list[str]) -> None:
    """Names of levels below the axis: in lines, else slanted, so that they do not touch."""
    size = font_points(plt.rcParams["xtick.labelsize"])
    room = axes_points(ax)[0] / max(len(texts), 1)
    lines = [wrapped(text, 0.95 * room, size, lines=2) for text in texts]
    ax.set_xlim(-0.5, len(texts) - 0.5)
    if any("…" in line for line in lines):
        ax.set_xticks(range(len(texts)), labels=[cut(text, 24) for text in texts], rotation=35, ha="right")
        ax.tick_params(axis="x", pad=1)
    else:
        ax.set_xticks(range(len(texts)), labels=lines)
