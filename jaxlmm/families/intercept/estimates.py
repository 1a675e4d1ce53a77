"""Coefficients and their variances at given variance ratios; numpy and JAX arrays alike, the response axis last.

Formulas: the docstring of ``spectrum``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlmm.families.intercept.spectrum import Spectrum

__all__ = ["coef_unit", "se2_weights", "weights"]


def weights(lam: Any, d: Any) -> Any:
    """lam / (1 + lam d_j), (J, c)."""
    return lam / (1 + lam * d[:, None])


def coef_unit(w: Any, ols: Any, u: Any, f: Any) -> Any:
    """Generalised least squares estimate (p, c) of the coefficients of the basis of X."""
    return ols - f @ (w * u)


def se2_weights(spectrum: Spectrum) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, C) with diag vcov / sigma2 = a + lam b + C w, for the user's X."""
    d = np.where(spectrum.d > 0, spectrum.d, 1.0)  # where d is 0, f is 0: padding
    A = spectrum.basis.contrast(np.eye(len(spectrum.f)))
    return np.sum(A * A, axis=1), np.sum((A @ spectrum.f0) ** 2, axis=1), (A @ spectrum.f) ** 2 / d
