"""Names shared by every module: the status of a response, and the scope in which JAX computes.

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
import os
import sys
from collections.abc import Iterator

import jax

__all__ = ["Status", "float64_scope"]

# What the compiled code stands on, whatever the user's program has set: NaN marks responses without a fit.
SETTINGS: dict[str, object] = {
    "enable_x64": True,
    "disable_jit": False,
    "debug_nans": False,
    "debug_infs": False,
    "check_tracer_leaks": False,
    "numpy_rank_promotion": "allow",
    "numpy_dtype_promotion": "standard",
    "transfer_guard": "allow",
}


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
    Status.OK: "Fitted; no covariance of the random effects is singular.",
    Status.SINGULAR: (
        "Fitted; a variance of the random effects is estimated as exactly 0, or effects of one term as exactly "
        "correlated (singular fit)."
    ),
    Status.NONFINITE: (
        "Not fitted: the response holds infinity, or nothing but NaN (any NaN, with missing='refuse'), or values too "
        "large or too small for float64."
    ),
    Status.CONSTANT: "Not fitted: nothing is left of the response once the fixed effects are removed.",
    Status.NO_RESIDUAL: (
        "Not fitted: the response does not vary within groups beyond the fixed and random effects, "
        "so the residual variance is 0."
    ),
    Status.TOO_FEW: (
        "Not fitted: the observations that are not missing are too few, or in too few groups, or on them X is rank "
        "deficient or a random slope does not vary; a fit of this response to these rows alone says which."
    ),
    Status.NOT_CONVERGED: "The optimiser stopped short of its tolerance; do not use this response.",
}


@contextlib.contextmanager
def float64_scope() -> Iterator[None]:
    """Context for every entry into JAX: float64, and settings of JAX that the computations count on.

    The user's own settings hold again afterwards, and all the time in other threads. What is
    computed inside is computed at once, also while a ``jax.jit`` of the user's traces the caller.

    Raises
    ------
    RuntimeError
        The process was forked from one in which JAX was running.
    """
    if _without_threads:
        raise RuntimeError(FORKED)
    with contextlib.ExitStack() as stack:
        for name, value in SETTINGS.items():
            stack.enter_context(getattr(jax, name)(value))
        stack.enter_context(jax.ensure_compile_time_eval())
        yield


FORKED = (
    "this process was forked from one in which JAX was already running. JAX's threads do not survive a fork, so that "
    "a fit would wait for ever: start workers with multiprocessing.get_context('spawn') or 'forkserver', with "
    "concurrent.futures.ProcessPoolExecutor(mp_context=...), or with joblib's default backend 'loky'; or fork "
    "before anything in the parent uses JAX."
)
# Whether this process is a fork of one in which JAX was running.
_without_threads = False


def _after_fork() -> None:
    global _without_threads
    _without_threads = _without_threads or _jax_is_running()


def _jax_is_running() -> bool:
    """Whether JAX has started its devices, and with them its threads; asking does not start them."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    started = getattr(bridge, "backends_are_initialized", None)
    return bool(started()) if started is not None else True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
