"""What the drawings share: colours, axes, legends that cover nothing, and the checks of what is asked for."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from jaxlmm._types import Status
from jaxlmm.results.results import Fit
from jaxlmm.tabular.selection import position, positions

__all__ = [
    "ABOVE",
    "BELOW",
    "CATEGORIES",
    "GREY",
    "MARKERS",
    "RASTERIZE",
    "axes_points",
    "fitted_responses",
    "font_points",
    "grouping_name",
    "label_step",
    "legend_inside",
    "legend_outside",
    "make_axes",
    "note",
    "one_response",
    "percent",
    "term_position",
]

# The colours of Okabe & Ito (2008) that show on white, told apart with every kind of colour vision.
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Coprime in number with the colours, so that 42 combinations differ.
MARKERS = ("o", "s", "^", "D", "v", "P")
ABOVE, BELOW, GREY = CATEGORIES[1], CATEGORIES[0], "0.65"
# Scatters of more points are drawn as pixels in vector formats: else a file has megabytes.
RASTERIZE = 20_000
# Height of a line of text, relative to its font size.
LINE = 1.3


def make_axes(ax: Axes | None, width: float, height: float, *, tidy: bool = True) -> Axes:
    """``ax``, or the axes of a new figure of this size in inches; ``tidy`` leaves out the upper and right spine."""
    if ax is None:
        ax = plt.subplots(figsize=(width, height), layout="constrained")[1]
    if tidy:
        ax.spines[["top", "right"]].set_visible(False)
    return ax


def term_position(fit: Fit, term: Any) -> int:
    """Column of X of one fixed effect, given by name or position; ValueError lists the terms."""
    names = fit.names
    if isinstance(term, str) and term in names:
        return names.index(term)
    whole = isinstance(term, numbers.Integral) and not isinstance(term, bool)
    if whole and -len(names) <= term < len(names):
        return int(term) % len(names)
    raise ValueError(f"there is no term {term!r}; the terms are {', '.join(map(repr, names))}.")


def fitted_responses(fit: Fit, responses: Any) -> Fit:
    """The fit of the chosen responses only; ValueError for one that has no fit, with the reason."""
    rows = positions(responses, fit.response_names)
    for j in rows[~fit.converged[rows]][:1]:
        message = Status(int(fit.status[j])).message
        raise ValueError(f"response '{fit.response_names[j]}' has no fit to draw. {message}")
    return fit.select(rows)


def one_response(fit: Fit, response: Any) -> tuple[Fit, str]:
    """The fit of one response alone, and the name of the response."""
    i = position(response, fit.response_names)
    return fitted_responses(fit, [i]), fit.response_names[i]


def grouping_name(fit: Fit) -> str:
    """Name of the grouping factor; ValueError without one."""
    if not fit.design.random:
        raise ValueError("the model has no random effect to draw; fit it with groups.")
    return fit.design.random[0].name


def percent(level: float) -> str:
    """0.95 as "95 %"."""
    return f"{100 * level:.10g} %"


# -- room -------------------------------------------------------------------------------------


def axes_points(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes in points."""
    box = ax.get_window_extent()
    scale = 72 / ax.figure.dpi
    return box.width * scale, box.height * scale


def font_points(size: Any) -> float:
    """A font size such as "small" in points."""
    return FontProperties(size=size).get_size_in_points()


def label_step(ax: Axes, labels: Sequence[str], axis: str, size: Any = None) -> int:
    """Every how many-th of equally spaced labels can stand beside an axis without touching its neighbour.

    Parameters
    ----------
    ax : Axes
    labels : sequence of str
    axis : {"x", "y"}
    size : font size, optional
        Default: that of tick labels.
    """
    points = font_points(size or plt.rcParams["ytick.labelsize" if axis == "y" else "xtick.labelsize"])
    width, height = axes_points(ax)
    each, room = (LINE * points, height) if axis == "y" else ((0.65 * max(map(len, labels)) + 1) * points, width)
    return max(1, int(np.ceil(each * len(labels) / max(room, 1.0))))


# -- legends ----------------------------------------------------------------------------------


def note(text: str) -> Line2D:
    """An entry of a legend that is text only."""
    return Line2D([], [], linestyle="none", label=text)


def legend_inside(ax: Axes, handles: Sequence[Any], *, loc: Any, title: str | None = None) -> Legend:
    """A legend in the upper part of the axes, and a y axis long enough to keep the data below it."""
    legend = ax.legend(
        handles=handles, loc=loc, title=title, framealpha=1, edgecolor="none", facecolor="inherit", borderpad=0.2,
        fontsize="small", title_fontsize="small",
    )  # fmt: skip
    share = legend.get_window_extent().height / ax.get_window_extent().height + 0.04
    low, high = ax.get_ylim()
    ax.set_ylim(low, low + (high - low) / (1 - min(share, 0.7)))
    return legend


def legend_outside(ax: Axes, handles: Sequence[Any], *, title: str | None = None) -> Legend:
    """A legend above the axes, in as many columns as fit; a title of the axes goes above it."""
    room = ax.get_window_extent()
    for columns in range(len(handles), 0, -1):
        legend = ax.legend(
            handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, title=title, frameon=False,
            fontsize="small", title_fontsize="small", borderaxespad=0.2, columnspacing=1.2, handletextpad=0.5,
        )  # fmt: skip
        if legend.get_window_extent().width <= room.width:
            break
    # matplotlib puts titles above child axes, so an empty one keeps them off the legend.
    spacer = ax.inset_axes((0, 1, 1, legend.get_window_extent().height / room.height))
    spacer.set_axis_off()
    return legend
