"""AnnData: the table of the observations beside the responses, X or a layer; recognised without its package."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import scipy.sparse

from jaxlmm.doors.responses import Responses
from jaxlmm.runtime.arguments import name_list, shown
from jaxlmm.sources.lazy import LazyMatrix
from jaxlmm.sources.sources import is_dask, is_lazy, open_source
from jaxlmm.sources.sparse import SparseSource
from jaxlmm.tabular.dataset import RESERVED
from jaxlmm.tabular.labels import Coord, Labels

__all__ = ["annotated_responses", "is_annotated"]

# The dimension of the variables, unless their index has a name.
VAR = "var"
PARTS = ("obs", "var", "X", "layers", "obs_names", "var_names")


def is_annotated(data: Any) -> bool:
    """Whether this is an AnnData, or what has its parts."""
    return all(hasattr(type(data), part) or part in getattr(data, "__dict__", ()) for part in PARTS)


def annotated_responses(data: Any, layer: str | None = None, responses: Any = None) -> Responses:
    """X (n_obs, n_var), or a layer, with the names of the variables as labels.

    Parameters
    ----------
    data : AnnData
    layer : str, optional
        Default: X.
    responses : str or sequence of str, optional
        Names or patterns of variables. Default: all.

    Raises
    ------
    ValueError
        No such layer; names that are not unique; a sparse matrix on disk.
    """
    values = _values(data, layer)
    names = [str(name) for name in data.var_names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"the var_names of data are not unique, such as {twice!r}; call data.var_names_make_unique()."
        )
    if responses is not None:
        from jaxlmm.formula.text import match_columns

        at = match_columns(name_list(responses, "responses"), names)
        matrix = LazyMatrix.make(open_source(values)) if is_lazy(values) and not is_dask(values) else values
        values, names = matrix[:, at], [names[j] for j in at]
    called = getattr(data.var_names, "name", None)
    dim: Hashable = called if isinstance(called, str) and called and called not in RESERVED else VAR
    labels = Labels((dim,), (len(names),), {dim: Coord((dim,), np.array(names, dtype=np.str_))})
    if scipy.sparse.issparse(values):
        return Responses(LazyMatrix.make(SparseSource(values)), labels=labels)
    return Responses(values, labels=labels)


def _values(data: Any, layer: str | None) -> Any:
    if layer is not None:
        if layer not in data.layers:
            known = ", ".join(map(repr, data.layers)) or "none"
            raise ValueError(f"layer is {shown(layer)}, which data has not; its layers are {known}.")
        values = data.layers[layer]
    else:
        values = data.X
    if values is None:
        raise ValueError("data has no X; say which layer holds the responses, layer=...")
    readable = scipy.sparse.issparse(values) or is_lazy(values) or isinstance(values, np.ndarray)
    if not readable and type(values).__name__.endswith("Dataset"):
        raise ValueError(f"the responses are a {type(values).__name__} on disk; give data.to_memory().")
    return values
