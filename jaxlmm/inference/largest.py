"""Upper tail of the largest of several correlated |t|, for many responses at once.

P(max_i |T_i| > c) for T = Z / s, Z normal with correlations R (q, q) and s^2 df chi-square, as multcomp's single-step
tests and emmeans' "mvt" have it (Hothorn, Bretz & Westfall 2008, Biom J 50:346-363). It is the union of q events of
known probability p, and

    P(union) = p sum_i E[1 / number of j with |T_j| > c, given T_i > c]

(Owen, Maximov & Chertkov 2019, Electron J Stat 13:231-254): the relative error is bounded however small the tail is,
and R may be singular. This takes 2,039 points, or more where responses are few; the error, relative, is below 1
percent with these, 0.4 percent with 8,191 and 0.2 percent with 65,521. Two cases need no points:

- Correlations of rank 2, as of any contrasts of three means: in the direction theta the largest |T| is reached at a
  radius whose distribution is known, P = integral of (1 + c^2 / (df max_i cos^2(theta - psi_i)))^(-df/2) / 2 pi, by
  Gauss's rule between the directions psi_i.
- Correlations b_i b_j, as of differences from a control in balanced designs (Dunnett 1955, J Am Stat Assoc
  50:1096-1121): given a normal number they are independent, and two integrals are left.

Both are good to 1e-9, relative; all is tested in tests/inference/test_adjustments.py.

s is drawn as it is where T_i is about c (s^2 (df + c^2) is chi-square, by Wilson & Hilferty's
cube, with weights for what that lacks), Z_i from the normal tail beyond c s, and the others are R_i Z_i and a normal
residual; all along Richtmyer's lattice, the same for all responses.
"""

from __future__ import annotations

import numpy as np
import scipy.special

from jaxlmm.inference.tukey import tail_of_ratio

__all__ = ["accuracy", "largest_tail"]

# Points at least and at most; in all, over responses and pairs of contrasts, as many as take some seconds.
FEWEST, MOST, IN_ALL = 2039, 65521, 400_000_000
# The largest relative error with the fewest points, and the power of their number with which it falls.
WORST, RATE = 0.01, 0.47
# A correlation matrix has rank 2, or is b_i b_j, if it is so up to this.
EXACT_TOL = 1e-9
# Of Gauss's rule between two directions; and below which of what lies at the contrast itself a density is left out.
DIRECTIONS, NEGLIGIBLE = 64, 1e-20
# The normal numbers that b_i b_j share: step and reach, and how much of a contrast must be its own.
STEP, REACH, OWN = 0.5, 8.5, 0.15
# Values formed at once.
CHUNK = 4_000_000
# Two t that are the same but for rounding exceed c together.
SAME = 1e-9


def largest_tail(c: np.ndarray, R: np.ndarray, df: np.ndarray) -> np.ndarray:
    """P(max |T| > c).

    Parameters
    ----------
    c : ndarray, (m, j)
        Several for each response.
    R : ndarray, (m, q, q)
        Correlations; may be singular.
    df : ndarray, (m, j)
        Degrees of freedom; infinity for a normal distribution.
    """
    out = np.full(c.shape, np.nan)
    plane, shared, others, b = _kinds(R)
    if len(plane):
        out[plane] = _in_plane(np.abs(c[plane]), R[plane], df[plane])
    if len(shared):
        out[shared] = _one_shared(np.abs(c[shared]), b[shared], df[shared])
    n = _points(len(others), R.shape[1])
    step = max(1, CHUNK // (n * max(R.shape[1], 1)))
    for start in range(0, len(others), step):
        at = others[start : start + step]
        values, vectors = np.linalg.eigh(R[at])
        root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        for j in range(c.shape[1]):
            out[at, j] = _tail(np.abs(c[at, j]), R[at], root, df[at, j], n)
    return out


def accuracy(R: np.ndarray) -> str:
    """How good the tails of correlations R (m, q, q) are, as text."""
    others = _kinds(R)[2]
    if not len(others):
        return "exact, by quadrature"
    return f"good to {WORST * (FEWEST / _points(len(others), R.shape[1])) ** RATE:.1%}"


def _points(m: int, q: int) -> int:
    return int(np.clip(IN_ALL // max(m * q * (q + 2), 1), FEWEST, MOST))


def _kinds(R: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions of R (m, q, q) of rank 2, of those that are b_i b_j, of the others; and b (m, q)."""
    m, q, _ = R.shape
    finite = np.isfinite(R).all(axis=(1, 2))
    plane, b = finite.copy(), np.zeros((m, q))
    if q > 2:
        plane[finite] = np.linalg.eigvalsh(R[finite])[:, -3] < EXACT_TOL * q
    shared = finite & ~plane
    if q > 2:
        with np.errstate(invalid="ignore", divide="ignore"):
            first = np.sqrt(R[:, 0, 1] * R[:, 0, 2] / R[:, 1, 2])
            b = np.concatenate([first[:, None], R[:, 0, 1:] / first[:, None]], axis=1)
            alone = np.abs(R - np.eye(q)).max(axis=(1, 2)) < EXACT_TOL
            b[alone] = 0.0
            off = np.abs(b[:, :, None] * b[:, None, :] - R)
            off[:, range(q), range(q)] = 0.0
            shared &= (off.max(axis=(1, 2)) < EXACT_TOL) & (1 - (b * b).max(axis=1) > OWN**2)
    return np.flatnonzero(plane), np.flatnonzero(shared), np.flatnonzero(finite & ~plane & ~shared), b


def _in_plane(c: np.ndarray, R: np.ndarray, df: np.ndarray) -> np.ndarray:
    """For R of rank 2 or less: c, df (m, j)."""
    values, vectors = np.linalg.eigh(R)
    axes = (vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :])[:, :, -2:]
    one = R.shape[1] < 2
    psi = np.zeros((len(R), 1)) if one else np.sort(np.arctan2(axes[:, :, 0], axes[:, :, 1]) % np.pi, axis=1)
    half = np.diff(psi, axis=1, append=psi[:, :1] + np.pi)[:, None, :] / 2  # (m, 1, q)
    c, df = c[:, :, None], df[:, :, None]
    known = np.isposinf(df)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        spread = np.where(known, -2 * np.log(NEGLIGIBLE), (df + c * c) * np.expm1(-2 / df * np.log(NEGLIGIBLE)))
        end = np.minimum(half, np.arctan(np.sqrt(spread) / c))
        nodes, weights = np.polynomial.legendre.leggauss(DIRECTIONS)
        theta = end[..., None] * (nodes + 1) / 2
        squared = (c[..., None] / np.cos(theta)) ** 2
        log = np.where(known[..., None], -squared / 2, -df[..., None] / 2 * np.log1p(squared / df[..., None]))
        found = np.sum(np.exp(log) @ weights * end / 2, axis=2) * 2 / np.pi
    found = np.where(np.isinf(c[:, :, 0]), 0.0, np.where(c[:, :, 0] == 0, 1.0, found))
    return np.where(np.isnan(c + df)[:, :, 0], np.nan, np.minimum(found, 1.0))


def _one_shared(c: np.ndarray, b: np.ndarray, df: np.ndarray) -> np.ndarray:
    """For correlations b_i b_j of b (m, q): c, df (m, j)."""
    own = np.sqrt(1 - b * b)
    step = STEP * float(np.min(own / np.maximum(np.abs(b), own)))
    top = min(float(np.nanmax(np.where(np.isfinite(c), c, 0.0), initial=0.0)) * 3, 40.0) + REACH
    z = np.arange(0.0, top + step, step)
    density = np.exp(-z * z / 2) * np.sqrt(2 / np.pi) * step
    density[0] /= 2
    rows = np.repeat(np.arange(len(c)), c.shape[1])

    def tail(w: np.ndarray, at: np.ndarray) -> np.ndarray:
        w = w / np.sqrt(2)
        inside = np.zeros((*w.shape, len(z)))
        for i in range(b.shape[1]):
            shape = (-1, *[1] * w.ndim)
            bz = b[rows[at], i].reshape(shape) * z
            beyond = scipy.special.ndtr((bz - w[..., None]) / own[rows[at], i].reshape(shape))
            beyond += scipy.special.ndtr((-bz - w[..., None]) / own[rows[at], i].reshape(shape))
            with np.errstate(divide="ignore"):
                inside += np.log1p(-np.minimum(beyond, 1.0))
        return np.asarray(-np.expm1(inside) @ density)

    found = tail_of_ratio(np.sqrt(2) * c, df, tail, nodes=len(z) * 2, fine=True)
    return np.minimum(found, 1.0)


def _lattice(q: int, n: int) -> np.ndarray:
    """Points in the unit cube (q, n), by Richtmyer's rule with the baker's transformation."""
    primes = [p for p in range(2, 40 * (q + 1)) if all(p % d for d in range(2, int(p**0.5) + 1))]
    steps = np.sqrt(np.array(primes[:q], dtype=float))[:, None] * np.arange(1, n + 1)
    return np.asarray(np.clip(np.abs(2 * (steps % 1) - 1), 1e-12, 1 - 1e-12))


def _tail(c: np.ndarray, R: np.ndarray, root: np.ndarray, df: np.ndarray, n: int) -> np.ndarray:
    q = R.shape[1]
    u = _lattice(q + 2, n)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore"):
        p = np.where(np.isposinf(df), scipy.special.ndtr(-c), scipy.special.stdtr(df, -c))
        s, weight = _scales(c[:, None], df[:, None], scipy.special.ndtri(u[0]))
        alone = -scipy.special.ndtri(u[1] * scipy.special.ndtr(-c[:, None] * s))  # beyond c s, (m, n)
        Z = root @ scipy.special.ndtri(u[2:])  # (m, q, n)
        total = np.zeros(len(c))
        limit = (c[:, None] * s * (1 - SAME))[:, None, :]
        for i in range(q):
            shifted = Z + R[:, :, i, None] * (alone - Z[:, i])[:, None, :]
            beyond = np.sum(np.abs(shifted) > limit, axis=1)
            total += np.sum(weight / np.maximum(beyond, 1), axis=-1)
        found = np.minimum(2 * p * np.clip(total / weight.sum(axis=-1), 1.0, q), 1.0)
    return np.where(np.isinf(c), 0.0, np.where(np.isnan(c) | np.isnan(df), np.nan, found))


def _scales(c: np.ndarray, df: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s given that T_i exceeds c, at normal quantiles z, with their weights."""
    root = np.sqrt(2 / (9 * df))
    a = np.maximum(1 - root**2 + root * z, 0.0)
    x = df * a**3
    s = np.sqrt(x / (df + c * c))
    log_ratio = (df / 2 - 1) * np.log(x / df) - (x - df) / 2 + 2 * np.log(a) + z * z / 2
    weight = np.where(a > 0, np.exp(log_ratio) * scipy.special.erfcx(c * s / np.sqrt(2)), 0.0)
    known = np.isposinf(df)
    return np.where(known, 1.0, s), np.where(known, 1.0, weight)
