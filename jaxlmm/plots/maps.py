"""Heat maps of a statistic over two axes, such as channels and time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from jaxlmm.plots.base import label_step, legend_outside, make_axes

__all__ = ["stat_map"]

NO_VALUE: dict[str, Any] = {"facecolor": "0.88", "edgecolor": "0.55", "hatch": "////", "linewidth": 0.0}
CONTOUR: dict[str, Any] = {"color": "black", "linewidth": 1.3}


def stat_map(
    values: Any,
    *,
    x: Any = None,
    y: Any = None,
    mask: Any = None,
    x_label: str | None = None,
    y_label: str | None = None,
    value_label: str | None = None,
    mask_label: str = "significant",
    limit: float | None = None,
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
    x_label, y_label, value_label : str, optional
        Labels of the axes and of the colour bar.
    mask_label : str
        What the legend calls the cells of ``mask``.
    limit : float, optional
        Value at the ends of the colours, which are symmetric about 0. Default: the largest
        absolute value.
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
        strictly increasing or decreasing, a mask that is not boolean.
    """
    labelled = hasattr(values, "dims") and hasattr(values, "coords")
    if labelled and len(values.dims) == 2:
        x, x_label = _coordinate(values, 1, x, x_label)
        y, y_label = _coordinate(values, 0, y, y_label)
        value_label = _label(values, values.name) if value_label is None else value_label
        if hasattr(mask, "dims") and set(mask.dims) == set(values.dims):
            mask = mask.transpose(*values.dims)
    array = np.asarray(values)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "biuf":
        raise ValueError(f"values must be numbers in 2 dimensions, found shape {array.shape}, dtype {array.dtype}.")
    array = np.ma.masked_invalid(np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan))
    marked = _mask(mask, array.shape)
    if limit is None:
        limit = float(np.max(np.abs(array.filled(0.0)))) or 1.0
    elif not 0 < limit < np.inf:
        raise ValueError(f"limit must be a positive number, found {limit!r}.")
    x_edges, x_names = _edges(x, array.shape[1], "x", "columns")
    y_edges, y_names = _edges(y, array.shape[0], "y", "rows")

    ax = make_axes(ax, 7.0, float(np.clip(0.16 * array.shape[0], 3.6, 7.0)), tidy=False)
    mesh = ax.pcolormesh(x_edges, y_edges, array, cmap=cmap, vmin=-limit, vmax=limit, rasterized=True)
    ax.set_xlim(min(x_edges), max(x_edges))
    ax.set_ylim(min(y_edges), max(y_edges))
    if y is None or y_names is not None:
        ax.invert_yaxis()
    over = bool(np.any(np.abs(array.filled(0.0)) > limit))
    bar = ax.figure.colorbar(mesh, ax=ax, extend="both" if over else "neither", label=value_label or "", pad=0.02)
    outline: Any = bar.outline
    outline.set_linewidth(0.6)
    for axis, given, names in (("x", x, x_names), ("y", y, y_names)):
        if names is not None:
            step = label_step(ax, names, axis)
            getattr(ax, f"set_{axis}ticks")(range(0, len(names), step), labels=names[::step])
        elif given is None:  # positions
            getattr(ax, f"{axis}axis").set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel=x_label or "", ylabel=y_label or "")

    handles: list[Any] = []
    if marked is not None and marked.any():
        lines = [[(x_edges[i], y_edges[j]), (x_edges[k], y_edges[m])] for (i, j), (k, m) in _borders(marked)]
        ax.add_collection(LineCollection(lines, capstyle="projecting", **CONTOUR), autolim=False)
        handles.append(Line2D([], [], label=mask_label, **CONTOUR))
    missing = int(np.ma.getmaskarray(array).sum())
    if missing:
        # Behind the mesh, which is transparent there.
        corner, size = (x_edges[0], y_edges[0]), (x_edges[-1] - x_edges[0], y_edges[-1] - y_edges[0])
        ax.add_patch(Rectangle(corner, *size, zorder=mesh.get_zorder() - 1, **NO_VALUE))
        handles.append(Rectangle((0, 0), 1, 1, label=f"no value: {missing:,}", **NO_VALUE))
    if handles:
        legend_outside(ax, handles)
    return ax


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
