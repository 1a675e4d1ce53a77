"""Drawings of one response: random effects, residuals, normal quantiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats
from matplotlib.axes import Axes

from jaxlmm.inference.distributions import halfwidth
from jaxlmm.plots.base import (
    ABOVE,
    BELOW,
    LINE,
    RASTERIZE,
    font_points,
    grouping_name,
    label_step,
    legend_inside,
    make_axes,
    note,
    one_response,
    percent,
)
from jaxlmm.results.results import Fit

__all__ = ["caterpillar", "qq_plot", "residual_plot"]

# Residuals are averaged in bins of at least about PER_BIN, if that makes MIN_BINS, and in MAX_BINS at most.
PER_BIN, MIN_BINS, MAX_BINS = 10, 4, 20


def caterpillar(fit: Fit, response: int | str = 0, *, level: float = 0.95, ax: Axes | None = None) -> Axes:
    """Draw the random intercepts (BLUPs) of one response, sorted, with intervals.

    Parameters
    ----------
    fit : Fit
    response : int or str
        Position or name.
    level : float
        Of the intervals, which rest on the conditional standard deviations ``fit.ranef()``: they
        take the variances and fixed effects for known.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        Row i from below is the group of the (i + 1)-th smallest intercept, at y = i. The groups
        are named where their names fit beside the axis. Those of which the response misses every
        observation are left out.

    Raises
    ------
    ValueError
        Unknown response or one without a fit, no random effect, level outside (0, 1).
    """
    group = grouping_name(fit)
    one, name = one_response(fit, response)
    seen = _groups_seen(one)
    (modes,) = one.ranef().values()
    blup = modes.modes[0, seen, 0]
    half = float(halfwidth(level, np.array([np.inf]))[0]) * modes.sd[0, seen, 0]
    order = np.argsort(blup, kind="stable")
    rows = np.arange(len(order))

    labels = [str(one.design.random[0].levels[i]) for i in seen[order]]
    height = 1.3 * LINE * font_points("medium") / 72 * len(labels) + 0.4
    ax = make_axes(ax, 5.0, float(np.clip(height, 2.4, 6.5)))
    fitting = [size for size in ("medium", "small", "x-small") if label_step(ax, labels, "y", size) == 1]
    few = bool(fitting)
    size = 5 if few else float(np.clip(400 / len(rows), 1.0, 4.0))
    ax.hlines(rows, (blup - half)[order], (blup + half)[order], color="0.55", linewidth=1.5 if few else 0.8)
    ax.plot(blup[order], rows, linestyle="none", marker="o", markersize=size, color=BELOW)
    ax.axvline(0, color="black", linestyle="dashed", linewidth=1, alpha=0.5, zorder=0)
    ax.set_ylim(-0.7, len(rows) - 0.3)
    if few:
        ax.set_yticks(rows, labels=labels, fontsize=fitting[0])
        ax.set_ylabel(group)
    else:
        ax.set_yticks([])
        ax.set_ylabel(f"{group} ({len(rows):,}, sorted)")
    ax.set_xlabel(f"{name}: random intercept, {percent(level)} interval")
    _note_singular(ax, one)
    return ax


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
    ax.scatter(fitted, resid, s=4 if many else 14, color=BELOW, alpha=0.5, linewidths=0, rasterized=many)
    ax.axhline(0, color="black", linestyle="dashed", linewidth=1, alpha=0.5, zorder=0)
    reach = 1.05 * float(np.max(np.abs(resid), initial=0.0)) or 1.0
    ax.set_ylim(-reach, reach)
    ax.set(xlabel=f"Fitted {name}", ylabel=label)
    at, mean = _bin_means(fitted, resid)
    if len(at) > 1:
        (line,) = ax.plot(at, mean, color=ABOVE, linewidth=1.8, marker="o", markersize=4, label="binned mean")
        legend_inside(ax, [line], loc="upper right")
    return ax


def qq_plot(fit: Fit, response: int | str = 0, *, what: str = "resid", ax: Axes | None = None) -> Axes:
    """Draw residuals or random intercepts of one response against normal quantiles.

    Parameters
    ----------
    fit : Fit
    response : int or str
        Position or name.
    what : {"resid", "ranef"}
        Residuals, as in :func:`residual_plot`, or random intercepts, as in :func:`caterpillar`.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        The line passes through both quartiles; points, quantiles and line are those of R's
        ``qqnorm`` and ``qqline``.

    Raises
    ------
    ValueError
        Unknown response or one without a fit, unknown ``what``, no random effect to draw.
    """
    if what not in ("resid", "ranef"):
        raise ValueError(f"what must be 'resid' or 'ranef', found {what!r}.")
    group = grouping_name(fit) if what == "ranef" else ""
    one, name = one_response(fit, response)
    if what == "ranef":
        label, values = (
            f"Random intercept of {group}",
            next(iter(one.ranef().values())).modes[0, _groups_seen(one), 0],
        )
    else:
        label, values = _residuals(one)
    values = np.sort(values[np.isfinite(values)])
    n = len(values)
    a = 0.375 if n <= 10 else 0.5  # R's ppoints
    quantiles = scipy.stats.norm.ppf((np.arange(1, n + 1) - a) / (n + 1 - 2 * a))
    q = scipy.stats.norm.ppf([0.25, 0.75])
    v = np.quantile(values, [0.25, 0.75])
    slope = (v[1] - v[0]) / (q[1] - q[0])

    ax = make_axes(ax, 4.2, 3.8)
    many = n > RASTERIZE
    ax.axline((0.0, v[0] - slope * q[0]), slope=slope, color="black", linewidth=1, linestyle="dashed")
    ax.scatter(quantiles, values, s=5 if many else 16, color=BELOW, linewidths=0, alpha=0.8, rasterized=many)
    ax.set(xlabel="Normal quantile", ylabel=f"{name}\n{label}")
    if what == "ranef":
        _note_singular(ax, one)
    return ax


def _groups_seen(one: Fit) -> np.ndarray:
    """Groups of which the response has observations."""
    return np.unique(one.design.random[0].codes[np.isfinite(one.Y[:, 0])])


def _residuals(one: Fit) -> tuple[str, np.ndarray]:
    """What to call the residuals, and the residuals, of equal variance; NaN where missing."""
    resid = one.resid()[:, 0]
    weights = one.design.weights if one.weights is None else np.asarray(one.weights)[:, 0]
    return ("Residual", resid) if weights is None else ("Residual × √weight", resid * np.sqrt(weights))


def _note_singular(ax: Axes, one: Fit) -> None:
    if one.singular[0]:
        legend_inside(ax, [note("singular fit: group variance 0")], loc="upper right")


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
