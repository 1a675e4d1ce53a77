"""A fit as JSON and arrays; what holds them, a zip file or a folder, is no matter here.

All but the responses' own part (:func:`design_parts`) is written once, however many responses
follow; theirs are the arrays of :data:`ROWS`, with ``missing``, ``checksums``, ``Y``, and ``weights`` of their own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from typing import Any

import numpy as np

from jaxlmm.design.design import Design
from jaxlmm.storage.absent import AbsentWeights, checksums, missing_cells
from jaxlmm.storage.codec import encode
from jaxlmm.storage.formula import formula_parts
from jaxlmm.storage.labels import encode_labels
from jaxlmm.tabular.dataset import ROWS
from jaxlmm.tabular.labels import Labels

__all__ = ["FORMAT", "GIVEN", "MAJOR", "SHARED", "design_digest", "design_parts", "to_parts"]

FORMAT, MAJOR, MINOR = "jaxlmm fit", 1, 1
SHARED = ("design", "method", "df_method")
# Stands for weights of each response's own that are not stored, and are given again to load.
GIVEN = "given"


def to_parts(fit: Any, include_Y: bool = False) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All of a fit: what goes into JSON, and arrays by name.

    Raises
    ------
    ValueError
        Labels of a type that cannot be stored; ``include_Y`` for a fit loaded without Y.
    """
    manifest, arrays = design_parts(fit.design, fit.method, fit.df_method, fit.source, fit.labels)
    for name in ROWS:
        manifest["fields"][name] = encode(getattr(fit, name), arrays, name)
    if isinstance(fit.weights, AbsentWeights):
        manifest["fields"]["weights"] = GIVEN
    elif fit.weights is not None:
        manifest["fields"]["weights"] = encode(np.asarray(fit.weights), arrays, "weights")
    arrays |= {"Y": np.asarray(fit.Y)} if include_Y else {"missing": missing_cells(fit)}
    known = checksums(fit.Y)
    return manifest, arrays if known is None else arrays | {"checksums": known}


def design_parts(
    design: Design, method: str, df_method: str, source: Any = None, labels: Labels | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The part of a fit that does not depend on the values of its responses, as :func:`to_parts` gives the whole.

    Parameters
    ----------
    design : Design
    method, df_method : str
    source : FormulaDesign, optional
        With its data, if the fit is by formula.
    labels : Labels, optional
        Of all responses, where these are known. Default: those of the columns of a matrix.

    Raises
    ------
    ValueError
        Labels of a type that cannot be stored.
    """
    arrays: dict[str, np.ndarray] = {}
    values = (design, method, df_method)
    fields = {name: encode(value, arrays, name) for name, value in zip(SHARED, values, strict=True)}
    if labels is not None:
        fields["labels"] = encode_labels(labels, arrays)
    formula, more = formula_parts(source)
    manifest = {
        "format": FORMAT,
        "version": [MAJOR, MINOR],
        "jaxlmm": importlib.metadata.version("jaxlmm"),
        "fields": fields,
        "design": design_digest(design),
        **formula,
    }
    return manifest, arrays | more


def design_digest(design: Design) -> str:
    """Checksum of X, groups, weights and names."""
    parts = [
        design.X,
        *(g.codes.astype(np.int64) for g in design.random),
        *(g.Z for g in design.random),
        design.weights,
    ]
    found = hashlib.sha256(json.dumps(design.names).encode())
    for part in parts:
        found.update(b"none" if part is None else repr(part.shape).encode() + part.tobytes())
    return found.hexdigest()
