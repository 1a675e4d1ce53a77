"""The random-intercept model on the spectrum of Z'MZ: a design's constants, a response's coordinates.

X has orthonormal columns here (``design.columns.Basis``). With M the projector off them, M y has the
coordinates u_j on the left singular vectors of M Z (singular values sqrt(d_j)) and leaves ``rest``. Then
with lam the variance ratio

    pwrss(lam)   = sum_j u_j^2 / (1 + lam d_j) + rest
    log|V| + log|X'V^-1 X| = sum_j log(1 + lam d_j)
    log|V|       = sum_g log(1 + lam n_g)
    coef(lam)    = ols - sum_j f_j u_j lam / (1 + lam d_j)
    vcov(lam)/s2 = I + lam F0 F0' + sum_j f_j f_j' / d_j * lam / (1 + lam d_j)

(Patterson & Thompson 1971; the spectral form as in Crainiceanu & Ruppert 2004). The last two
follow from the generalised least squares estimate written as a correction of the ordinary one,
and every sum has terms of one sign, so that nothing cancels at any lam. F0 F0' is the limit of
(X'V^-1 X)^-1 / lam, which is not zero for covariates constant within groups. It is kept as its root: what should
be zero is a rounding then that counts by its square, also where lam is 1 / eps.

Groups of one size n_k share the eigenvalue n_k on every direction orthogonal to their rows of
the projector onto X: these directions are merged into one term that holds their summed squares
and their number. So there are at most (distinct sizes) x (p + 1) terms, for any number of groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from jaxlmm.design.columns import Basis
from jaxlmm.families.intercept.crossprod import Projection

__all__ = ["ROUND_NODES", "Spectrum", "make_spectrum", "padded"]

ROUND_NODES = 8  # terms are padded to a multiple of this, so that designs share compiled code


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Constants of a design. J terms: the J_u single ones, padding, the merged ones, padding.

    Attributes
    ----------
    d : ndarray, (J,)
        Eigenvalues, 0 where padded.
    multiplicity : ndarray, (J,)
    n_single : int
        J_u with its padding: where the merged terms begin.
    f : ndarray, (p, J)
        The vectors f_j, 0 for merged terms.
    f0 : ndarray, (p, p - pw)
        F0; without columns where there are no groups.
    basis : Basis
        The orthonormal basis of X that coefficients and their covariances refer to.
    size, size_count : ndarray, (K,)
        Distinct group sizes, and how many groups have each.
    Q : ndarray, (G + pw, p)
        The basis of X, in coordinates on B.
    T : ndarray, (J_u, r + pw)
        From coordinates in the reduced basis and Qw to u; orthonormal rows.
    single : ndarray of int
        Groups (positions) whose coordinates enter the reduced basis as they are.
    merged : tuple of (ndarray of int, ndarray (G_k, r_k))
        Groups of one size, with an orthonormal basis of their rows of Q.
    """

    d: np.ndarray
    multiplicity: np.ndarray
    n_single: int
    f: np.ndarray
    f0: np.ndarray
    basis: Basis
    size: np.ndarray
    size_count: np.ndarray
    Q: np.ndarray
    T: np.ndarray
    single: np.ndarray
    merged: tuple[tuple[np.ndarray, np.ndarray], ...]


def make_spectrum(projection: Projection) -> Spectrum:
    """Eigenvalues and constants of a design; costs (distinct sizes x p)^3 at most."""
    sizes = projection.sizes
    G, p = len(sizes), projection.x_star.shape[1]
    Q, R = np.linalg.qr(projection.x_star)
    single, merged = _bases(sizes, Q[:G])
    # The projector and the sizes in the reduced basis H.
    basis_n = np.concatenate([sizes[single], *(np.full(H.shape[1], sizes[at[0]]) for at, H in merged)]).astype(float)
    B = np.concatenate([Q[single], *(H.T @ Q[at] for at, H in merged)])
    root = np.sqrt(basis_n)
    # M Z N^(1/2) in the basis [H, Qw]; its singular vectors are orthonormal however small d_j is.
    MZ = (np.eye(len(B) + len(Q) - G, len(B)) - np.concatenate([B, Q[G:]]) @ B.T) * root
    left, singular, right = np.linalg.svd(MZ, full_matrices=False) if len(root) else (MZ[:, :0], root, MZ[:0])
    # The null space is known: covariates constant within groups take p - pw directions.
    J_u = len(root) - (p - projection.n_within if G else 0)
    T, half, vectors = left[:, :J_u].T, singular[:J_u], right[:J_u].T
    f = B.T @ (root[:, None] * vectors * half)

    n_single = padded(J_u)
    J = max(ROUND_NODES, n_single + padded(len(merged)))
    d, multiplicity, f_all = np.zeros(J), np.zeros(J), np.zeros((p, J))
    d[:J_u], multiplicity[:J_u], f_all[:, :J_u] = half**2, 1.0, f
    for k, (at, H) in enumerate(merged, start=n_single):
        d[k], multiplicity[k] = sizes[at[0]], len(at) - H.shape[1]
    size, size_count = np.unique(sizes, return_counts=True)
    return Spectrum(
        d, multiplicity, n_single, f_all, _limit(projection, Q), Basis(projection.columns, R),
        size.astype(float), size_count.astype(float), Q, T, single, merged,
    )  # fmt: skip


def padded(n: int) -> int:
    """n rounded up to a multiple of ``ROUND_NODES``."""
    return -(-n // ROUND_NODES) * ROUND_NODES


def _bases(sizes: np.ndarray, Q1: np.ndarray) -> tuple[np.ndarray, tuple[tuple[np.ndarray, np.ndarray], ...]]:
    """Split the groups: classes of one size with more groups than their rows of Q span are merged."""
    single, merged = [np.zeros(0, dtype=np.intp)], []
    for size in np.unique(sizes):
        at = np.flatnonzero(sizes == size)
        if len(at) == 1 and np.linalg.norm(Q1[at]) > 1e-12:  # spanned as it is
            single.append(at)
            continue
        U, values, _ = np.linalg.svd(Q1[at], full_matrices=False)
        H = np.ascontiguousarray(U[:, values > 1e-12])
        if H.shape[1] < len(at):
            merged.append((at, H))
        else:
            single.append(at)
    return np.concatenate(single), tuple(merged)


def _limit(projection: Projection, Q: np.ndarray) -> np.ndarray:
    """A root of lim (X'V^-1 X)^-1 / lam for lam -> infinity."""
    G, p = len(projection.sizes), Q.shape[1]
    if not G or projection.n_within == p:
        return np.zeros((p, 0))
    null = np.eye(p)
    if projection.n_within:
        null = scipy.linalg.svd(Q[G:], full_matrices=True)[2][projection.n_within :].T
    R = np.linalg.qr((Q[:G] @ null) / np.sqrt(projection.sizes)[:, None], mode="r")
    return np.asarray(scipy.linalg.solve_triangular(R, null.T, trans="T", check_finite=False).T)
