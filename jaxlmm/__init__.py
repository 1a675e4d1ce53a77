"""Linear mixed models for thousands of responses at once; see ``jaxlmm.fit``."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxlmm._types import Status
from jaxlmm.block import Model
from jaxlmm.compare import Comparison, compare
from jaxlmm.exports import edge
from jaxlmm.fit import enable_compile_cache, fit, fit_prepared, prepare
from jaxlmm.multiplicity import adjust_pvalues
from jaxlmm.results import Fit
from jaxlmm.rlrt import rlrt

if TYPE_CHECKING:
    from jaxlmm.cluster import fit_lazy, lmm_lazy
    from jaxlmm.effects_model import LinearMixedEffectsModel
    from jaxlmm.formula import lmm
    from jaxlmm.labelled import fit_dataarray
    from jaxlmm.labelled_formula import lmm_dataarray
    from jaxlmm.storage import load
    from jaxlmm.to_store import fit_to_store, lmm_to_store

__all__ = [
    "Comparison",
    "Fit",
    "LinearMixedEffectsModel",
    "Model",
    "Status",
    "adjust_pvalues",
    "compare",
    "enable_compile_cache",
    "fit",
    "fit_dataarray",
    "fit_lazy",
    "fit_prepared",
    "fit_to_store",
    "lmm",
    "lmm_dataarray",
    "lmm_lazy",
    "lmm_to_store",
    "load",
    "prepare",
    "rlrt",
]

# Edges, loaded when first asked for: they need matplotlib, pandas, formulaic, xarray, which the core does not.
_EDGES = {
    "LinearMixedEffectsModel": "effects_model",
    "fit_dataarray": "labelled",
    "fit_lazy": "cluster",
    "fit_to_store": "to_store",
    "lmm": "formula",
    "lmm_dataarray": "labelled_formula",
    "lmm_lazy": "cluster",
    "lmm_to_store": "to_store",
    "load": "storage",
}
_MODULES = ("labelled", "mne_io", "plots", "storage", "tables")


def __getattr__(name: str) -> Any:
    if name in _EDGES:
        return edge(_EDGES[name], name)
    if name in _MODULES:
        return importlib.import_module(f"jaxlmm.{name}")
    raise AttributeError(f"module 'jaxlmm' has no attribute {name!r}")
