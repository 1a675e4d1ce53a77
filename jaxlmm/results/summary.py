"""What a fit prints: the table of one response, in statsmodels' style, and an overview of many."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlmm._types import Status
from jaxlmm.inference.distributions import check_level
from jaxlmm.inference.multiplicity import adjust_pvalues
from jaxlmm.runtime.text import Text, number, summary_layout

__all__ = ["overview", "summary_text"]

DF_LABELS = {
    "satterthwaite": "Satterthwaite",
    "kenward-roger": "Kenward-Roger",
    "residual": "residual (n - p)",
    "normal": "none (z tests)",
}


def summary_text(one: Any, name: str, level: float) -> Text:
    """Table of ``one``, a ``Fit`` of a single response of that name, with intervals of ``level``."""
    check_level(level)
    letter = "z" if one.df_method == "normal" else "t"
    grouped = bool(one.n_groups)
    simple = not grouped or one.design.has_one_intercept
    sizes = one.group_sizes[0][one.group_sizes[0] > 0]
    # Of a response that misses observations and is not fitted no group sizes are kept.
    known = grouped and bool(one.converged[0] or one.n_used[0] == one.n_obs)
    pairs = [
        ("Model:", ("Random intercept" if simple else "Mixed model") if grouped else "OLS"),
        ("No. Observations:", str(one.n_used[0])),
        ("No. Groups:", str(len(sizes)) if known or not grouped else "-"),
        ("Min. group size:", str(sizes.min()) if known else "-"),
        ("Max. group size:", str(sizes.max()) if known else "-"),
        ("Mean group size:", f"{sizes.mean():.1f}" if known else "-"),
        ("ICC:", number(one.icc[0]) if grouped and simple else "-"),
        ("Dependent Variable:", name),
        ("Method:", one.method),
        ("Scale:", number(one.sigma2[0])),
        ("Log-Likelihood:", number(one.loglik[0])),
        ("AIC:", number(one.aic[0])),
        ("BIC:", number(one.bic[0])),
        ("Converged:", "Yes" if one.converged[0] else "No"),
    ]
    tail = (1 - level) / 2
    header = ["", "Coef.", "Std.Err.", "df", letter, f"P>|{letter}|", f"[{tail:.4g}", f"{1 - tail:.4g}]"]
    columns = (one.coef, one.se, one.df, one.statistic, one.pvalue, *np.moveaxis(one.conf_int(level), -1, 0))
    rows = [[term, *(number(c[0, j]) for c in columns)] for j, term in enumerate(one.names)]
    if grouped:
        rows += _random_rows(one)
    notes = [f"Degrees of freedom: {DF_LABELS[one.df_method]}", *_dropped(one)]
    if one.status[0] != Status.OK:
        notes.append(Status(one.status[0]).message)
    title = "Mixed Linear Model Results" if grouped else "Linear Model Results"
    return Text(summary_layout(title, pairs, header, rows, notes))


def _dropped(fit: Any) -> list[str]:
    """Notes of the rows that are not in the design, and of columns of the formula that no row determines."""
    rows = [] if fit.design.dropped is None else [f"{fit.design.dropped.note}."]
    columns = getattr(fit.source, "dropped_columns", ())
    said = f"Dropped, since some combination of levels has no row: {', '.join(columns)}"
    return [*rows, said] if columns else rows


def _random_rows(one: Any) -> list[list[str]]:
    """The random effects' variances; of other models than one intercept standard deviations and correlations."""
    if one.design.has_one_intercept:
        se = one.variance_se()["group_var"][0]
        cells = [number(one.group_var[0]), number(se) if np.isfinite(se) else ""]
        return [[f"{one.design.random[0].name} Var", *cells, *[""] * 5]]
    found = one.random_parameters
    rows = []
    for k, (group, term) in enumerate(zip(found.groups, found.terms, strict=True)):
        kind, name = term.split("__", 1)
        cells = [number(found.values[0, k]), number(found.se[0, k]) if np.isfinite(found.se[0, k]) else ""]
        rows.append([f"{group} {name} {kind.upper()}", *cells, *[""] * 5])
    return rows


def overview(fit: Any, level: float) -> Text:
    """How m responses came out: outcome, effects term by term, and how much the groups differ.

    The last column counts the p-values that stay below 1 - ``level`` with the false discovery rate
    controlled over the responses of each term (Benjamini & Hochberg 1995).
    """
    check_level(level)
    counts = {Status[name]: n for name, n in fit.status_counts().items() if n}
    grouped, good, alpha = bool(fit.n_groups), fit.converged, 1 - level
    pairs = [
        ("Responses:", str(fit.n_responses)),
        ("Observations:", str(fit.n_obs)),
        ("Groups:", f"{fit.n_groups} ({fit.design.random[0].name})" if grouped else "-"),
        ("Incomplete responses:", str(int(fit.incomplete.sum()))),
        ("Method:", fit.method),
        ("Degrees of freedom:", DF_LABELS[fit.df_method]),
        ("Fitted:", str(int(good.sum()))),
        ("Not fitted:", str(int((~good).sum()))),
    ]
    header = ["", "Median coef.", "Median |coef/se|", f"P < {alpha:.4g}", f"FDR < {alpha:.4g}"]
    rows = []
    for j, term in enumerate(fit.names):
        p = fit.pvalue[good, j]
        adjusted = adjust_pvalues(p, "bh") if len(p) else p
        middle = [np.median(a[good, j]) if good.any() else np.nan for a in (fit.coef, np.abs(fit.statistic))]
        rows.append([term, *map(number, middle), str(int((p < alpha).sum())), str(int((adjusted < alpha).sum()))])
    notes = _dropped(fit)
    if grouped and good.any() and fit.design.has_one_intercept:
        quantiles = np.quantile(fit.icc[good], [0.05, 0.5, 0.95])
        notes.append("ICC, 5 %, 50 % and 95 % quantile: " + ", ".join(map(number, quantiles)))
    notes += [f"{n} {status.name}: {status.message}" for status, n in counts.items() if status != Status.OK]
    return Text(summary_layout(f"{fit.n_responses} responses", pairs, header, rows, notes))
