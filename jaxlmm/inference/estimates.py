"""What tests and intervals need of a set of fits, and how fast its pieces change with the variance ratio.

With lam the variance ratio and C(lam) = (X'V^-1 X)^-1 for V = I + lam ZZ' (so vcov = sigma2 C), for
rows L of contrasts of the coefficients of X's basis (see ``spectrum`` for f_j, d_j and c0):

    L C L'   = L L' + lam L c0 L' + sum_j (L f_j)(L f_j)' / d_j * lam / (1 + lam d_j)
    L C' L'  = L c0 L' + sum_j (L f_j)(L f_j)' / d_j / (1 + lam d_j)^2
    L K L'   = sum_j (L f_j)(L f_j)' / (1 + lam d_j)^3,          K = -C'' / 2

and for the log-determinant l(lam) = sum_k m_k log(1 + lam d_k): T1 = l' and T2 = -l''.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxlmm.design.columns import Basis
from jaxlmm.families.intercept.objective import Terms
from jaxlmm.families.intercept.spectrum import Spectrum
from jaxlmm.runtime.threads import by_chunks

__all__ = ["Curve", "Estimates", "Frame", "basis_curve", "contrast_curve", "information", "orthonormal_curve"]

# Responses whose (J, c) arrays are formed at once.
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Curve:
    """C, C' and K (see the module's docstring) seen through contrasts.

    (m, q) for q contrasts one by one, (m, q, q) for q contrasts together.
    """

    value: np.ndarray
    slope: np.ndarray
    bend: np.ndarray


@dataclass(frozen=True, eq=False)
class Frame:
    """Which coefficients matrices of m responses are those of: the user's contrast L is (L - L shift) unit of them.

    Not one matrix, since the centring of columns far from zero would be lost in it. Both (m, p, p).
    """

    shift: np.ndarray
    unit: np.ndarray

    @classmethod
    def shared(cls, basis: Basis, m: int) -> Frame:
        """The coefficients of the same orthonormal basis for all."""
        p = len(basis.R)
        unit = np.linalg.inv(basis.R) / basis.columns.scale[:, None]
        return cls(np.broadcast_to(basis.columns.shift, (m, p, p)).copy(), np.broadcast_to(unit, (m, p, p)).copy())

    def contrast(self, L: np.ndarray) -> np.ndarray:
        """Contrasts L (q, p) of the user's coefficients, (m, q, p)."""
        return np.asarray((L - L @ self.shift) @ self.unit)


@dataclass(frozen=True, eq=False)
class Estimates:
    """m fits of one design, as arrays.

    Attributes
    ----------
    spectrum : Spectrum
    terms : Terms
        Of the fits' method, REML or ML.
    names : tuple of str, length p
    has_random : bool
    coef : ndarray, (m, p)
        In units of the user's X.
    lam, sigma2, curvature : ndarray, (m,)
        As in :class:`jaxlmm.Fit`.
    n_used : ndarray, (m,)
        Observations that each response was fitted to.
    reml : bool
    matrices, info, frame
        C, C' and K as (m, p, p), and T1 and T2, where the responses do not share a design; and what
        coefficients the matrices are those of.
    """

    spectrum: Spectrum
    terms: Terms
    names: tuple[str, ...]
    has_random: bool
    coef: np.ndarray
    lam: np.ndarray
    sigma2: np.ndarray
    curvature: np.ndarray
    n_used: np.ndarray
    reml: bool
    matrices: Curve | None = None
    info: tuple[np.ndarray, np.ndarray] | None = None
    frame: Frame | None = None

    @property
    def df_resid(self) -> np.ndarray:
        """n - p, (m,)."""
        return self.n_used - float(self.coef.shape[1])

    @property
    def nu(self) -> np.ndarray:
        """n - p for REML, n for ML, (m,)."""
        return self.df_resid if self.reml else self.n_used.astype(np.float64)


def contrast_curve(est: Estimates, L: np.ndarray, *, joint: bool = False) -> Curve:
    """Curves of contrasts.

    Parameters
    ----------
    est : Estimates
    L : ndarray, (q, p)
        In units of the user's X.
    joint : bool
        All products of two contrasts, (m, q, q), not just their squares, (m, q).
    """
    if est.matrices is not None and est.frame is not None:
        whole, own = (est.matrices.value, est.matrices.slope, est.matrices.bend), est.frame.contrast(L)
        if joint:
            return Curve(*(own @ a @ own.transpose(0, 2, 1) for a in whole))
        return Curve(*(np.einsum("mqi,mqi->mq", own @ a, own) for a in whole))
    return _shared_curve(est, est.spectrum.basis.contrast(L), joint)


def orthonormal_curve(est: Estimates, L: np.ndarray) -> tuple[Curve, np.ndarray]:
    """Joint curves of an orthonormal basis O of contrasts L (q, p): nothing is lost where these are nearly parallel.

    Returns
    -------
    curve : Curve, (m, q, q)
        Of O, contrasts of the coefficients of an orthonormal basis of X.
    P : ndarray, (m, q, q)
        Lower triangles with L = P O.
    """
    if est.matrices is not None and est.frame is not None:
        columns, R = np.linalg.qr(np.swapaxes(est.frame.contrast(L), 1, 2))
        rows = np.swapaxes(columns, 1, 2)
        whole = (est.matrices.value, est.matrices.slope, est.matrices.bend)
        return Curve(*(rows @ a @ columns for a in whole)), np.swapaxes(R, 1, 2)
    columns, R = np.linalg.qr(est.spectrum.basis.contrast(L).T)
    return _shared_curve(est, columns.T, joint=True), np.broadcast_to(R.T, (len(est.lam), *R.shape))


def basis_curve(est: Estimates) -> Curve:
    """Curves of all products of the coefficients of the orthonormal basis that the responses share, (m, p, p)."""
    return _shared_curve(est, np.eye(est.coef.shape[1]), joint=True)


def _shared_curve(est: Estimates, unit: np.ndarray, joint: bool) -> Curve:
    """As :func:`contrast_curve`, for contrasts (q, p) of the coefficients of the shared basis."""
    spectrum, q, m = est.spectrum, len(unit), len(est.lam)
    # Bring products of pairs of contrasts to one axis; it is the diagonal alone if not joint.
    first, second = np.indices((q, q)).reshape(2, -1) if joint else np.tile(np.arange(q), (2, 1))
    constant = np.einsum("ki,ki->k", unit[first], unit[second])
    linear = np.einsum("ki,ij,kj->k", unit[first], spectrum.c0, unit[second])
    Lf = unit @ spectrum.f
    pairs = Lf[first] * Lf[second]
    d = np.where(spectrum.d > 0, spectrum.d, 1.0)  # where d is 0, f is 0: padding
    value, slope, bend = (np.empty((m, len(first))) for _ in range(3))
    by_d, by_f = np.ascontiguousarray((pairs / d).T), np.ascontiguousarray(pairs.T)

    def fill(rows: slice) -> None:
        lam = est.lam[rows]
        r = 1 / (1 + lam[:, None] * spectrum.d)
        value[rows] = constant + lam[:, None] * linear + lam[:, None] * (r @ by_d)
        r2 = r * r
        slope[rows] = linear + r2 @ by_d
        bend[rows] = (r2 * r) @ by_f

    by_chunks(m, CHUNK, fill)
    if joint:
        return Curve(*(a.reshape(m, q, q) for a in (value, slope, bend)))
    return Curve(value, slope, bend)


def information(est: Estimates) -> tuple[np.ndarray, np.ndarray]:
    """T1 = sum m d / (1 + lam d) and T2 = sum m d^2 / (1 + lam d)^2 of the fits' method, (m,) each."""
    if est.info is not None:
        return est.info
    d, multiplicity = np.asarray(est.terms.d), np.asarray(est.terms.m)
    T1, T2 = np.empty(len(est.lam)), np.empty(len(est.lam))

    def fill(rows: slice) -> None:
        w = d / (1 + est.lam[rows, None] * d)
        T1[rows] = w @ multiplicity
        T2[rows] = (w * w) @ multiplicity

    by_chunks(len(est.lam), CHUNK, fill)
    return T1, T2
