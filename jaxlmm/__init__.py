"""Linear mixed models for thousands of responses at once; see ``jaxlmm.fit``."""

from jaxlmm._types import Status
from jaxlmm.block import Model
from jaxlmm.fit import enable_compile_cache, fit, fit_prepared, prepare
from jaxlmm.results import Fit

__all__ = ["Fit", "Model", "Status", "enable_compile_cache", "fit", "fit_prepared", "prepare"]
