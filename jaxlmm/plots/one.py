"""Drawings of one response: random effects, residuals, normal quantiles."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxlmm.inference.bands import normal_band
from jaxlmm.inference.distributions import check_level, halfwidth
from jaxlmm.plots.base import (
    ABOVE,
    BELOW,
    LINE,
    RASTERIZE,
    fitting,
    font_points,
    label_step,
    legend_outside,
    make_axes,
    note,
    one_response,
    percent,
    random_position,
    zero_line,
)
from jaxlmm.plots.panels import below, divide, title_points
from jaxlmm.plots.words import cut, measured, term_text
from jaxlmm.results.results import Fit
from jaxlmm.runtime.arguments import check_option

__all__ = ["caterpillar", "qq_plot", "residual_plot"]

# Residuals are averaged in bins of at least about PER_BIN, if that makes MIN_BINS, and in MAX_BINS at most.
PER_BIN, MIN_BINS, MAX_BINS = 10, 4, 20


def caterpillar(
    fit: Fit,
    response: int | str = 0,
    *,
    group: str | None = None,
    effects: Any = None,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Draw the random effects (BLUPs) of one response, sorted, with intervals: a panel for each effect.

    Parameters
    ----------
    fit : Fit
    response : int or str
        Position or name.
    group : str, optional
        The random term, by its name in ``fit.varcorr``. Default: the first.
    effects : str or sequence of str, optional
        Which of its effects, such as "(Intercept)". Default: all, each with a scale of its own.
    level : float
        Of the intervals, which rest on the conditional standard deviations ``fit.ranef()``: they
        take the variances and fixed effects for known.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        Row i from below is the group of the (i + 1)-th smallest first effect, at y = i. The groups
        are named where their names fit beside the axis. Those of which the response misses every
        observation are left out. The panels of several effects are ``ax.child_axes``.

    Raises
    ------
    ValueError
        Unknown response or one without a fit, no random effect, unknown group or effect, level outside (0, 1).
    """
    position = random_position(fit, group)
    one, name = one_response(fit, response)
    term = one.design.random[position]
    columns = _effects(term, effects)
    seen = _groups_seen(one, position)
    modes = list(one.ranef().values())[position]
    blup = modes.modes[0, seen][:, columns]
    half = float(halfwidth(level, np.array([np.inf]))[0]) * modes.sd[0, seen][:, columns]
    order = np.argsort(blup[:, 0], kind="stable")

    labels = [str(term.levels[i]) for i in seen[order]]
    lines = 1.3 * LINE * font_points(plt.rcParams["ytick.labelsize"]) / 72 * len(labels)
    ax = make_axes(ax, 5.0, float(np.clip(lines + 0.6, 2.0, 6.5)), rows=True)
    titles = [] if len(columns) == 1 else [term_text(term.columns[j]) for j in columns]
    panels = divide(ax, 1, len(columns), gap=(10.0, 0), title=title_points(titles)) if titles else [ax]
    for k, panel in enumerate(panels):
        _intervals(panel, blup[order, k], half[order, k], labels if k == 0 else None)
        if titles:
            panel.set_title(titles[k])
            panel.spines[["top", "right"]].set_visible(False)
            panel.xaxis.set_major_locator(MaxNLocator(nbins=3))
    few = len(panels[0].get_yticks()) > 0
    panels[0].set_ylabel(term.name if few else f"{term.name} ({len(order):,}, sorted)")
    what = "random effects" if titles else _called(term.columns[columns[0]])
    label = fitting(ax, "x", f"{name}: {what}, {percent(level)} interval")
    ax.set_xlabel(label, labelpad=below() + 2 if titles else None)
    if handles := _singular(one, position):
        legend_outside(ax, handles, above=title_points(titles))
    return ax


def _called(effect: str) -> str:
    return "random intercept" if effect == "(Intercept)" else f"random effect of {term_text(effect)}"


def _effects(term: Any, effects: Any) -> list[int]:
    """Positions of effects of a random term."""
    wanted = list(term.columns) if effects is None else [effects] if isinstance(effects, str) else list(effects)
    for effect in wanted:
        if effect not in term.columns:
            raise ValueError(
                f"there is no random effect {effect!r} in {term.label}; it has {', '.join(term.columns)}."
            )
    if not wanted:
        raise ValueError(f"effects is empty; {term.label} has {', '.join(term.columns)}.")
    return [term.columns.index(effect) for effect in wanted]


def _intervals(ax: Axes, centre: np.ndarray, half: np.ndarray, labels: list[str] | None) -> None:
    """Rows from below, with as many names as there is room for; none for None."""
    rows = np.arange(len(centre))
    base = font_points(plt.rcParams["ytick.labelsize"])
    sizes = [size for size in (base, 0.85 * base, 0.7 * base) if labels and label_step(ax, labels, "y", size) == 1]
    many = len(rows) > 60
    size = float(np.clip(400 / len(rows), 1.0, 4.0)) if many else 4.0
    ax.hlines(rows, centre - half, centre + half, color="0.55", linewidth=0.8 if many else 1.2)
    ax.plot(centre, rows, linestyle="none", marker="o", markersize=size, color=BELOW)
    zero_line(ax, "x")
    ax.set_ylim(-0.7, len(rows) - 0.3)
    if sizes and labels:
        ax.set_yticks(rows, labels=[cut(label, 24) for label in labels], fontsize=sizes[0])
    else:
        ax.set_yticks([])


def residual_plot(fit: Fit, response: int | str = 0, *, ax: Axes | None = None) -> Axes:
    """Draw the residuals of one response against its fitted values, with their mean along the way.

    Parameters
    ----------
    fit : Fit
    response : int or str
        Position or name.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        The line joins mean residuals of bins that hold about equally many observations; none is
        drawn for less than 40 observations. With weights, the residuals are multiplied by the
        square roots of these, so that their spread is comparable.

    Raises
    ------
    ValueError
        Unknown response or one without a fit.
    """
    one, name = one_response(fit, response)
    label, resid = _residuals(one)
    known = np.isfinite(resid)
    fitted, resid = one.fitted()[known, 0], resid[known]
    ax = make_axes(ax, 5.0, 3.6)
    many = len(resid) > RASTERIZE
    ax.scatter(fitted, resid, s=4 if many else 10, color=BELOW, alpha=0.5, linewidths=0, rasterized=many)
    zero_line(ax, "y")
    reach = 1.05 * float(np.max(np.abs(resid), initial=0.0)) or 1.0
    ax.set_ylim(-reach, reach)
    ax.set(xlabel=fitting(ax, "x", measured(f"Fitted {name}", one.labels.units)), ylabel=label.capitalize())
    at, mean = _bin_means(fitted, resid)
    if len(at) > 1:
        (line,) = ax.plot(at, mean, color=ABOVE, linewidth=1.5, marker="o", markersize=3, label="mean of bins")
        legend_outside(ax, [line])
    return ax


def qq_plot(
    fit: Fit,
    response: int | str = 0,
    *,
    what: str = "resid",
    group: str | None = None,
    effect: str | None = None,
    level: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Draw residuals or random effects of one response against normal quantiles, with a simultaneous band.

    Parameters
    ----------
    fit : Fit
    response : int or str
        Position or name.
    what : {"resid", "ranef"}
        Residuals, as in :func:`residual_plot`, or random effects, as in :func:`caterpillar`.
    group, effect : str, optional
        Which random effects: the term, by its name in ``fit.varcorr``, and the effect, such as "(Intercept)".
        Default: the first ones.
    level : float
        Probability with which all points of a normal sample lie within the band.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        The line passes through both quartiles; points, quantiles and line are those of R's
        ``qqnorm`` and ``qqline``. The number of points outside the band is in the legend.

    Raises
    ------
    ValueError
        Unknown response or one without a fit, unknown ``what``, no random effect to draw, level outside (0, 1).

    Notes
    -----
    The band has equal local levels: each point leaves it with the same small probability, such that all of them stay
    within with probability ``level`` (Aldor-Noiman et al. 2013, Am Stat 67(4); Weine et al. 2023, J Stat Softw
    106(10)). It takes the line for known, and the points for a sample of one distribution, which residuals are
    approximately; modes of groups of very unequal sizes are not, since they are shrunk by different amounts.
    """
    what = check_option("what", what, ("resid", "ranef"))
    check_level(level)
    position = random_position(fit, group) if what == "ranef" else 0
    one, name = one_response(fit, response)
    if what == "ranef":
        term = one.design.random[position]
        j = _effects(term, term.columns[0] if effect is None else effect)[0]
        label = f"{_called(term.columns[j])}, {term.name}"
        values = list(one.ranef().values())[position].modes[0, _groups_seen(one, position), j]
    else:
        label, values = _residuals(one)
    values = np.sort(values[np.isfinite(values)])
    n = len(values)
    a = 0.375 if n <= 10 else 0.5  # R's ppoints
    quantiles = scipy.stats.norm.ppf((np.arange(1, n + 1) - a) / (n + 1 - 2 * a))
    q = scipy.stats.norm.ppf([0.25, 0.75])
    v = np.quantile(values, [0.25, 0.75])
    slope = (v[1] - v[0]) / (q[1] - q[0])
    middle = v[0] - slope * q[0]
    low, high = (middle + slope * limit for limit in normal_band(n, level))

    ax = make_axes(ax, 4.2, 3.8)
    many = n > RASTERIZE
    band = ax.fill_between(
        quantiles, low, high, color="0.85", linewidth=0, zorder=0, label=f"{percent(level)} band, simultaneous"
    )
    ax.axline((0.0, middle), slope=slope, color="black", linewidth=0.8, linestyle="dashed")
    ax.scatter(quantiles, values, s=5 if many else 10, color=BELOW, linewidths=0, alpha=0.8, rasterized=many)
    ax.set(xlabel="Normal quantile", ylabel=fitting(ax, "y", measured(f"{name}: {label}", one.labels.units)))
    # The ends of the band are wide; the view is that of the points.
    room = 0.06 * (values[-1] - values[0]) or 1.0
    ends = middle + slope * quantiles[[0, -1]]
    ax.set_ylim(min(values[0], ends[0]) - room, max(values[-1], ends[1]) + room)
    outside = int(np.sum((values < low) | (values > high)))
    handles = [band, note(f"{outside:,} of {n:,} outside")]
    legend_outside(ax, [*handles, *(_singular(one, position) if what == "ranef" else [])])
    return ax


def _groups_seen(one: Fit, position: int) -> np.ndarray:
    """Groups of a random term of which the response has observations."""
    return np.unique(one.design.random[position].codes[np.isfinite(one.Y[:, 0])])


def _residuals(one: Fit) -> tuple[str, np.ndarray]:
    """What to call the residuals, and the residuals, of equal variance; NaN where missing."""
    resid = one.resid()[:, 0]
    weights = one.design.weights if one.weights is None else np.asarray(one.weights)[:, 0]
    return ("residual", resid) if weights is None else ("residual × √weight", resid * np.sqrt(weights))


def _singular(one: Fit, position: int) -> list[Any]:
    """An entry of a legend, if the random term is singular."""
    term = one.design.random[position]
    if not list(one.singular_terms.values())[position][0]:
        return []
    return [note(f"singular fit: {'group variance 0' if term.size == 1 else f'covariance of {term.name}'}")]


def _bin_means(x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
    """Means of x and y in bins of about equal counts along x; equal x share a bin."""
    n_bins = min(len(x) // PER_BIN, MAX_BINS)
    if n_bins < MIN_BINS:
        return [], []
    edges = np.unique(np.quantile(x, np.linspace(0, 1, n_bins + 1)))
    bin_ = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, max(len(edges) - 2, 0))
    counts = np.bincount(bin_)
    used = counts > 0
    mean_x, mean_y = (np.bincount(bin_, weights=v)[used] / counts[used] for v in (x, y))
    return mean_x, mean_y
