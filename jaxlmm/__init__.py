"""Linear mixed models for thousands of responses at once; see ``jaxlmm.fit`` and ``jaxlmm.lmm``."""

from typing import TYPE_CHECKING, Any

from jaxlmm._types import Status
from jaxlmm.comparison.compare import Comparison, compare
from jaxlmm.comparison.rlrt import rlrt
from jaxlmm.design.groups import random_term
from jaxlmm.doors.fit import fit, lmm, prepare
from jaxlmm.doors.model import Model
from jaxlmm.inference.multiplicity import adjust_pvalues
from jaxlmm.resampling.permutation import permutation_test
from jaxlmm.resampling.result import PermutationTest
from jaxlmm.results.concat import concat
from jaxlmm.results.results import Fit
from jaxlmm.runtime.compile_cache import enable_compile_cache
from jaxlmm.runtime.pictures import draw_with

if TYPE_CHECKING:
    from jaxlmm.loading.load import load
    from jaxlmm.naplib import LinearMixedEffectsModel

__all__ = [
    "Comparison",
    "Fit",
    "LinearMixedEffectsModel",
    "Model",
    "PermutationTest",
    "Status",
    "adjust_pvalues",
    "compare",
    "concat",
    "enable_compile_cache",
    "fit",
    "lmm",
    "load",
    "permutation_test",
    "prepare",
    "random_term",
    "rlrt",
]
# Public modules, which need matplotlib, pandas or xarray.
_MODULES = ("mne_io", "plots")


def _drawings(result: Any) -> Any:
    """The pictures of a result, which need matplotlib."""
    from jaxlmm.plots.drawings import drawings

    return drawings(result)


draw_with(_drawings)


def __getattr__(name: str) -> Any:
    """What the core does without, loaded when first asked for."""
    if name == "LinearMixedEffectsModel":
        from jaxlmm.naplib import LinearMixedEffectsModel

        return LinearMixedEffectsModel
    if name == "load":
        from jaxlmm.loading.load import load

        return load
    if name == "mne_io":
        from jaxlmm.labelled import mne_io

        return mne_io
    if name == "plots":
        import jaxlmm.plots

        return jaxlmm.plots
    raise AttributeError(f"module 'jaxlmm' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*__all__, *_MODULES, *(name for name in globals() if name.startswith("__"))])
