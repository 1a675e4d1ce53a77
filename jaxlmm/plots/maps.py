"""Heat maps of a statistic over two axes, such as channels and time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from jaxlmm.inference.multiplicity import ADJUSTMENTS, adjust_pvalues, adjustment
from jaxlmm.plots.base import (
    ADJUSTED,
    axes_points,
    check_alpha,
    effect_columns,
    fitting,
    font_points,
    label_step,
    legend_outside,
    make_axes,
    zero_line,
)
from jaxlmm.plots.order import row_order
from jaxlmm.plots.panels import below, divide, grid_of, title_points
from jaxlmm.plots.table import fit_or_table
from jaxlmm.plots.words import dim_label, level_texts, measured, term_text, wrapped
from jaxlmm.results.images import map_values
from jaxlmm.results.results import Fit
from jaxlmm.runtime.arguments import check_option

__all__ = ["VALUES", "Scale", "colour_bar", "map_legend", "stat_map", "stat_maps"]

NO_VALUE: dict[str, Any] = {"facecolor": "0.88", "edgecolor": "0.55", "hatch": "////", "linewidth": 0.0}
CONTOUR: dict[str, Any] = {"color": "black", "linewidth": 1.2}
# What maps may show, and what their colour bars call it; those without a sign have colours from 0 on.
SIGNED = {"statistic": "t", "zscore": "z", "coef": "Effect"}
UNSIGNED = {"se": "Standard error", "neglog10p": r"$-\log_{10}\,p$", "pvalue": "p", "pvalue_adjusted": "adjusted p"}
VALUES = tuple(SIGNED | UNSIGNED)
TWO_SIDED, ONE_SIDED = "RdBu_r", "YlGnBu"


@dataclass(frozen=True)
class Scale:
    """Colours of a map: their ends, the colour map, whether values lie beyond, and what the bar is called."""

    low: float
    high: float
    cmap: Any
    over: bool
    label: str

    @classmethod
    def of(
        cls, variable: str, largest: float, limit: float | None, cmap: Any, units: str | None = None, term: str = ""
    ) -> Scale:
        """Of one variable (of one term), from -limit or, if it has no sign, from 0; see :func:`stat_maps`."""
        label = (SIGNED | UNSIGNED)[variable] + (f" of {term}" if term else "")
        label = measured(label, units) if variable in ("coef", "se") else label
        if variable.startswith("pvalue"):  # dark is small
            high = 1.0 if limit is None else _limit(limit, largest)
            return cls(0.0, high, cmap or f"{ONE_SIDED}_r", largest > high, label)
        high = _limit(limit, largest)
        if variable in UNSIGNED:
            return cls(0.0, high, cmap or ONE_SIDED, largest > high, label)
        return cls(-high, high, cmap or TWO_SIDED, largest > high, label)


@dataclass(frozen=True, eq=False)
class Map:
    """A checked map: values (n_y, n_x) and what is drawn beside and around them."""

    values: np.ma.MaskedArray[Any, Any]
    x: Any
    y: Any
    x_edges: np.ndarray
    y_edges: np.ndarray
    x_names: list[str] | None
    y_names: list[str] | None
    marked: np.ndarray | None
    breaks: tuple[int, ...] = ()

    @classmethod
    def of(cls, values: Any, x: Any, y: Any, mask: Any, order: Any = None) -> Map:
        """Of arrays; see :func:`stat_map`."""
        array = np.asarray(values)
        if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "biuf":
            raise ValueError(
                f"values must be numbers in 2 dimensions, found shape {array.shape}, dtype {array.dtype}."
            )
        array = np.ma.masked_invalid(np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan))
        marked = _mask(mask, array.shape)
        breaks: tuple[int, ...] = ()
        if order is not None:
            _, names = _edges(y, array.shape[0], "y", "rows")
            if names is None:
                raise ValueError("order is of rows with names: give y, the names of the channels.")
            rows, breaks = row_order(names, order)
            array, y = array[rows], [names[i] for i in rows]
            marked = None if marked is None else marked[rows]
        x_edges, x_names = _edges(x, array.shape[1], "x", "columns")
        y_edges, y_names = _edges(y, array.shape[0], "y", "rows")
        return cls(array, x, y, x_edges, y_edges, x_names, y_names, marked, breaks)

    @property
    def largest(self) -> float:
        """The largest absolute value, 0 where there is none."""
        return float(np.max(np.abs(self.values.filled(0.0))))

    def draw(self, ax: Axes, scale: Scale, zero: bool) -> Any:
        """Draw it, and return the mesh."""
        mesh = ax.pcolormesh(
            self.x_edges, self.y_edges, self.values, cmap=scale.cmap, vmin=scale.low, vmax=scale.high, rasterized=True
        )
        ax.set_xlim(min(self.x_edges), max(self.x_edges))
        ax.set_ylim(min(self.y_edges), max(self.y_edges))
        if self.y is None or self.y_names is not None:
            ax.invert_yaxis()
        for axis, given, names in (("x", self.x, self.x_names), ("y", self.y, self.y_names)):
            if names is not None:
                step = label_step(ax, names, axis)
                getattr(ax, f"set_{axis}ticks")(range(0, len(names), step), labels=names[::step])
            elif given is None:  # positions
                getattr(ax, f"{axis}axis").set_major_locator(MaxNLocator(integer=True))
        if zero and self.x is not None and self.x_names is None and min(self.x_edges) < 0 < max(self.x_edges):
            # A map that begins at 0 has no before and after.
            if np.any(np.asarray(self.x, dtype=float) < 0):
                zero_line(ax, "x", alpha=0.8, zorder=2)
        for row in self.breaks:
            ax.axhline(row - 0.5, color="0.3", linewidth=0.6, zorder=2)
        if self.marked is not None and self.marked.any():
            lines = [
                [(self.x_edges[i], self.y_edges[j]), (self.x_edges[k], self.y_edges[m])]
                for (i, j), (k, m) in _borders(self.marked)
            ]
            width = CONTOUR["linewidth"] * (1.0 if ax.get_window_extent().width > 150 * ax.figure.dpi / 72 else 0.7)
            style = CONTOUR | {"linewidth": width, "capstyle": "projecting"}
            ax.add_collection(LineCollection(lines, **style), autolim=False)
        if self.missing:
            # Behind the mesh, which is transparent there.
            x, y = self.x_edges, self.y_edges
            ax.add_patch(
                Rectangle((x[0], y[0]), x[-1] - x[0], y[-1] - y[0], zorder=mesh.get_zorder() - 1, **NO_VALUE)
            )
        return mesh

    @property
    def missing(self) -> int:
        """Cells without a value."""
        return int(np.ma.getmaskarray(self.values).sum())


def stat_map(
    values: Any,
    *,
    x: Any = None,
    y: Any = None,
    mask: Any = None,
    order: Any = None,
    x_label: str | None = None,
    y_label: str | None = None,
    value_label: str | None = None,
    mask_label: str = "significant",
    limit: float | None = None,
    zero: bool = True,
    cmap: Any = "RdBu_r",
    ax: Axes | None = None,
) -> Axes:
    """Draw a statistic as a heat map, with lines around what is significant, and a colour bar.

    Parameters
    ----------
    values : array-like or xarray.DataArray, (n_y, n_x)
        For example ``fit.statistic[:, 1].reshape(n_channels, n_times)``. Cells that are not finite are
        hatched in grey, and counted in the legend. A DataArray brings coordinates and labels.
    x, y : array-like, (n_x,), (n_y,), optional
        Where the columns and rows are: increasing or decreasing numbers, at any spacing (the
        borders of cells are half-way), or names. Rows at numbers rise from below, as on any
        axis; rows with names, or without y, are listed from the top.
    mask : array-like of bool, (n_y, n_x), optional
        Cells to draw a line around, along their edges, such as
        ``adjust_pvalues(p, axis=None) <= 0.05``.
    order : sequence of str, mne.Info, or dict of name to (x, y, z); optional
        Rows from the top: their names, all or some of them; or where the channels are, for the scalp's order: the
        left hemisphere, the midline and the right one, each from front to back, with lines between them.
    x_label, y_label, value_label : str, optional
        Labels of the axes and of the colour bar.
    mask_label : str
        What the legend calls the cells of ``mask``.
    limit : float, optional
        Value at the ends of the colours, which are symmetric about 0. Default: the largest
        absolute value.
    zero : bool
        Whether a dashed line is drawn at x = 0, such as the onset of a stimulus, where columns lie before and after.
    cmap : str or Colormap
        Best a diverging one.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        The axes of the map. ``ax.collections[0]`` is the mesh, with its ``colorbar``.

    Raises
    ------
    ValueError
        Arrays that are not 2-dimensional or do not match, coordinates that are neither names nor
        strictly increasing or decreasing, a mask that is not boolean; an order that names no row, or channels without
        a position.
    """
    labelled = hasattr(values, "dims") and hasattr(values, "coords")
    if labelled and len(values.dims) == 2:
        x, x_label = _coordinate(values, 1, x, x_label)
        y, y_label = _coordinate(values, 0, y, y_label)
        value_label = _label(values, values.name) if value_label is None else value_label
        if hasattr(mask, "dims") and set(mask.dims) == set(values.dims):
            mask = mask.transpose(*values.dims)
    made = Map.of(values, x, y, mask, order)
    scale = Scale.of("statistic", made.largest, limit, cmap)
    ax = make_axes(ax, 7.0, float(np.clip(0.16 * made.values.shape[0], 3.6, 7.0)), tidy=False)
    mesh = made.draw(ax, scale, zero)
    colour_bar(ax, mesh, value_label or "", over=scale.over)
    ax.set(xlabel=x_label or "", ylabel=y_label or "")
    map_legend(ax, [made], mask_label)
    return ax


def _limit(limit: float | None, largest: float) -> float:
    if limit is None:
        return largest or 1.0
    if not 0 < limit < np.inf:
        raise ValueError(f"limit must be a positive number, found {limit!r}.")
    return limit


def colour_bar(ax: Axes, mesh: Any, label: str, *, over: bool) -> Any:
    """A bar beside ``ax``, with points where values are beyond its ends."""
    beyond = "neither" if not over else "both" if mesh.norm.vmin < 0 else "max"
    bar = ax.figure.colorbar(mesh, ax=ax, extend=beyond, label=label, pad=0.02)
    outline: Any = bar.outline
    outline.set_linewidth(0.6)
    return bar


def map_legend(ax: Axes, maps: Sequence[Map], mask_label: str, above: float = 0.0) -> None:
    """What lines and hatching mean, if there are any."""
    handles: list[Any] = []
    if any(one.marked is not None and one.marked.any() for one in maps):
        handles.append(Line2D([], [], label=mask_label, **CONTOUR))
    missing = sum(one.missing for one in maps)
    if missing:
        handles.append(Rectangle((0, 0), 1, 1, label=f"no value: {missing:,}", **NO_VALUE))
    if handles:
        legend_outside(ax, handles, above=above)


def stat_maps(
    fit: Fit | Any,
    terms: Any = None,
    *,
    panels: str | None = None,
    variable: str = "statistic",
    mask: Any = "bh",
    alpha: float = 0.05,
    order: Any = None,
    limit: float | None = None,
    zero: bool = True,
    cmap: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw maps of several effects, or of one effect at the labels of a third dimension, with one scale of colours.

    Parameters
    ----------
    fit : Fit, or a table such as ``fit.tidy()``
        Of responses with two dimensions, a panel for each term; or with three, of one term.
    terms : int, str, or sequence of them, optional
        Fixed effects, by name or position. Default: all but the intercept.
    panels : str, optional
        Of three dimensions that whose labels have a panel each. Default: the one with the fewest labels.
    variable : {"statistic", "coef", "zscore", "se", "neglog10p", "pvalue", "pvalue_adjusted"}
        The first three have colours from minus to plus the limit, the others from 0.
    mask : str, array-like of bool, (m, terms), or None
        What lines are drawn around: what is significant by this adjustment, such as "bh", "holm" or "none", each term
        over all responses; or the cells themselves.
    alpha : float
        Level of adjusted p-values.
    order : sequence of str, mne.Info, or dict of name to (x, y, z); optional
        Of the channels; see :func:`stat_map`.
    limit, zero, cmap
        As in :func:`stat_map`; the limit is that of all panels, by default 1 for p-values.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        The maps are ``ax.child_axes``; of one map it is ``ax`` itself.

    Raises
    ------
    ValueError
        Responses of another number of dimensions, several terms of three dimensions, unknown terms, dimensions,
        variables or adjustments.
    """
    fit = fit_or_table(fit)
    columns = effect_columns(fit, terms)
    variable = check_option("variable", variable, VALUES)
    shape, dims = tuple(fit.shape), list(fit.dims)
    if len(dims) not in (2, 3):
        raise ValueError(
            f"maps need responses with two dimensions, or three for one term, found {', '.join(map(str, dims))}; "
            "choose labels of the others with fit.sel(...)."
        )
    if len(dims) == 3 and len(columns) > 1:
        raise ValueError(f"of responses with three dimensions one term is drawn: give terms=, one of {fit.names}.")
    check_alpha(alpha)
    cells, label = _significant(fit, columns, mask, alpha)
    adjusted = mask if isinstance(mask, str) else "bh"
    cubes = [map_values(fit, j, variable, adjusted).astype(np.float64).reshape(shape) for j in columns]
    marks = [None if cells is None else cells[:, k].reshape(shape) for k in range(len(columns))]
    titles = [term_text(fit.names[j]) for j in columns]
    if len(dims) == 3:
        axis = _panel_axis(dims, shape, panels)
        dim = dims.pop(axis)
        coord = fit.labels.coords.get(dim)
        units = f" {coord.attrs['units']}" if coord is not None and coord.attrs.get("units") else ""
        texts = level_texts(dim, np.arange(shape[axis]) if coord is None else coord.values)
        titles = [f"{text}{units}" for text in texts]
        cubes = list(np.moveaxis(cubes[0], axis, 0))
        marks = [None] * len(cubes) if marks[0] is None else list(np.moveaxis(marks[0], axis, 0))
    elif panels is not None:
        raise ValueError("panels is a dimension of responses with three; of two there is a panel for each term.")
    along = [_along(fit, dim) for dim in dims]
    if along[0] is not None and np.asarray(along[0]).dtype.kind in "iuf" and _is_names(along[1]):
        # Time runs to the right, whichever dimension comes first.
        dims, along = dims[::-1], along[::-1]
        cubes, marks = [cube.T for cube in cubes], [None if one is None else one.T for one in marks]
    maps = [Map.of(cube, along[1], along[0], one, order) for cube, one in zip(cubes, marks, strict=True)]
    labels = [dim_label(fit.labels, dim) for dim in dims]
    term = term_text(fit.names[columns[0]]) if len(columns) == 1 else ""
    scale = Scale.of(variable, max(one.largest for one in maps), limit, cmap, fit.labels.units, term)
    return _draw_maps(ax, maps, titles, labels, label, scale, zero)


def _draw_maps(
    ax: Axes | None, maps: list[Map], titles: list[str], labels: list[str], mask_label: str, scale: Scale, zero: bool
) -> Axes:  # fmt: skip
    n, (height, _) = len(maps), maps[0].values.shape
    rows, columns = grid_of(n, 3)
    high = float(np.clip(0.12 * height, 2.2, 5.0 if rows == 1 else 3.0)) * rows
    ax = make_axes(ax, 6.4, float(np.clip(high, 2.4, 9.0)), tidy=False, rows=rows > 1)
    size = font_points(plt.rcParams["axes.titlesize"])
    above = 0.0
    drawn = [ax]
    if n > 1:
        width = axes_points(ax)[0] / columns
        titles = [wrapped(title, width, size) for title in titles]
        above = title_points(titles)
        drawn = divide(ax, rows, columns, n=n, gap=(8.0, below() + above + 2), title=above)
    for k, (panel, one) in enumerate(zip(drawn, maps, strict=True)):
        mesh = one.draw(panel, scale, zero)
        if n > 1:
            panel.set_title(titles[k])
            panel.tick_params(labelleft=k % columns == 0)
            if one.x_names is None:
                panel.xaxis.set_major_locator(MaxNLocator(nbins=3 if columns > 1 else 5))
            if k % columns == 0:
                panel.set_ylabel(labels[0])
    if n > 1:
        ax.set_xlabel(labels[1], labelpad=below() + 2)
    else:
        ax.set(xlabel=labels[1], ylabel=labels[0])
    colour_bar(ax, mesh, fitting(ax, "y", scale.label), over=scale.over)
    map_legend(ax, maps, mask_label, above)
    return ax


def _significant(fit: Any, columns: list[int], mask: Any, alpha: float) -> tuple[np.ndarray | None, str]:
    """Cells (m, terms) to draw a line around, and what to call them."""
    if mask is None:
        return None, ""
    if isinstance(mask, str):
        method = adjustment(mask, ADJUSTMENTS, "mask")
        p = np.where(fit.converged[:, None], fit.pvalue[:, columns], np.nan)
        return adjust_pvalues(p, method, axis=0) <= alpha, f"{ADJUSTED[method]} p ≤ {alpha:g}"
    found = np.asarray(mask)
    wanted = (fit.n_responses, len(columns))
    if found.dtype != bool or found.size != wanted[0] * wanted[1]:
        raise ValueError(
            f"mask must be an adjustment such as 'bh', or {wanted} booleans, found shape {found.shape}, dtype "
            f"{found.dtype}."
        )
    return found.reshape(wanted), "significant"


def _panel_axis(dims: list[Any], shape: tuple[int, ...], panels: str | None) -> int:
    if panels is None:
        return int(np.argmin(shape))
    names = [str(dim) for dim in dims]
    if panels not in names:
        raise ValueError(f"panels is {panels!r}; the dimensions are {', '.join(map(repr, names))}.")
    return names.index(panels)


def _along(fit: Any, dim: Any) -> Any:
    """Coordinates of one dimension, if it has some."""
    coord = fit.labels.coords.get(dim)
    return None if coord is None or coord.values is None else np.asarray(coord.values)


def _is_names(values: Any) -> bool:
    return values is None or np.asarray(values).dtype.kind not in "iuf"


def _coordinate(values: Any, axis: int, given: Any, label: str | None) -> tuple[Any, str | None]:
    """Coordinate and label of one axis of a DataArray, unless they are given."""
    name = values.dims[axis]
    coordinate = values.coords[name] if name in values.coords else None
    if label is None:
        label = _label(coordinate, name)
    return (coordinate if given is None else given), label


def _label(array: Any, name: Any) -> str:
    """Label by the attributes ``long_name`` and ``units``, as xarray's own plots."""
    attrs = getattr(array, "attrs", {})
    text = str(attrs.get("long_name") or ("" if name is None else name))
    return f"{text} ({attrs['units']})".strip() if attrs.get("units") else text


def _mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    if mask is None:
        return None
    found = np.asarray(mask)
    if found.dtype != bool:
        raise ValueError(f"mask must be boolean, such as p <= 0.05; found dtype {found.dtype}.")
    if found.shape != shape:
        raise ValueError(f"mask has shape {found.shape}, values {shape}; they must be alike.")
    return found


def _edges(centres: Any, n: int, what: str, of: str) -> tuple[np.ndarray, list[str] | None]:
    """The n + 1 borders of n cells, and their names if they have names instead of numbers."""
    if centres is None:
        return np.arange(n + 1) - 0.5, None
    found = np.asarray(centres)
    if found.shape != (n,):
        raise ValueError(f"{what} has shape {found.shape}, values have {n} {of}; need one {what} for each.")
    if found.dtype.kind in "UOT":
        return np.arange(n + 1) - 0.5, [str(v) for v in found]
    if found.dtype.kind not in "iuf":
        raise ValueError(f"{what} must be numbers or names, found dtype {found.dtype}.")
    at = found.astype(np.float64)
    if n == 1:
        return np.array([at[0] - 0.5, at[0] + 0.5]), None
    steps = np.diff(at)
    if not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError(f"{what} must increase or decrease from each value to the next; sort it and the {of}.")
    half = steps / 2
    return np.concatenate([[at[0] - half[0]], at[:-1] + half, [at[-1] + half[-1]]]), None


def _borders(mask: np.ndarray) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Straight lines between True and False, from corner (column, row) to corner; outside counts as False."""
    padded = np.pad(mask, 1).astype(np.int8)
    for transposed in (False, True):
        # A border lies along line k of the grid where the cells on its two sides differ.
        differ = np.diff(padded.T if transposed else padded, axis=0)[:, 1:-1] != 0
        for k, line in enumerate(differ):
            ends = np.flatnonzero(np.diff(line.astype(np.int8), prepend=0, append=0)).tolist()
            for start, stop in zip(ends[::2], ends[1::2], strict=True):
                yield ((k, start), (k, stop)) if transposed else ((start, k), (stop, k))
