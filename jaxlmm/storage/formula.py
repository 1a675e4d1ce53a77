"""The formula of a fit in a file: its text, the columns and the values that it was applied to."""

from __future__ import annotations

import importlib.metadata
import warnings
from typing import Any

import numpy as np

from jaxlmm.storage.absent import AbsentFormula
from jaxlmm.storage.codec import encode

__all__ = ["MAKERS", "formula_parts"]

# The packages that make X of a formula.
MAKERS = ("formulaic", "pandas", "numpy")


def formula_parts(source: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file says of ``Fit.source``: parts of the manifest, and arrays.

    Warns (UserWarning) of a column that cannot be stored; the file then needs ``load(path, data=...)``.
    """
    if source is None:
        return {"formula": None}, {}
    manifest: dict[str, Any] = {"formula": [source.formula, *source.group_columns]}
    if isinstance(source, AbsentFormula):
        kept, arrays = source.stored or (None, {})
        return manifest | ({} if kept is None else {"frame": kept}), dict(arrays)

    from jaxlmm.storage.frame import encode_frame  # needs pandas, which a formula has

    arrays = {}
    try:
        frame = encode_frame(source.frame, arrays, "frame")
    except ValueError as error:
        warnings.warn(
            f"the file will not hold the data of the formula: {error} To predict from data frames and for emmeans, "
            "load(path, data=...) will need the data.",
            stacklevel=4,
        )
        return manifest | {"frame": {"lost": str(error)}}, {}
    values, needs = {}, []
    for i, name in enumerate(source.context_names):
        made: dict[str, np.ndarray] = {}
        try:
            values[name] = encode(source.context[name], made, f"frame.context.{i}")
        except ValueError:
            needs.append(name)
        else:
            arrays |= made
    versions = {name: importlib.metadata.version(name) for name in MAKERS}
    return manifest | {"frame": frame | {"context": values, "needs": needs, "versions": versions}}, arrays
