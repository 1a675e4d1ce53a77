"""The lines of groups, and the fitted mean of the population over them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from jaxlmm.inference.distributions import check_level
from jaxlmm.plots.base import fitting, legend_outside, make_axes, one_response, percent, random_position
from jaxlmm.plots.curves import Curves, level_positions, observations, read_curves, rows_of
from jaxlmm.plots.means import draw_means, level_ticks, offset, scatter, style_of
from jaxlmm.plots.words import measured
from jaxlmm.results.results import Fit
from jaxlmm.runtime.arguments import check_option, shown
from jaxlmm.runtime.extras import extra

__all__ = ["group_lines"]


def group_lines(
    fit: Fit,
    x: str,
    by: str | None = None,
    *,
    response: int | str = 0,
    group: str | None = None,
    lines: str | None = None,
    at: Mapping[str, Any] | None = None,
    level: float = 0.95,
    data: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw a line for each group, and the fitted mean of the population with its interval over them.

    Parameters
    ----------
    fit : Fit
        By formula, with a random term.
    x : str
        Variable along the x axis.
    by : str, optional
        Variable whose levels have a colour each.
    response : int or str
        Position or name.
    group : str, optional
        The random term, by its name in ``fit.varcorr``. Default: the first.
    lines : {"fitted", "data"}, optional
        What the lines of groups are: what the model says of each, the population's mean with the group's conditional
        mode added; or the means of its observations at each x. Default: "fitted" for a covariate, else "data".
    at : mapping of str to value or values, optional
        As in :meth:`jaxlmm.Fit.emmeans`, for the mean of the population.
    level : float
        Of the intervals of the population's mean.
    data : bool
        Whether the observations are drawn too.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        ``ax.collections[0]`` holds the lines of groups: each over the x that the group was observed at. Other
        variables are averaged over, as in marginal means.

    Raises
    ------
    ValueError
        A fit without formula or random term, unknown variables, group or response.
    """
    check_level(level)
    position = random_position(fit, group)
    if not isinstance(x, str) or not (by is None or isinstance(by, str)):
        raise ValueError(f"x and by are names of one variable each, found {shown(x)} and {shown(by)}.")
    specs = [x] if by is None else [x, by]
    curves, name, units = read_curves(fit, specs, None, at, response, "equal", level)
    one, _ = one_response(fit, response)
    kind = check_option("lines", lines or ("fitted" if curves.numeric else "data"), ("fitted", "data"))
    term = one.design.random[position]
    points = observations(one, curves, 0)
    codes = term.codes[np.isfinite(np.asarray(one.Y, dtype=np.float64)[:, 0])]
    positions = None if curves.numeric else level_positions(curves)
    effects = _group_effects(one, position, curves) if kind == "fitted" else None

    ax = make_axes(ax, 5.0, 3.6)
    paths, colours, found = [], [], curves.levels(curves.colour)
    for k, value in enumerate(found):
        rows = np.flatnonzero(curves.rows(curves.colour, value))
        of = rows_of(points, curves.colour, value, curves)
        shift = 0.0 if positions is None else offset(k, len(found))
        for g in range(term.n_levels):
            mine = of & (codes == g)
            if not mine.any():
                continue
            seen_x, y = points[x][mine], points[""][mine]
            path = (
                _observed(seen_x, y, positions)
                if effects is None
                else _modelled(curves, rows, effects[rows, g], seen_x, positions)
            )
            if len(path):
                paths.append(path + np.array([shift, 0.0]))
                colours.append(style_of(k)["color"] if by is not None else "0.6")
    many = len(paths) > 60
    lines_ = LineCollection(
        paths, colors=colours, linewidths=0.5 if many else 0.7, alpha=0.35 if many else 0.6, zorder=1
    )
    ax.add_collection(lines_)
    if data:
        scatter(ax, curves, points, ())
    handles = draw_means(ax, curves, (), over=True)
    ax.autoscale_view()
    if positions is not None:
        level_ticks(ax, [str(value[0]) for value in curves.levels([x])])
    ax.set(xlabel=fitting(ax, "x", x), ylabel=fitting(ax, "y", measured(name, units)))
    interval = f"{percent(level)} interval"
    if by is None:
        handles[0].set_label(f"mean, {interval}")
    what = f"{term.name}: {'fitted' if kind == 'fitted' else 'means'}"
    handles.append(Line2D([], [], color="0.6", linewidth=0.9, label=what))
    legend_outside(ax, handles, title=None if by is None else f"{curves.title([by])}; {interval}")
    return ax


def _observed(x: np.ndarray, y: np.ndarray, positions: Mapping[Any, int] | None) -> np.ndarray:
    """Means of y at each x, (points, 2)."""
    if positions is not None:
        kept = np.array([value in positions for value in x.tolist()], dtype=bool)
        x, y = np.array([positions[value] for value in x[kept].tolist()], dtype=float), y[kept]
    values, where = np.unique(np.asarray(x, dtype=np.float64), return_inverse=True)
    means = np.bincount(where, weights=y, minlength=len(values)) / np.maximum(np.bincount(where), 1)
    return np.column_stack([values, means])


def _modelled(
    curves: Curves, rows: np.ndarray, effect: np.ndarray, seen: np.ndarray, positions: Mapping[Any, int] | None
) -> np.ndarray:
    """The population's mean with a group's effect, at the x that the group was observed at, (points, 2)."""
    values = [curves.labels[i][curves.x] for i in rows]
    y = curves.estimate[rows] + effect
    if positions is None:
        x = np.asarray(values, dtype=np.float64)
        low, high = float(np.min(seen)), float(np.max(seen))
        inside = np.concatenate([[low], x[(x > low) & (x < high)], [high]])
        order = np.argsort(x)
        return np.column_stack([inside, np.interp(inside, x[order], y[order])])
    known = set(seen.tolist())
    kept = [i for i, value in enumerate(values) if value in known]
    return np.column_stack([[positions[values[i]] for i in kept], y[kept]]) if kept else np.zeros((0, 2))


def _group_effects(one: Fit, position: int, curves: Curves) -> np.ndarray:
    """What each group adds to each mean, (k, levels): its modes, with Z at the mean's levels."""
    modes = list(one.ranef().values())[position].modes[0]
    term = one.design.random[position]
    if term.is_intercept:
        return np.tile(modes[:, 0], (len(curves.labels), 1))
    return _columns_at(one, position, curves) @ modes.T


def _columns_at(one: Fit, position: int, curves: Curves) -> np.ndarray:
    """Columns Z of a random term at each mean, (k, r)."""
    pd, source = extra("pandas", "lines of groups"), one.source
    free = {}
    for variable in source.random_variables:
        if variable.name not in curves.labels[0]:
            values = np.asarray(source.frame[variable.name])
            free[variable.name] = list(variable.levels) if variable.factor else [float(np.mean(values))]
    cells = list(itertools.product(*free.values()))
    rows = [label | dict(zip(free, cell, strict=True)) for label in curves.labels for cell in cells]
    table = pd.DataFrame(rows)
    for part, term in zip(source.random, one.design.random, strict=True):
        for name in part.grouping:  # Z is the same for all levels: any label of the right type
            table[name] = term.levels[0] if len(part.grouping) == 1 else table.get(name, "")
    found = source.random_rows(table, one.design)
    Z = np.asarray(found[position][1], dtype=np.float64)
    return Z.reshape(len(curves.labels), len(cells), -1).mean(axis=1)
