"""Satterthwaite and Kenward-Roger tests of contrasts for any number of variance parameters; functions of arrays.

Everything is in the relative covariances phi (k,) beside sigma2: C(phi) = (X'V^-1 X)^-1 with derivatives C_s,
C_st (``families.base.Covariance``), and the log-determinant l with l_s, l_st (``Moments``, REML). Then, with
nu = n - p,

    the covariance of the estimates of phi, times nothing of sigma2, is   2 E^-1,   E_st = -l_st - l_s l_t / nu

by the expected information, since sigma2 takes its share of each parameter (-l_s / nu of its logarithm), and
2 H^-1 by the observed one, with H the Hessian of the profiled deviance. With r_s = c'C_s c / c'Cc - l_s / nu for
a contrast c,

    Satterthwaite   df = 1 / (1/nu + r'H^-1 r),      r and H in theta, as lmerTest
    Kenward-Roger   df = 1 / (1/nu + r'E^-1 r),      vcov = sigma2 (C - sum_st (2 E^-1)_st C_st)

(Fai & Cornelius 1996, Kuznetsova et al. 2017; Kenward & Roger 1997, Halekoh & Hojsgaard 2014: their sums over
pairs of variances, sigma2 among them, come to this). Arrays here have the response axis first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "VarianceCurves",
    "kenward_roger",
    "kenward_roger_f",
    "observed_inverse",
    "satterthwaite",
    "satterthwaite_f",
]

# Eigenvalues of the Hessian in (theta, sigma) that lmerTest takes as 0, and denominators that it takes as equal.
FLAT = 1e-8
SAME_DF = 1e-8


@dataclass(frozen=True, eq=False)
class VarianceCurves:
    """C seen through q contrasts, and what is known of the variance parameters; the response axis is first.

    Attributes
    ----------
    value, first, second : ndarrays, (m, q, q), (m, k, q, q), (m, k, k, q, q)
        L C L' and its derivatives in phi.
    drift : ndarray, (m, k)
        l_s / nu; of the fit's own method for Satterthwaite (REML or ML), of REML for Kenward-Roger.
    nu : ndarray, (m,)
    """

    value: np.ndarray
    first: np.ndarray
    second: np.ndarray
    drift: np.ndarray
    nu: np.ndarray

    @classmethod
    def make(
        cls, value: np.ndarray, first: np.ndarray, second: np.ndarray, l1: np.ndarray, nu: np.ndarray
    ) -> VarianceCurves:
        """From arrays with the response axis last, as families give them, and nu (m,)."""
        drift = np.moveaxis(l1, -1, 0) / nu[:, None]
        return cls(np.moveaxis(value, -1, 0), np.moveaxis(first, -1, 0), np.moveaxis(second, -1, 0), drift, nu)

    def relative(self) -> np.ndarray:
        """c'C_s c / c'Cc - l_s / nu of each contrast, (m, q, k)."""
        own = np.einsum("mqq->mq", self.value)
        return np.moveaxis(np.einsum("mkqq->mkq", self.first), 1, 2) / own[:, :, None] - self.drift[:, None, :]


def observed_inverse(hessian: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
    """J H^+ J' (m, k, k): half the covariance of phi from the Hessian H (m, k, k) of the deviance in theta.

    ``jacobian`` (m, k, k) is d phi_s / d theta_a. Directions in which the deviance does not curve count for
    nothing, as in lmerTest.
    """
    good = np.isfinite(hessian).all(axis=(1, 2))
    values, vectors = np.linalg.eigh(np.where(good[:, None, None], hessian, 0.0))
    inverse = np.where(values > FLAT, 1 / np.where(values > FLAT, values, 1.0), 0.0)
    turned = jacobian @ vectors
    out = (turned * inverse[:, None, :]) @ np.swapaxes(turned, 1, 2)
    return np.where(good[:, None, None], out, np.nan)


def expected_inverse(l2: np.ndarray, drift: np.ndarray, nu: np.ndarray) -> np.ndarray:
    """E^-1 (m, k, k) for the second derivatives of the REML log-determinant l2 (m, k, k)."""
    E = -l2 - nu[:, None, None] * drift[:, :, None] * drift[:, None, :]
    good = np.isfinite(E).all(axis=(1, 2))
    # Free of units first: variances may differ by orders of magnitude.
    scale = 1 / np.sqrt(np.maximum(np.einsum("mkk->mk", np.where(good[:, None, None], E, 1.0)), 1e-300))
    unit = np.where(good[:, None, None], E, 0.0) * scale[:, :, None] * scale[:, None, :]
    inverse = np.linalg.pinv(unit, rcond=1e-12, hermitian=True)
    return np.where(good[:, None, None], inverse * scale[:, :, None] * scale[:, None, :], np.nan)


def _df(relative: np.ndarray, inverse: np.ndarray, nu: np.ndarray) -> np.ndarray:
    pull = np.einsum("mqs,mst,mqt->mq", relative, inverse, relative)
    return 1 / (1 / nu[:, None] + pull)


def satterthwaite(curves: VarianceCurves, inverse: np.ndarray) -> np.ndarray:
    """Degrees of freedom of each contrast, (m, q); ``inverse`` from :func:`observed_inverse`."""
    return _df(curves.relative(), inverse, curves.nu)


def satterthwaite_f(curves: VarianceCurves, delta: np.ndarray, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joint F and its denominator, (m,) each; lmerTest's ``contestMD``.

    ``delta`` (m, q) holds the contrasts of the coefficients over sigma.
    """
    q = delta.shape[1]
    values, P = np.linalg.eigh(curves.value)
    stat = np.sum(np.einsum("mi,mij->mj", delta, P) ** 2 / values, axis=1) / q
    own = np.einsum("mik,msij,mjk->mks", P, curves.first, P) / values[:, :, None]
    df = _df(own - curves.drift[:, None, :], inverse, curves.nu)
    if q == 1:
        return stat, df[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        E = np.sum(df / (df - 2), axis=1)
        den = np.where(E > q, 2 * E / (E - q), np.inf)
    den = np.where((df > 2).all(axis=1), den, 2.0)
    same = np.max(np.abs(np.diff(df, axis=1)), axis=1) < SAME_DF
    return stat, np.where(same, df.mean(axis=1), den)


def kenward_roger(curves: VarianceCurves, l2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adjusted covariance over sigma2 (m, q, q), and degrees of freedom of each contrast (m, q).

    ``l2`` (m, k, k) are second derivatives of the REML log-determinant.
    """
    inverse = expected_inverse(l2, curves.drift, curves.nu)
    adjusted = curves.value - 2 * np.einsum("mst,mstij->mij", inverse, curves.second)
    return adjusted, _df(curves.relative(), inverse, curves.nu)


def kenward_roger_f(curves: VarianceCurves, delta: np.ndarray, l2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scaled joint F and its denominator, (m,) each (Kenward & Roger 1997, section 3; pbkrtest's ``KRmodcomp``)."""
    q, nu = delta.shape[1], curves.nu
    inverse = expected_inverse(l2, curves.drift, nu)
    change = np.linalg.solve(curves.value[:, None], curves.first) - curves.drift[:, :, None, None] * np.eye(q)
    trace = np.einsum("msii->ms", change)
    A1 = 2 / nu * q**2 + 2 * np.einsum("mst,ms,mt->m", inverse, trace, trace)
    A2 = 2 / nu * q + 2 * np.einsum("mst,msij,mtji->m", inverse, change, change)
    B = (A1 + 6 * A2) / (2 * q)
    g = ((q + 1) * A1 - (q + 4) * A2) / ((q + 2) * A2)
    divisor = 3 * q + 2 * (1 - g)
    c1, c2, c3 = g / divisor, (q - g) / divisor, (q + 2 - g) / divisor
    V0, V1, V2 = 1 + c1 * B, 1 - c2 * B, 1 - c3 * B
    V0 = np.where(np.abs(V0) < 1e-10, 0.0, V0)
    # pbkrtest: 0/0 counts as 1.
    both = (np.abs(1 - A2 / q) < 1e-14) & (np.abs(V1) < 1e-14)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.where(both, 1.0, (1 - A2 / q) / V1)
        rho = quotient**2 * V0 / V2 / q
        den = 4 + (q + 2) / (q * rho - 1)
        scaling = np.where(np.abs(den - 2) < 1e-2, 1.0, den * (1 - A2 / q) / (den - 2))
    adjusted = curves.value - 2 * np.einsum("mst,mstij->mij", inverse, curves.second)
    inner = np.linalg.solve(adjusted, delta[:, :, None])[:, :, 0]
    return scaling * np.sum(delta * inner, axis=1) / q, den
