"""Linear mixed models for thousands of responses at once; see ``jaxlmm.fit``."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxlmm._types import Status
from jaxlmm.comparison.compare import Comparison, compare
from jaxlmm.comparison.rlrt import rlrt
from jaxlmm.design.groups import random_term
from jaxlmm.families.registry import Model
from jaxlmm.fit import enable_compile_cache, fit, fit_prepared, prepare
from jaxlmm.inference.multiplicity import adjust_pvalues
from jaxlmm.results.exports import edge
from jaxlmm.results.results import Fit

if TYPE_CHECKING:
    from jaxlmm.formula.formula import lmm
    from jaxlmm.labelled.formula import lmm_dataarray
    from jaxlmm.labelled.labelled import fit_dataarray
    from jaxlmm.naplib import LinearMixedEffectsModel
    from jaxlmm.outofcore.cluster import fit_lazy, lmm_lazy
    from jaxlmm.outofcore.to_store import fit_to_store, lmm_to_store
    from jaxlmm.storage.storage import load

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
    "random_term",
    "rlrt",
]

# Edges, loaded when first asked for: they need matplotlib, pandas, formulaic, xarray, which the core does not.
_EDGES = {
    "LinearMixedEffectsModel": "naplib",
    "fit_dataarray": "labelled.labelled",
    "fit_lazy": "outofcore.cluster",
    "fit_to_store": "outofcore.to_store",
    "lmm": "formula.formula",
    "lmm_dataarray": "labelled.formula",
    "lmm_lazy": "outofcore.cluster",
    "lmm_to_store": "outofcore.to_store",
    "load": "storage.storage",
}
_MODULES = {
    "mne_io": "labelled.mne_io",
    "plots": "plots",
    "tables": "results.tables",
}


def __getattr__(name: str) -> Any:
    if name in _EDGES:
        return edge(_EDGES[name], name)
    if name in _MODULES:
        return importlib.import_module(f"jaxlmm.{_MODULES[name]}")
    raise AttributeError(f"module 'jaxlmm' has no attribute {name!r}")
