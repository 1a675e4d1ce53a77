"""Several panels within one pair of axes, so that a picture of many panels is drawn on ``ax`` like any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from jaxlmm.plots.base import LINE, font_points

__all__ = ["below", "divide", "grid_of", "title_points"]


class Locator:
    """A matplotlib axes locator: where a panel is, found anew from its parent whenever it is drawn.

    ``place`` makes the box of the panel of that of the parent, both in points.
    """

    def __init__(self, parent: Axes, place: Callable[[Bbox], Bbox]):
        self.parent, self.place = parent, place

    def __call__(self, ax: Any, renderer: Any) -> Bbox:
        figure = self.parent.figure
        scale = figure.dpi / 72
        box = self.parent.get_window_extent()
        made = self.place(Bbox(box.get_points() / scale))
        return Bbox(made.get_points() * scale).transformed(figure.transSubfigure.inverted())


def _cell(
    row: int, column: int, heights: Sequence[float], n_columns: int, gap: tuple[float, float]
) -> Callable[[Bbox], Bbox]:
    """A share of the parent, less gaps."""

    def place(parent: Bbox) -> Bbox:
        width = max(parent.width - (n_columns - 1) * gap[0], 1.0) / n_columns
        room = max(parent.height - (len(heights) - 1) * gap[1], 1.0) / sum(heights)
        top = parent.y1 - row * gap[1] - room * sum(heights[:row])
        left = parent.x0 + column * (width + gap[0])
        return Bbox.from_extents(left, top - room * heights[row], left + width, top)

    return place


def divide(
    ax: Axes,
    rows: int,
    columns: int,
    *,
    n: int | None = None,
    gap: tuple[float, float] = (8.0, 8.0),
    heights: Sequence[float] | None = None,
    title: float = 0.0,
    **options: Any,
) -> list[Axes]:
    """Panels within ``ax``, row by row from the top left, which stays to be measured and labelled, and is not seen.

    Parameters
    ----------
    ax : Axes
    rows, columns : int
    n : int, optional
        How many; the last ones of the grid are left out.
    gap : (float, float)
        Room between columns and between rows, in points.
    heights : sequence of float, optional
        Of the rows, relative to each other.
    title : float
        Room above for titles of panels, in points; a title of ``ax`` is above it.
    **options
        For ``Axes.inset_axes``, such as ``projection``.
    """
    ax.spines[:].set_visible(False)
    ax.patch.set_visible(False)
    ax.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    heights = [1.0] * rows if heights is None else heights
    panels = []
    for k in range(rows * columns if n is None else n):
        panel = ax.inset_axes((0, 0, 1, 1), **options)
        locator = Locator(ax, _cell(k // columns, k % columns, heights, columns, gap))
        panel.set_axes_locator(locator)
        panel.apply_aspect(locator(panel, None))  # so that its size can be asked for before it is drawn
        panels.append(panel)
    if title:
        # matplotlib puts titles above child axes, so an empty one keeps them off those of the panels.
        spacer = ax.inset_axes((0, 1, 1, 0.1))
        spacer.set_axes_locator(Locator(ax, lambda box: Bbox.from_extents(box.x0, box.y1, box.x1, box.y1 + title)))
        spacer.set_axis_off()
    return panels


def title_points(texts: Sequence[str]) -> float:
    """Room that these titles of panels take, in points."""
    lines = max((text.count("\n") + 1 for text in texts if text), default=0)
    size = font_points(plt.rcParams["axes.titlesize"])
    return lines * LINE * size + float(plt.rcParams["axes.titlepad"]) if lines else 0.0


def below() -> float:
    """Room that the numbers below a panel take, in points."""
    ticks = float(plt.rcParams["xtick.major.size"]) + float(plt.rcParams["xtick.major.pad"])
    return LINE * font_points(plt.rcParams["xtick.labelsize"]) + ticks


def grid_of(n: int, widest: int) -> tuple[int, int]:
    """Rows and columns for n panels, at most ``widest`` beside each other, rows as full as they can be."""
    columns = min(n, max(widest, 1))
    rows = -(-n // columns)
    return rows, -(-n // rows)
