"""Forests: coefficients with their intervals, one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxlmm.plots.base import (
    BELOW,
    CATEGORIES,
    LINE,
    MARKERS,
    axes_points,
    effect_columns,
    fitted_responses,
    fitting,
    font_points,
    label_step,
    legend_outside,
    make_axes,
    percent,
    zero_line,
)
from jaxlmm.plots.panels import below, divide, grid_of, title_points
from jaxlmm.plots.table import fit_or_table
from jaxlmm.plots.words import measured, response_texts, row_labels, term_text, wrapped
from jaxlmm.results.results import Fit

__all__ = ["forest"]

# Most responses told apart by colours, and by rows.
MOST_RESPONSES, MOST_ROWS = 20, 60
# Least width of a panel, and share of the picture that names of rows may take.
PANEL, NAMES = 62.0, 0.42


@dataclass(frozen=True, eq=False)
class Chosen:
    """What a forest shows: estimates (m, k), limits (m, k, 2), and what m responses and k terms are called."""

    coef: np.ndarray
    limits: np.ndarray
    names: list[str]
    terms: list[str]
    effect: str
    interval: str


def forest(
    fit: Fit | Any,
    responses: Any = None,
    terms: Any = None,
    level: float = 0.95,
    *,
    facet: bool | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the fixed effects of one or several responses with intervals: a panel per term, a row per response.

    Parameters
    ----------
    fit : Fit, or a table such as ``fit.tidy()``
    responses : int, str, or sequence of them, optional
        Positions or names. Default: all.
    terms : int, str, or sequence of them, optional
        Fixed effects, by name or position; the first is drawn first. Default: all, less
        constant columns such as the intercept, whose scale is seldom that of effects.
    level : float
        Of the Wald intervals.
    facet : bool, optional
        Whether each term has a panel with a scale of its own, as effects of covariates in different units need.
        Default: where there are several responses and several terms. Else all share one scale, with a row for each
        term, and responses told apart by colour and marker.
    ax : Axes, optional
        Default: that of a new figure.

    Returns
    -------
    Axes
        Row i is at y = i, and the y axis points down. With panels these are ``ax.child_axes``, in the order of the
        terms.

    Raises
    ------
    ValueError
        Unknown term or response, a response without a fit; none, or more than 20 responses in one panel or 60 in
        panels of their own.
    """
    fit = fit_or_table(fit)
    columns = _chosen_terms(fit, terms)
    m = fit.n_responses if responses is None else None
    if m is not None:
        _check_few(m, columns, facet)
        responses = slice(None)
    chosen = fitted_responses(fit, responses)
    m = chosen.n_responses
    _check_few(m, columns, facet)
    of = Chosen(
        chosen.coef[:, columns],
        chosen.conf_int(level)[:, columns],
        response_texts(chosen),
        [term_text(fit.names[j]) for j in columns],
        measured("Effect", chosen.labels.units),
        f"{percent(level)} interval",
    )
    if not _in_panels(m, columns, facet):
        return _one_scale(ax, of)
    return _stacked(ax, of) if m == 1 else _panels(ax, of)


def _in_panels(m: int, columns: Sequence[int], facet: bool | None) -> bool:
    return (m > 1 and len(columns) > 1) if facet is None else bool(facet)


def _check_few(m: int, columns: Sequence[int], facet: bool | None) -> None:
    most = MOST_ROWS if _in_panels(m, columns, facet) or len(columns) == 1 else MOST_RESPONSES
    if not 0 < m <= most:
        raise ValueError(
            f"a forest shows 1 to {most} responses, found {m}; choose with responses=[...], or draw a volcano."
        )


def _one_scale(ax: Axes | None, of: Chosen) -> Axes:
    """All effects on one x axis, a row for each term; of one term a row for each response."""
    m, k = of.coef.shape
    if k == 1 and m > 1:
        ax = _sized(ax, m)
        _rows(ax, of.coef[:, 0], of.limits[:, 0], of.names)
        ax.set_xlabel(fitting(ax, "x", f"{of.effect} of {of.terms[0]}, {of.interval}"), loc="right")
        return ax
    ax = make_axes(ax, 5.5, _height(1.1 + k * (0.25 + 0.16 * m)), rows=True)
    step, size = 0.75 / m, 6 if m <= 8 else 4
    rows = np.arange(k)
    handles = []
    for i, name in enumerate(of.names):
        y = rows + (i - (m - 1) / 2) * step
        color, marker = CATEGORIES[i % len(CATEGORIES)], MARKERS[i % len(MARKERS)]
        ax.hlines(y, of.limits[i, :, 0], of.limits[i, :, 1], color=color, linewidth=1.8, alpha=0.7)
        handles += ax.plot(
            of.coef[i], y, linestyle="none", marker=marker, markersize=size, color=color, label=name
        )  # fmt: skip
    _frame(ax, of.terms)
    on = f" on {of.names[0]}" if m == 1 else ""
    ax.set_xlabel(fitting(ax, "x", f"{of.effect}{on}, {of.interval}"), loc="right")
    if m > 1:
        ax.hlines(rows[1:] - 0.5, 0, 1, transform=ax.get_yaxis_transform(), color="0.9", linewidth=0.8, zorder=0)
        legend_outside(ax, handles)
    return ax


def _stacked(ax: Axes | None, of: Chosen) -> Axes:
    """One response: a panel with one row for each term, below each other."""
    k, gap = len(of.terms), below() + 6
    ax = make_axes(ax, 5.5, _height(0.5 + k * (gap + 16) / 72), rows=True)
    for j, panel in enumerate(divide(ax, k, 1, gap=(0, gap))):
        _rows(panel, of.coef[0, j : j + 1], of.limits[0, j : j + 1], [of.terms[j]])
        panel.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel(fitting(ax, "x", f"{of.effect} on {of.names[0]}, {of.interval}"), loc="right", labelpad=below() + 2)
    return ax


def _panels(ax: Axes | None, of: Chosen) -> Axes:
    """A panel for each term, side by side as far as there is room, with a row for each response."""
    m, k = of.coef.shape
    made = ax is None
    ax = _sized(ax, m)
    figure = ax.get_figure(root=True)
    assert figure is not None
    width = axes_points(ax)[0]
    if made:  # all of the figure but the names
        size = font_points(plt.rcParams["ytick.labelsize"])
        whole = 72 * float(figure.get_figwidth())
        width = whole - min(0.6 * size * max(map(len, of.names)), NAMES * whole) - 12
    rows, columns = grid_of(k, int(width // PANEL))
    titles = [wrapped(term, 0.9 * width / columns, font_points(plt.rcParams["axes.titlesize"])) for term in of.terms]
    above = title_points(titles)
    if made and rows > 1:
        figure.set_figheight(min(rows * float(figure.get_figheight()), 9.0))
    panels = divide(ax, rows, columns, n=k, gap=(10.0, below() + above + 4), title=above)
    for j, panel in enumerate(panels):
        _rows(panel, of.coef[:, j], of.limits[:, j], of.names)
        panel.set_title(titles[j])
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.set_major_locator(
            MaxNLocator(nbins=2 if width / columns < 90 else 3 if width / columns < 150 else 5)
        )
        panel.tick_params(labelleft=j % columns == 0)
    ax.set_xlabel(fitting(ax, "x", f"{of.effect}, {of.interval}"), loc="right", labelpad=below() + 2)
    return ax


def _rows(ax: Axes, coef: np.ndarray, limits: np.ndarray, names: list[str]) -> None:
    """One estimate with its interval in each row."""
    rows = np.arange(len(coef))
    ax.hlines(rows, limits[:, 0], limits[:, 1], color=BELOW, linewidth=1.4, alpha=0.7)
    ax.plot(coef, rows, linestyle="none", marker="o", markersize=4.5 if len(rows) <= 30 else 3, color=BELOW)
    _frame(ax, names)


def _frame(ax: Axes, names: list[str]) -> None:
    """Zero line, and names of the rows, as many as there is room for."""
    zero_line(ax, "x")
    ax.set_ylim(len(names) - 0.5, -0.5)
    base = font_points(plt.rcParams["ytick.labelsize"])
    size = next((size for size in (base, 0.85 * base, 0.7 * base) if label_step(ax, names, "y", size) == 1), base)
    step = label_step(ax, names, "y", size)
    figure = ax.get_figure(root=True)
    assert figure is not None
    room = NAMES * 72 * float(figure.get_figwidth())
    ax.set_yticks(range(0, len(names), step), labels=row_labels(names[::step], room, size), fontsize=size)
    ax.tick_params(left=False)
    ax.spines["left"].set_visible(False)


def _sized(ax: Axes | None, m: int) -> Axes:
    """Axes high enough for a line of text for each of m rows."""
    size = font_points(plt.rcParams["ytick.labelsize"])
    return make_axes(ax, 5.5, _height(0.9 + 1.15 * LINE * size / 72 * m), rows=True)


def _height(inches: float) -> float:
    return float(np.clip(inches, 1.6, 9.0))


def _chosen_terms(fit: Any, terms: Any) -> list[int]:
    """Columns of X to draw."""
    if terms is None:
        design = getattr(fit, "design", None)
        if design is None:  # of a table, which does not say which column is constant
            varies = np.flatnonzero([name != "Intercept" for name in fit.names])
        else:
            varies = np.flatnonzero(np.ptp(design.X, axis=0) > 0)
        return (varies if len(varies) else np.arange(len(fit.names))).tolist()
    return effect_columns(fit, terms)
