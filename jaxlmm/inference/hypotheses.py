"""t and F tests of contrasts, with Satterthwaite and Kenward-Roger degrees of freedom in closed form.

Everything is in the relative covariances phi (k,) beside sigma2: C(phi) = (X'V^-1 X)^-1 with derivatives C_s,
C_st, and the log-determinant l with l_s, l_st (see ``families.base``). With nu = n - p (REML) or n (ML), and
r_s = c'C_s c / c'Cc - l_s / nu for a contrast c,

    Satterthwaite   df = 1 / (1/nu + r'S r),      S = J H^-1 J'
    Kenward-Roger   df = 1 / (1/nu + r'E^-1 r),   E_st = -l_st - l_s l_t / nu,
                    vcov = sigma2 (C - 2 sum_st (E^-1)_st C_st)

The first is 2 v^2 / var(v) for v = sigma2 c'Cc, with the observed Hessian H of the deviance in theta and
J = d phi / d theta, as lmerTest (Fai & Cornelius 1996; Kuznetsova et al. 2017): sigma2 takes its share of each
parameter, -l_s / nu of its logarithm. Where one intercept's variance is 0, J is 0 and df = nu. The second is
Kenward & Roger (1997) as in pbkrtest (Halekoh & Hojsgaard 2014): the covariance is linear in the variances, so
their sums over pairs of variances, sigma2 among them, collapse to E, the expected information of phi; for one
contrast their df reduces to 2 / A1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.families.base import Curves
from jaxlmm.inference import distributions
from jaxlmm.inference.estimates import (
    Estimates,
    contrast_curves,
    information,
    observed_inverse,
    orthonormal_curves,
)
from jaxlmm.inference.tabular import Table, Tabular
from jaxlmm.runtime.arguments import check_option

__all__ = [
    "DF_METHODS",
    "FTest",
    "TTest",
    "adjusted_vcov",
    "check_df_method",
    "contrast_se_df",
    "contrast_vcov",
    "covariance_se",
    "f_test",
    "t_table",
    "t_test",
]

DF_METHODS = ("satterthwaite", "kenward-roger", "residual", "normal")
# lmerTest takes denominators as equal where they differ by less.
SAME_DF = 1e-8


@dataclass(frozen=True, eq=False, repr=False)
class TTest(Tabular):
    """t tests of q contrasts for m responses; all arrays (m, q).

    ``estimate`` is L coef - rhs; ``df`` is infinite for z tests; ``names`` say what is tested.
    """

    L: np.ndarray
    rhs: np.ndarray
    estimate: np.ndarray
    se: np.ndarray
    df: np.ndarray
    names: tuple[str, ...] = ()

    @property
    def statistic(self) -> np.ndarray:
        """Test statistics estimate / se."""
        return self.estimate / self.se

    @property
    def pvalue(self) -> np.ndarray:
        """Two-sided p-values."""
        return distributions.pvalues(self.statistic, self.df)

    def conf_int(self, level: float = 0.95) -> np.ndarray:
        """Intervals of L coef (rhs added again): lower and upper limit, (m, q, 2)."""
        half = distributions.halfwidth(level, self.df) * self.se
        centre = self.estimate + self.rhs
        return np.stack([centre - half, centre + half], axis=-1)

    def _table(self, level: float) -> Table:
        names = self.names or tuple(f"contrast {j}" for j in range(len(self.L)))
        return t_table("Tests of contrasts", {"contrast": names}, self, self.pvalue, self.conf_int(level))


@dataclass(frozen=True, eq=False, repr=False)
class FTest(Tabular):
    """Joint F test of q contrasts for m responses; all arrays (m,), ``df_num`` the rank of L."""

    L: np.ndarray
    rhs: np.ndarray
    statistic: np.ndarray
    df_num: int
    df_den: np.ndarray

    @property
    def pvalue(self) -> np.ndarray:
        """Upper tail of the F distribution (chi-square / df_num where df_den is infinite)."""
        return distributions.f_pvalues(self.statistic, self.df_num, self.df_den)

    def _table(self, level: float) -> Table:
        columns = {
            "statistic": self.statistic, "df_num": np.full(len(self.statistic), self.df_num), "df_den": self.df_den,
            "pvalue": self.pvalue,
        }  # fmt: skip
        return Table("Joint test of contrasts", {}, columns, {"statistic": "F", "pvalue": "P>F"})


def t_table(
    title: str,
    axes: Mapping[str, Any],
    test: Any,
    pvalue: np.ndarray | None,
    limits: np.ndarray | None,
    *,
    notes: tuple[str, ...] = (),
    per: str | None = None,
) -> Table:
    """The table of t tests, of which p-values and intervals (m, q, 2) may be left out; ``per`` as in ``Table``."""
    columns = {"estimate": test.estimate, "se": test.se, "df": test.df}
    if pvalue is not None:
        columns |= {"statistic": test.statistic, "pvalue": pvalue}
    if limits is not None:
        columns |= {"conf_low": limits[..., 0], "conf_high": limits[..., 1]}
    letter = "z" if np.isposinf(test.df).any() else "t"
    headings = {"statistic": letter, "pvalue": f"P>|{letter}|"}
    return Table(title, axes, columns, headings, notes, per)


def check_df_method(df_method: str, fit_method: str) -> str:
    """The method in its one spelling; ValueError for an unknown one, and for Kenward-Roger after ML."""
    df_method = check_option("df", df_method, DF_METHODS)
    if df_method == "kenward-roger" and fit_method != "REML":
        raise ValueError(
            f"df='kenward-roger' needs a REML fit, found method={fit_method!r}; fit with method='REML', "
            "or use df='satterthwaite'."
        )
    return df_method


def t_test(est: Estimates, L: np.ndarray, rhs: np.ndarray, df_method: str) -> TTest:
    """Test each row of ``L`` (q, p): L coef = rhs, where ``rhs`` is (q,)."""
    se, df = contrast_se_df(est, L, df_method)
    return TTest(L, rhs, est.product(L) - rhs, se, df)


def contrast_se_df(est: Estimates, L: np.ndarray, df_method: str) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors and degrees of freedom of the rows of L one by one, (m, q) each."""
    curves = contrast_curves(est, L)
    variance, df = curves.value, np.full(curves.value.shape, np.inf)
    if df_method == "residual" or (df_method != "normal" and not est.has_random):
        df[:] = est.df_resid[:, None]
    elif df_method != "normal":
        pieces = _pieces(est, df_method)
        r = curves.first / curves.value[:, None] - pieces.drift[:, :, None]
        df = _df(r, pieces.inverse, est.nu)
        if df_method == "kenward-roger":
            variance = curves.value - 2 * np.einsum("mst,mstq->mq", pieces.inverse, curves.second)
    return np.sqrt(variance * est.sigma2[:, None]), np.where(est.fitted[:, None], df, np.nan)


def adjusted_vcov(est: Estimates, df_method: str) -> np.ndarray:
    """Covariance matrices of the coefficients, (m, p, p), adjusted for Kenward-Roger."""
    return contrast_vcov(est, np.eye(est.coef.shape[1]), df_method)


def contrast_vcov(est: Estimates, L: np.ndarray, df_method: str) -> np.ndarray:
    """Covariance matrices of the contrasts L (q, p), (m, q, q), adjusted for Kenward-Roger."""
    curves = contrast_curves(est, L, joint=True)
    relative = curves.value
    if df_method == "kenward-roger" and est.has_random:
        relative = _adjusted(curves, _pieces(est, df_method).inverse)
    return relative * est.sigma2[:, None, None]


def f_test(est: Estimates, L: np.ndarray, rhs: np.ndarray, df_method: str) -> FTest:
    """Test all rows of ``L`` (q, p) at once: L coef = rhs.

    ``L`` has full row rank; (m, q, p) are contrasts of each response's own. Sources: lmerTest's ``contestMD`` and
    pbkrtest's ``KRmodcomp``.
    """
    own = L.ndim == 3
    curves, P = _own_curves(est, L) if own else orthonormal_curves(est, L)
    values = np.einsum("mqp,mp->mq", L, est.coef) if own else est.product(L)
    delta = _forward(P, values - rhs)
    q = len(rhs)
    good = np.isfinite(delta).all(axis=1) & est.fitted
    stat, df_den = np.full(len(delta), np.nan), np.full(len(delta), np.nan)
    part = curves.rows(good)
    scaled = delta[good] / np.sqrt(est.sigma2[good])[:, None]
    if df_method in ("satterthwaite", "kenward-roger") and est.has_random:
        pieces = _pieces(est, df_method).rows(good)
        if df_method == "kenward-roger":
            stat[good], df_den[good] = _kenward_roger_f(part, scaled, pieces, est.nu[good])
        else:
            stat[good], df_den[good] = _satterthwaite_f(part, scaled, P[good], pieces, est.nu[good])
    else:
        inner = np.linalg.solve(part.value, scaled[:, :, None])[:, :, 0]
        stat[good] = np.sum(scaled * inner, axis=1) / q
        df_den[good] = np.inf if df_method == "normal" else est.df_resid[good]
    return FTest(L, rhs, stat, q, df_den)


def _own_curves(est: Estimates, L: np.ndarray) -> tuple[Curves, np.ndarray]:
    """As ``orthonormal_curves``, of contrasts L (m, q, p) that differ from response to response."""
    whole, P = orthonormal_curves(est, np.eye(L.shape[2]))
    inside = np.nan_to_num(L @ P)
    Q, R = np.linalg.qr(np.swapaxes(inside, 1, 2))
    turn = np.swapaxes(Q, 1, 2)

    def turned(values: np.ndarray, axes: int) -> np.ndarray:
        shape = (len(Q), *[1] * axes)
        return np.asarray(turn.reshape(*shape, *turn.shape[1:]) @ values @ Q.reshape(*shape, *Q.shape[1:]))

    curves = Curves(turned(whole.value, 0), turned(whole.first, 1), lambda: turned(whole.second, 2))
    return curves, np.swapaxes(R, 1, 2)


def covariance_se(est: Estimates) -> tuple[np.ndarray, np.ndarray]:
    """Sampling covariance of the variance parameters, by the observed information and the delta method.

    Returns
    -------
    sigma2 : ndarray, (m,)
        Standard errors of sigma2.
    random : ndarray, (m, k, k)
        Sampling covariance of v = sigma2 phi, the (co)variances of the random effects; NaN where one of their
        covariance matrices is singular: no standard error describes an estimate on its boundary.
    """
    l1, _ = information(est)
    nu = np.where(np.isnan(est.sigma2), np.nan, est.nu)  # of a response without a fit it may be 0
    drift = l1 / nu[:, None]
    inverse = observed_inverse(est)
    pull = 2 * np.einsum("ms,mst,mt->m", drift, inverse, drift)
    sigma2 = est.sigma2 * np.sqrt(2 / nu + pull)
    # dv = sigma2 (d phi - phi drift'd phi) + v e with var(e) = 2 / nu
    turn = np.eye(est.phi.shape[1]) - est.phi[:, :, None] * drift[:, None, :]
    random = 2 * turn @ inverse @ np.swapaxes(turn, 1, 2)
    random = random + 2 / nu[:, None, None] * est.phi[:, :, None] * est.phi[:, None, :]
    return sigma2, random * est.sigma2[:, None, None] ** 2


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Per response: ``drift`` l_s / nu, (m, k), and ``inverse``, half the covariance of phi, (m, k, k)."""

    drift: np.ndarray
    inverse: np.ndarray

    def rows(self, where: np.ndarray) -> _Pieces:
        return _Pieces(self.drift[where], self.inverse[where])


def _pieces(est: Estimates, df_method: str) -> _Pieces:
    l1, l2 = information(est)
    drift = l1 / est.nu[:, None]
    if df_method == "kenward-roger":
        return _Pieces(drift, _expected_inverse(l2, drift, est.nu))
    return _Pieces(drift, observed_inverse(est))


def _expected_inverse(l2: np.ndarray, drift: np.ndarray, nu: np.ndarray) -> np.ndarray:
    """E^-1 (m, k, k), E the expected information of phi."""
    E = -l2 - nu[:, None, None] * drift[:, :, None] * drift[:, None, :]
    if E.shape[1] == 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 / E
    good = np.isfinite(E).all(axis=(1, 2))
    # Free of units first: variances may differ by orders of magnitude.
    scale = 1 / np.sqrt(np.maximum(np.einsum("mkk->mk", np.where(good[:, None, None], E, 1.0)), 1e-300))
    unit = np.where(good[:, None, None], E, 0.0) * scale[:, :, None] * scale[:, None, :]
    # Slopes of covariates far from zero are well determined at their means alone: small eigenvalues, but no rounding.
    inverse = np.linalg.pinv(unit, rcond=1e-14, hermitian=True)
    return np.where(good[:, None, None], inverse * scale[:, :, None] * scale[:, None, :], np.nan)


def _df(r: np.ndarray, inverse: np.ndarray, nu: np.ndarray) -> np.ndarray:
    """1 / (1/nu + r' inverse r), (m, q), for r (m, k, q)."""
    with np.errstate(divide="ignore"):
        if r.shape[1] == 1:  # a sum of one term, in a third of the time
            return 1 / (1 / nu[:, None] + r[:, 0] * r[:, 0] * inverse[:, 0])
        return 1 / (1 / nu[:, None] + np.einsum("msq,mst,mtq->mq", r, inverse, r))


def _adjusted(curves: Curves, inverse: np.ndarray) -> np.ndarray:
    """L C L' of joint curves as Kenward & Roger adjust it, (m, q, q)."""
    return curves.value - 2 * np.einsum("mst,mstij->mij", inverse, curves.second)


def _forward(P: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P^-1 b for lower triangles P (m, q, q) and b (m, q): row by row, whatever the rows' sizes."""
    out = np.empty_like(b)
    for k in range(b.shape[1]):
        out[:, k] = (b[:, k] - np.einsum("mj,mj->m", P[:, k, :k], out[:, :k])) / P[:, k, k]
    return out


def _satterthwaite_f(
    curves: Curves, delta: np.ndarray, L: np.ndarray, pieces: _Pieces, nu: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """F and its denominator: independent contrasts from the eigenvectors of L C L'.

    ``L`` (m, q, q) are the contrasts in the basis that ``curves`` and ``delta`` refer to. With C = H H', the
    eigenvectors are U in L H = U S V', and the contrasts U'L are S V'H^-1 = S P', of which S drops out.
    """
    q = delta.shape[1]
    values, vectors = np.linalg.eigh(curves.value)
    root = np.sqrt(np.maximum(values, np.finfo(np.float64).tiny))[:, None, :]
    P = vectors / root @ np.swapaxes(np.linalg.svd(L @ (vectors * root))[2], 1, 2)
    stat = np.sum(np.einsum("mi,mij->mj", delta, P) ** 2, axis=1) / q
    r = np.einsum("miq,msij,mjq->msq", P, curves.first, P, optimize=True) - pieces.drift[:, :, None]
    df = _df(r, pieces.inverse, nu)
    if q == 1:
        return stat, df[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        E = np.sum(df / (df - 2), axis=1)
        den = np.where(E > q, 2 * E / (E - q), np.inf)
    den = np.where((df > 2).all(axis=1), den, 2.0)
    same = np.max(np.abs(np.diff(df, axis=1)), axis=1) < SAME_DF
    return stat, np.where(same, df.mean(axis=1), den)


def _kenward_roger_f(
    curves: Curves, delta: np.ndarray, pieces: _Pieces, nu: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled F and its denominator (Kenward & Roger 1997, section 3)."""
    q = delta.shape[1]
    change = np.linalg.solve(curves.value[:, None], curves.first) - pieces.drift[:, :, None, None] * np.eye(q)
    trace = np.einsum("msii->ms", change)
    A1 = 2 / nu * q**2 + 2 * np.einsum("mst,ms,mt->m", pieces.inverse, trace, trace)
    A2 = 2 / nu * q + 2 * np.einsum("mst,msij,mtji->m", pieces.inverse, change, change, optimize=True)
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
    inner = np.linalg.solve(_adjusted(curves, pieces.inverse), delta[:, :, None])[:, :, 0]
    return scaling * np.sum(delta * inner, axis=1) / q, den
