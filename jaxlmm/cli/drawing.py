"""What the command line's ``plot`` draws: a saved fit, a store of results, or a table that ``fit`` wrote."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from jaxlmm import plots
from jaxlmm.inference.multiplicity import ADJUSTMENTS, adjust_pvalues, adjustment
from jaxlmm.loading.load import load
from jaxlmm.plots.base import ADJUSTED
from jaxlmm.plots.table import Effects
from jaxlmm.results.images import map_values
from jaxlmm.tabular.labels import Labels

__all__ = ["PLOTS", "plot_file"]

# Kinds of pictures: the function, and which of term and response it takes.
PLOTS: dict[str, tuple[Callable[..., Axes] | None, tuple[str, ...]]] = {
    "forest": (plots.forest, ("responses",)),
    "volcano": (plots.volcano, ("term",)),
    "map": (None, ("term",)),
    "pvalues": (plots.pvalue_histogram, ("term",)),
    "icc": (plots.icc_distribution, ()),
    "caterpillar": (plots.caterpillar, ("response",)),
    "residuals": (plots.residual_plot, ("response",)),
    "qq": (plots.qq_plot, ("response",)),
}
# Those that a table of effects is enough for.
OF_TABLES = ("forest", "volcano", "map", "pvalues")


def plot_file(
    *,
    fit: Path,
    kind: str,
    term: str | None,
    response: tuple[str, ...],
    out: Path,
    overwrite: bool,
    value: str = "statistic",
    at: Sequence[str] = (),
    adjust: str = "bh",
    alpha: float = 0.05,
) -> str:
    """Draw what ``fit`` wrote; returns one line that says what was done."""
    if out.exists() and not overwrite:
        raise ValueError(f"'{out}' exists; add --overwrite, or choose another name.")
    draw, takes = PLOTS[kind]
    found = _read(fit, kind)
    options: dict[str, Any] = {}
    if "term" in takes:
        if term is None:
            raise ValueError(f"--kind {kind} needs --term, one of {', '.join(found.names)}.")
        options["term"] = term
    elif term is not None:
        raise ValueError(f"--kind {kind} takes no --term.")
    if "responses" in takes:
        options["responses"] = list(response) or [found.response_names[0]]
    elif "response" in takes:
        if len(response) > 1:
            raise ValueError(f"--kind {kind} takes one --response, found {len(response)}.")
        options["response"] = response[0] if response else 0
    elif response:
        raise ValueError(f"--kind {kind} takes no --response.")
    if at and kind != "map":
        raise ValueError("--at goes with --kind map.")
    if kind == "volcano":
        options |= {"adjust": adjust, "alpha": alpha}
    axes = _map(found, options["term"], value, at, adjust, alpha) if draw is None else draw(found, **options)
    figure = axes.get_figure(root=True)
    assert figure is not None  # it was drawn just now
    figure.savefig(out, dpi=150, bbox_inches="tight")
    return f"{kind} -> {out}"


def _read(path: Path, kind: str) -> Any:
    """A fit, or the effects of a table."""
    if path.suffix not in (".csv", ".parquet"):
        return load(path)
    if kind not in OF_TABLES:
        raise ValueError(
            f"--kind {kind} needs more than a table of effects: give a fit that 'jaxlmm fit --save fit.npz' wrote; "
            f"of a table {', '.join(OF_TABLES)} are drawn."
        )
    read = {
        ".csv": functools.partial(pd.read_csv, keep_default_na=False, na_values=[""]),
        ".parquet": pd.read_parquet,
    }
    give = "what 'jaxlmm fit' wrote with --what tidy, or with --save"
    return Effects.of_table(read[path.suffix](path), f"'{path}'", give)


def _map(found: Any, term: str, value: str, at: Sequence[str], adjust: str, alpha: float) -> Axes:
    """A heat map over two dimensions of the responses, with lines around what is significant."""
    values = map_values(found, term, value, adjust).reshape(found.shape)
    p = adjust_pvalues(map_values(found, term, "pvalue"), adjust).reshape(found.shape)
    dims = [str(dim) for dim in found.labels.dims]
    where: dict[str, int] = {}
    for one in at:
        name, equals, label = one.partition("=")
        if not equals or name not in dims:
            raise ValueError(f"--at is '{one}'; give NAME=LABEL, of the dimensions {', '.join(dims)}.")
        where[name] = _position(found.labels, dims.index(name), label)
    rest = [k for k, dim in enumerate(dims) if dim not in where]
    if len(rest) != 2:
        sizes = ", ".join(f"{dim} ({size})" for dim, size in zip(dims, found.shape, strict=True))
        raise ValueError(
            f"a map has two dimensions, the responses have {sizes}; choose labels of the others by --at NAME=LABEL, "
            "or draw --kind volcano."
        )
    key = tuple(where.get(dim, slice(None)) for dim in dims)
    y, x = (found.labels._coord(found.labels.dims[k], found.shape[k]).values for k in rest)
    called = ADJUSTED[adjustment(adjust, ADJUSTMENTS, "adjust")]
    return plots.stat_map(
        values[key], x=np.asarray(x), y=np.asarray(y), mask=p[key] <= alpha, x_label=dims[rest[1]],
        y_label=dims[rest[0]], value_label=f"{value} of {term}", mask_label=f"{called} p ≤ {alpha:g}",
    )  # fmt: skip


def _position(labels: Labels, k: int, label: str) -> int:
    """Where a dimension has a label: a name, or the nearest number."""
    dim = labels.dims[k]
    values = np.asarray(labels._coord(dim, labels.shape[k]).values)
    if values.dtype.kind in "iuf":
        try:
            return int(np.abs(values - float(label)).argmin())
        except ValueError:
            raise ValueError(
                f"--at {dim}={label}: the labels of {dim} are numbers, {values[0]} to {values[-1]}."
            ) from None
    texts = [str(v) for v in values]
    if label not in texts:
        raise ValueError(f"--at {dim}={label}: the labels of {dim} are {', '.join(texts[:8])}.")
    return texts.index(label)
