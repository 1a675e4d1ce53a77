"""The printed table of one response, in statsmodels' style."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlmm._types import Status
from jaxlmm.runtime.text import number, summary_layout

__all__ = ["summary_text"]

DF_LABELS = {
    "satterthwaite": "Satterthwaite",
    "kenward-roger": "Kenward-Roger",
    "residual": "residual (n - p)",
    "normal": "none (z tests)",
}


def summary_text(one: Any, name: str, level: float) -> str:
    """Table of ``one``, a ``Fit`` of a single response of that name, with intervals of ``level``."""
    letter = "z" if one.df_method == "normal" else "t"
    grouped = bool(one.n_groups)
    sizes = one.design.random[0].sizes if grouped else np.zeros(0)
    pairs = [
        ("Model:", "Random intercept" if grouped else "OLS"),
        ("No. Observations:", str(one.n_used[0])),
        ("No. Groups:", str(one.n_groups)),
        ("Min. group size:", str(sizes.min()) if grouped else "-"),
        ("Max. group size:", str(sizes.max()) if grouped else "-"),
        ("Mean group size:", f"{sizes.mean():.1f}" if grouped else "-"),
        ("ICC:", number(one.icc[0]) if grouped else "-"),
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
    columns = (one.coef, one.se, one.df, one.stat, one.pvalue, *np.moveaxis(one.conf_int(level), -1, 0))
    rows = [[term, *(number(c[0, j]) for c in columns)] for j, term in enumerate(one.names)]
    if grouped:
        se = one.variance_se()["group_var"][0]
        cells = [number(one.group_var[0]), number(se) if np.isfinite(se) else ""]
        rows.append([f"{one.design.random[0].name} Var", *cells, *[""] * 5])
    notes = [f"Degrees of freedom: {DF_LABELS[one.df_method]}"]
    if one.status[0] != Status.OK:
        notes.append(Status(one.status[0]).message)
    title = "Mixed Linear Model Results" if grouped else "Linear Model Results"
    return summary_layout(title, pairs, header, rows, notes)
