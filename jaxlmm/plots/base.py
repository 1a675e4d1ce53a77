"""What the drawings share: colours, axes, legends that cover nothing, and the checks of what is asked for."""

from __future__ import annotations

import contextlib
import contextvars
import numbers
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from jaxlmm._types import Status
from jaxlmm.design.random import term_keys
from jaxlmm.plots.words import response_texts, wrapped
from jaxlmm.results.results import Fit
from jaxlmm.tabular.selection import position, positions

__all__ = [
    "ABOVE",
    "ADJUSTED",
    "BELOW",
    "CATEGORIES",
    "GREY",
    "MARKERS",
    "RASTERIZE",
    "axes_points",
    "check_alpha",
    "effect_columns",
    "figure_width",
    "fitted_responses",
    "fitting",
    "font_points",
    "grouping_name",
    "label_step",
    "legend_inside",
    "legend_outside",
    "make_axes",
    "note",
    "one_response",
    "one_term",
    "paper",
    "percent",
    "random_position",
    "spans",
    "term_position",
    "zero_line",
]

# The colours of Okabe & Ito (2008) that show on white, told apart with every kind of colour vision.
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Coprime in number with the colours, so that 42 combinations differ.
MARKERS = ("o", "s", "^", "D", "v", "P")
ABOVE, BELOW, GREY = CATEGORIES[1], CATEGORIES[0], "0.65"
# Adjustments of p-values as pictures call them.
ADJUSTED = {
    "bh": "BH-adjusted",
    "by": "BY-adjusted",
    "bonferroni": "Bonferroni-adjusted",
    "holm": "Holm-adjusted",
    "hochberg": "Hochberg-adjusted",
    "hommel": "Hommel-adjusted",
    "none": "unadjusted",
}
# Scatters of more points are drawn as pixels in vector formats: else a file has megabytes.
RASTERIZE = 20_000
# Figures that were made here, whose height may follow from what is in them.
OWN: weakref.WeakSet[Figure] = weakref.WeakSet()
# Width in inches of the figures of a journal, within ``paper``.
COLUMN: contextvars.ContextVar[float | None] = contextvars.ContextVar("COLUMN", default=None)
# Height of a line of text, relative to its font size.
LINE = 1.3


@contextlib.contextmanager
def paper(width: float = 3.35, size: float = 8) -> Iterator[None]:
    """Settings of matplotlib for a figure in a journal, within a ``with`` block.

    Pictures that make a figure of their own are as wide as the column, all text is of one size, lines are thinner,
    and text in PDF files stays text. Save the figure within the block too.

    Parameters
    ----------
    width : float
        Inches: 3.35 (85 mm) is a column of most journals, 7 the page.
    size : float
        Of all text, in points.

    Raises
    ------
    ValueError
        A width or size that is not positive.
    """
    for name, value in (("width", width), ("size", size)):
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < value < np.inf:
            raise ValueError(f"{name} must be a positive number, found {value!r}.")
    text = dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize"), size)
    text |= dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "figure.titlesize", "legend.title_fontsize"), size)
    settings: Any = text | {
        "figure.figsize": (width, 0.75 * width), "figure.dpi": 150, "savefig.dpi": 300,
        "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4, "xtick.major.size": 2.5, "ytick.major.size": 2.5, "axes.labelpad": 2.5,
        "xtick.major.pad": 2.0, "ytick.major.pad": 2.0, "lines.linewidth": 1.0, "lines.markersize": 4,
        "axes.titlepad": 4.0, "hatch.linewidth": 0.5,
        "pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none",
    }  # fmt: skip
    column = COLUMN.set(float(width))
    try:
        with matplotlib.rc_context(settings):
            yield
    finally:
        COLUMN.reset(column)


def figure_width(width: float) -> float:
    """Width in inches of a new figure: that of ``paper``, else this one, or matplotlib's if that is smaller."""
    column = COLUMN.get()
    return min(width, float(plt.rcParams["figure.figsize"][0])) if column is None else column


def make_axes(ax: Axes | None, width: float, height: float, *, tidy: bool = True, rows: bool = False) -> Axes:
    """``ax``, or the axes of a new figure of this size in inches.

    The width may be another, see :func:`figure_width`: a figure that is less wide is made lower by the same share,
    unless ``rows`` says that its height follows from a number of lines. ``tidy`` leaves out the upper and the right
    spine.
    """
    if ax is None:
        wide = figure_width(width)
        height = height if rows else max(height * min(1.0, wide / width), 1.6)
        figure, ax = plt.subplots(figsize=(wide, height), layout="constrained")
        OWN.add(figure)
    if tidy:
        ax.spines[["top", "right"]].set_visible(False)
    return ax


def grow(ax: Axes, points: float) -> None:
    """Make a figure that was made here higher by so much, for what stands above its axes."""
    figure = ax.get_figure(root=True)
    if points > 0 and figure is not None and figure in OWN:
        figure.set_figheight(float(figure.get_figheight()) + points / 72)


def zero_line(ax: Axes, axis: str, **options: Any) -> None:
    """A thin dashed line where x, or y, is 0, behind what is drawn."""
    draw: Any = ax.axvline if axis == "x" else ax.axhline
    draw(0, **{"color": "black", "linestyle": "dashed", "linewidth": 0.8, "alpha": 0.5, "zorder": 0} | options)


def term_position(fit: Fit, term: Any) -> int:
    """Column of X of one fixed effect, given by name or position; ValueError lists the terms."""
    names = fit.names
    if isinstance(term, str) and term in names:
        return names.index(term)
    whole = isinstance(term, numbers.Integral) and not isinstance(term, bool)
    if whole and -len(names) <= term < len(names):
        return int(term) % len(names)
    raise ValueError(f"there is no term {term!r}; the terms are {', '.join(map(repr, names))}.")


def one_term(fit: Any, term: Any) -> int:
    """As :func:`term_position`; None is the only effect that is no intercept."""
    if term is not None:
        return term_position(fit, term)
    found = [j for j, name in enumerate(fit.names) if name != "Intercept"]
    if len(found) != 1:
        names = ", ".join(map(repr, fit.names))
        raise ValueError(f"say which effect is to be drawn, term=..., one of {names}.")
    return found[0]


def effect_columns(fit: Any, terms: Any) -> list[int]:
    """Columns of X of one or several effects; None: of all but the intercept."""
    if terms is None:
        return [j for j, name in enumerate(fit.names) if name != "Intercept"] or [0]
    single = isinstance(terms, str) or not hasattr(terms, "__iter__")
    found = [term_position(fit, term) for term in ([terms] if single else terms)]
    if not found:
        raise ValueError(f"terms is empty; the terms are {', '.join(map(repr, fit.names))}.")
    return found


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
    return fitted_responses(fit, [i]), response_texts(fit)[i]


def grouping_name(fit: Fit) -> str:
    """Name of the grouping factor; ValueError without one."""
    if not fit.design.random:
        raise ValueError("the model has no random effect to draw; fit it with groups.")
    return fit.design.random[0].name


def random_position(fit: Fit, group: str | None) -> int:
    """Position of a random term, by its name in ``fit.varcorr``; ValueError without one."""
    grouping_name(fit)
    keys = term_keys(fit.design.random)
    if group is not None and group not in keys:
        raise ValueError(f"there is no random term {group!r}; the model has {', '.join(map(repr, keys))}.")
    return 0 if group is None else list(keys).index(group)


def check_alpha(alpha: Any) -> None:
    """ValueError unless ``alpha`` is a number between 0 and 1."""
    if not isinstance(alpha, (int, float, np.floating)) or not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, found {alpha!r}.")


def percent(level: float) -> str:
    """0.95 as "95 %"."""
    return f"{100 * level:.10g} %"


# -- room -------------------------------------------------------------------------------------


def spans(ax: Axes, x: np.ndarray, marked: Sequence[tuple[str, np.ndarray, Any]]) -> list[Any]:
    """Bars below what is drawn, where something is significant: a row for each (label, mask (m,), colour).

    The y axis is made longer for them; each sample is marked from half-way to the one before it to half-way to the
    next. Returns entries for a legend.
    """
    shown = [(label, np.asarray(mask, dtype=bool), color) for label, mask, color in marked if np.any(mask)]
    if not shown:
        return []
    step = 0.05
    low, high = ax.get_ylim()
    foot = step * len(shown) + 0.02
    ax.set_ylim(high - (high - low) / (1 - foot), high)
    x = np.asarray(x, dtype=np.float64)
    middle = (x[1:] + x[:-1]) / 2
    left = np.concatenate([[x[0] - (middle[0] - x[0] if len(x) > 1 else 0.5)], middle])
    right = np.concatenate([middle, [x[-1] + (x[-1] - middle[-1] if len(x) > 1 else 0.5)]])
    handles = []
    for k, (label, mask, color) in enumerate(shown):
        ends = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
        bars = [(left[a], right[b - 1] - left[a]) for a, b in zip(ends[::2], ends[1::2], strict=True)]
        at = step * (len(shown) - k - 1) + 0.02
        made = ax.broken_barh(
            bars, (at, 0.6 * step), transform=ax.get_xaxis_transform(), facecolors=color, linewidth=0, label=label
        )
        made.sticky_edges.y.clear()
        handles.append(made)
    return handles


def axes_points(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes in points."""
    box = ax.get_window_extent()
    scale = 72 / ax.figure.dpi
    return box.width * scale, box.height * scale


def font_points(size: Any) -> float:
    """A font size such as "small" in points."""
    return FontProperties(size=size).get_size_in_points()


def fitting(ax: Axes, axis: str, text: str) -> str:
    """A label of an axis, in lines that are no longer than it."""
    width, height = axes_points(ax)
    return wrapped(text, width if axis == "x" else height, font_points(plt.rcParams["axes.labelsize"]))


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
    # What is to stand above or beside the axes may still take some of it.
    return max(1, int(np.ceil(each * len(labels) / max(0.92 * room, 1.0))))


# -- legends ----------------------------------------------------------------------------------


def note(text: str) -> Line2D:
    """An entry of a legend that is text only."""
    return Line2D([], [], linestyle="none", label=text)


def legend_inside(ax: Axes, handles: Sequence[Any], *, loc: Any, title: str | None = None) -> Legend:
    """A legend in the upper part of the axes, and a y axis long enough to keep the data below it."""
    legend = ax.legend(
        handles=handles, loc=loc, title=title, framealpha=1, edgecolor="none", facecolor="inherit", borderpad=0.2,
    )  # fmt: skip
    share = legend.get_window_extent().height / ax.get_window_extent().height + 0.04
    low, high = ax.get_ylim()
    ax.set_ylim(low, low + (high - low) / (1 - min(share, 0.7)))
    return legend


def legend_outside(ax: Axes, handles: Sequence[Any], *, title: str | None = None, above: float = 0.0) -> Legend:
    """A legend above the axes, in as many columns as fit; a title of the axes goes above it.

    ``above`` is room for titles of panels between them, in points.
    """
    room = ax.get_window_extent()
    up = ScaledTranslation(0, above / 72, ax.figure.dpi_scale_trans)
    for columns in range(len(handles), 0, -1):
        legend = ax.legend(
            handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, title=title, frameon=False,
            bbox_transform=ax.transAxes + up, borderaxespad=0.2, columnspacing=1.2, handletextpad=0.5,
            handlelength=1.6,
        )  # fmt: skip
        if legend.get_window_extent().width <= room.width:
            break
    grow(ax, above + legend.get_window_extent().height * 72 / ax.figure.dpi - LINE * font_points("medium"))
    room = ax.get_window_extent()
    # matplotlib puts titles above child axes, so an empty one keeps them off the legend.
    height = legend.get_window_extent().height + above * ax.figure.dpi / 72
    spacer = ax.inset_axes((0, 1, 1, height / room.height))
    spacer.set_axis_off()
    return legend
