"""What the command line's ``plot`` draws of: a saved fit, a store of results, or a table that ``fit`` wrote."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxlmm.cli.kinds import KINDS
from jaxlmm.loading.load import load
from jaxlmm.loading.without import FitWithoutY
from jaxlmm.plots.table import Effects
from jaxlmm.sources.opening import open_path

__all__ = ["TABLES", "read_written"]

TABLES = (".csv", ".parquet")
# What marginal means need beside their variables.
MEANS = ("estimate", "conf.low", "conf.high")


def read_written(path: Path, kind: str, array: str | None, trust: bool, needs: bool) -> Any:
    """A fit, the effects of a table, or a table of means."""
    if path.suffix in TABLES:
        if array is not None:
            raise ValueError(
                "--array goes with results in .zarr, or with a fit that was saved without its responses."
            )
        return _read_table(path, kind, needs)
    found = load(path, Y=None if array is None else _responses(array), trust_formula=trust)
    if needs and isinstance(found, FitWithoutY):
        what = f"--kind {kind}" if KINDS[kind].responses else "--data"
        raise ValueError(
            f"'{path}' was saved without its responses, which {what} needs: add --array with the file that they were "
            "read from, or draw the fit that 'jaxlmm fit --save fit.npz' writes."
        )
    return found


def _responses(array: str) -> np.ndarray:
    """Responses (n_obs, m) of an array with any number of axes."""
    values = np.asarray(open_path(array))
    return values.reshape(len(values), -1) if values.ndim > 1 else values


def _read_table(path: Path, kind: str, needs: bool) -> Any:
    read = {
        ".csv": functools.partial(pd.read_csv, keep_default_na=False, na_values=[""]),
        ".parquet": pd.read_parquet,
    }
    frame = read[path.suffix](path)
    if kind == "means" and "term" not in frame and not set(MEANS) - set(frame.columns):
        return frame
    if not KINDS[kind].tables or needs:
        more = "" if needs or KINDS[kind].responses else ", or results in .zarr"
        of_tables = ", ".join(name for name, one in KINDS.items() if one.tables)
        raise ValueError(
            f"--kind {kind} needs more than a table of effects: give a fit that 'jaxlmm fit --save fit.npz' wrote"
            f"{more}; of a table {of_tables} are drawn."
        )
    return Effects.of_table(frame, f"'{path}'", "what 'jaxlmm fit' wrote with --what tidy, or with --save")
