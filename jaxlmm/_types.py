"""Names shared by every module: the status of a response and the float64 scope.

Letters used in the mathematics
-------------------------------
========== ==================================================================
n, p, m, G observations, fixed effects, responses, groups
lam        variance ratio, group variance / residual variance (lme4: theta**2)
t          log(1 + lam * d_max), the scale on which lam is searched
d_j        eigenvalues of Z'MZ, with M the projector off the columns of X
u_j        coordinates of My on the matching left singular vectors of MZ
rest       sum of squares of y off the columns of [X, Z]
s(lam)     penalised weighted residual sum of squares, ``pwrss``
========== ==================================================================
"""

from __future__ import annotations

import contextlib
import enum
from typing import Any

import jax
import jax.experimental

__all__ = ["Status", "float64_scope"]


class Status(enum.IntEnum):
    """What became of one response; ``message`` says it in a sentence."""

    OK = 0
    SINGULAR = 1
    NONFINITE = 2
    CONSTANT = 3
    NO_RESIDUAL = 4
    NOT_CONVERGED = 5
    TOO_FEW = 6

    @property
    def message(self) -> str:
        """The status as a sentence."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.OK: "Fitted; the group variance is positive.",
    Status.SINGULAR: "Fitted; the group variance is estimated as exactly 0 (singular fit).",
    Status.NONFINITE: (
        "Not fitted: the response holds NaN or infinity, or values too large or too small for float64."
    ),
    Status.CONSTANT: "Not fitted: nothing is left of the response once the fixed effects are removed.",
    Status.NO_RESIDUAL: (
        "Not fitted: the response does not vary within groups beyond the fixed effects, "
        "so the residual variance is 0."
    ),
    Status.TOO_FEW: (
        "Not fitted: the observations that are not missing are too few, or in too few groups, or X is rank "
        "deficient on them."
    ),
    Status.NOT_CONVERGED: "The optimiser stopped short of its tolerance; do not use this response.",
}


def float64_scope() -> contextlib.AbstractContextManager[Any]:
    """Context in which JAX computes in float64; the global flag stays as it was."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64(True)  # type: ignore[attr-defined] # older JAX
