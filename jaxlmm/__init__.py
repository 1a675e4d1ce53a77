"""Linear mixed models for thousands of responses at once; see ``jaxlmm.fit``."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxlmm._types import Status
from jaxlmm.block import Model
from jaxlmm.compare import Comparison, compare
from jaxlmm.fit import enable_compile_cache, fit, fit_prepared, prepare
from jaxlmm.multiplicity import adjust_pvalues
from jaxlmm.results import Fit
from jaxlmm.rlrt import rlrt

if TYPE_CHECKING:
    from jaxlmm.effects_model import LinearMixedEffectsModel
    from jaxlmm.formula import lmm

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
    "fit_prepared",
    "lmm",
    "prepare",
    "rlrt",
]

# Edges, loaded when first asked for: they import matplotlib or formulaic, which the core does not need.
_EDGES = {"LinearMixedEffectsModel": "jaxlmm.effects_model", "lmm": "jaxlmm.formula"}


def __getattr__(name: str) -> Any:
    if name in _EDGES:
        return getattr(importlib.import_module(_EDGES[name]), name)
    if name in ("plots", "tables"):
        return importlib.import_module(f"jaxlmm.{name}")
    raise AttributeError(f"module 'jaxlmm' has no attribute {name!r}")
