"""t and F tests of contrasts, with Satterthwaite and Kenward-Roger degrees of freedom in closed form.

In the variance ratio lam everything that the two methods need is a function of one number a
response. With nu, T1, T2, C, C', K of ``estimates``, the profiled curvature c of the deviance in
lam, and r = l'C'l / l'Cl - T1/nu for one contrast l:

    Satterthwaite   df = 1 / (1/nu + r^2 / c)
    Kenward-Roger   df = 1 / (1/nu + r^2 / e),   e = T2 - T1^2/nu,
                    vcov = sigma2 (C + 2 K omega),   omega = 2 / e

The first is 2 v^2 / var(v) for v = sigma2 l'Cl with the observed Hessian in (sigma2, lam), as
lmerTest (Fai & Cornelius 1996; Kuznetsova et al. 2017); where lam = 0 the Hessian of lmerTest has
sigma alone to go by and df = nu. The second is Kenward & Roger (1997) as in pbkrtest (Halekoh &
Hojsgaard 2014): the covariance is linear in the variances, so their sums over pairs of variances
collapse to omega, the variance of lam by the expected information; for one contrast their df
reduces to 2 / A1. At lam = 0 nothing special happens to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.inference import distributions
from jaxlmm.inference.estimates import Curve, Estimates, contrast_curve, information, orthonormal_curve
from jaxlmm.inference.tabular import Table, Tabular
from jaxlmm.runtime.arguments import check_option

__all__ = [
    "DF_METHODS",
    "FTest",
    "TTest",
    "adjusted_vcov",
    "check_df_method",
    "contrast_se_df",
    "f_test",
    "t_table",
    "t_test",
    "variance_se",
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
    title: str, axes: Mapping[str, Any], test: Any, pvalue: np.ndarray | None, limits: np.ndarray | None
) -> Table:
    """The table of t tests, of which p-values and intervals (m, q, 2) may be left out."""
    columns = {"estimate": test.estimate, "se": test.se, "df": test.df}
    if pvalue is not None:
        columns |= {"statistic": test.statistic, "pvalue": pvalue}
    if limits is not None:
        columns |= {"conf_low": limits[..., 0], "conf_high": limits[..., 1]}
    letter = "z" if np.isposinf(test.df).any() else "t"
    return Table(title, axes, columns, {"statistic": letter, "pvalue": f"P>|{letter}|"})


def check_df_method(df_method: str, fit_method: str) -> None:
    """ValueError for an unknown method, and for Kenward-Roger after ML."""
    check_option("df", df_method, DF_METHODS)
    if df_method == "kenward-roger" and fit_method != "REML":
        raise ValueError(
            f"df='kenward-roger' needs a REML fit, found method={fit_method!r}; fit with method='REML', "
            "or use df='satterthwaite'."
        )


def t_test(est: Estimates, L: np.ndarray, rhs: np.ndarray, df_method: str) -> TTest:
    """Test each row of ``L`` (q, p): L coef = rhs, where ``rhs`` is (q,)."""
    se, df = contrast_se_df(est, L, df_method)
    return TTest(L, rhs, _estimates(est, L) - rhs, se, df)


def contrast_se_df(est: Estimates, L: np.ndarray, df_method: str) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors and degrees of freedom of the rows of L one by one, (m, q) each."""
    curve = contrast_curve(est, L)
    variance, df = curve.value, np.full(curve.value.shape, np.inf)
    if df_method == "residual" or (df_method != "normal" and not est.has_random):
        df[:] = est.df_resid[:, None]
    elif df_method != "normal":
        pieces = _pieces(est, df_method)
        r = curve.slope / curve.value - pieces.drift[:, None]
        with np.errstate(divide="ignore"):
            df = 1 / (1 / est.nu[:, None] + r * r * pieces.inverse[:, None])
        if df_method == "kenward-roger":
            variance = curve.value + 2 * pieces.omega[:, None] * curve.bend
    return np.sqrt(variance * est.sigma2[:, None]), np.where(np.isnan(est.lam)[:, None], np.nan, df)


def adjusted_vcov(est: Estimates, df_method: str) -> np.ndarray:
    """Covariance matrices of the coefficients, (m, p, p), adjusted for Kenward-Roger."""
    curve = contrast_curve(est, np.eye(est.coef.shape[1]), joint=True)
    relative = curve.value
    if df_method == "kenward-roger" and est.has_random:
        relative = relative + 2 * _pieces(est, df_method).omega[:, None, None] * curve.bend
    return relative * est.sigma2[:, None, None]


def f_test(est: Estimates, L: np.ndarray, rhs: np.ndarray, df_method: str) -> FTest:
    """Test all rows of ``L`` (q, p) at once: L coef = rhs.

    ``L`` has full row rank. Sources: lmerTest's ``contestMD`` and pbkrtest's ``KRmodcomp``.
    """
    curve, P = orthonormal_curve(est, L)
    delta = _forward(P, _estimates(est, L) - rhs)
    q = len(L)
    good = np.isfinite(delta).all(axis=1) & np.isfinite(est.lam)
    stat, df_den = np.full(len(delta), np.nan), np.full(len(delta), np.nan)
    part = Curve(*(a[good] for a in (curve.value, curve.slope, curve.bend)))
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


def variance_se(est: Estimates, mean_weight: np.ndarray) -> dict[str, np.ndarray]:
    """Standard errors of ``sigma2``, ``group_var`` and ``icc``, (m,), by the observed information.

    Delta method from the Hessian in (sigma2, lam). At lam = 0 the last two are NaN: the estimate
    stands on the boundary, where no standard error describes it (the fits' status says so). For ``icc``
    the residual variance is that of an observation of ``mean_weight`` (m,).
    """
    T1, _ = information(est)
    nu, lam, sigma2 = est.nu, est.lam, est.sigma2
    with np.errstate(divide="ignore", invalid="ignore"):
        var_lam = np.where(lam > 0, 2 / est.curvature, np.nan)
        ratio = T1 / nu
        pull = np.where(lam > 0, ratio**2 * var_lam, 0.0)
        group = 2 * lam**2 / nu + (1 - lam * ratio) ** 2 * var_lam
        return {
            "sigma2": np.where(np.isnan(lam), np.nan, sigma2 * np.sqrt(2 / nu + pull)),
            "group_var": sigma2 * np.sqrt(group),
            "icc": np.sqrt(var_lam) * mean_weight / (1 + lam * mean_weight) ** 2,
        }


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Per response: drift T1/nu, 1 / curvature (observed or expected), and omega; (m,)."""

    drift: np.ndarray
    inverse: np.ndarray
    omega: np.ndarray

    def rows(self, where: np.ndarray) -> _Pieces:
        return _Pieces(self.drift[where], self.inverse[where], self.omega[where])


def _pieces(est: Estimates, df_method: str) -> _Pieces:
    T1, T2 = information(est)
    drift = T1 / est.nu
    if df_method == "kenward-roger":
        inverse = 1 / (T2 - T1 * drift)
        return _Pieces(drift, inverse, 2 * inverse)
    # At lam = 0 the Hessian in (theta, sigma) does not tie theta to the contrast: df = nu.
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(est.lam == 0, 0.0, 1 / est.curvature)
    return _Pieces(drift, inverse, np.full_like(drift, np.nan))


def _estimates(est: Estimates, L: np.ndarray) -> np.ndarray:
    """L coef, (m, q)."""
    return est.spectrum.basis.columns.product(L, est.coef.T).T


def _forward(P: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P^-1 b for lower triangles P (m, q, q) and b (m, q): row by row, whatever the rows' sizes."""
    out = np.empty_like(b)
    for k in range(b.shape[1]):
        out[:, k] = (b[:, k] - np.einsum("mj,mj->m", P[:, k, :k], out[:, :k])) / P[:, k, k]
    return out


def _satterthwaite_f(
    curve: Curve, delta: np.ndarray, L: np.ndarray, pieces: _Pieces, nu: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """F and its denominator: independent contrasts from the eigenvectors of L C L'.

    ``L`` (m, q, q) are the contrasts in the basis that ``curve`` and ``delta`` refer to. With C = H H', the
    eigenvectors are U in L H = U S V', and the contrasts U'L are S V'H^-1 = S P', of which S drops out.
    """
    q = delta.shape[1]
    values, vectors = np.linalg.eigh(curve.value)
    root = np.sqrt(np.maximum(values, np.finfo(np.float64).tiny))[:, None, :]
    P = vectors / root @ np.swapaxes(np.linalg.svd(L @ (vectors * root))[2], 1, 2)
    stat = np.sum(np.einsum("mi,mij->mj", delta, P) ** 2, axis=1) / q
    r = np.einsum("mik,mij,mjk->mk", P, curve.slope, P) - pieces.drift[:, None]
    df = 1 / (1 / nu[:, None] + r * r * pieces.inverse[:, None])
    if q == 1:
        return stat, df[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        E = np.sum(df / (df - 2), axis=1)
        den = np.where(E > q, 2 * E / (E - q), np.inf)
    den = np.where((df > 2).all(axis=1), den, 2.0)
    same = np.max(np.abs(np.diff(df, axis=1)), axis=1) < SAME_DF
    return stat, np.where(same, df.mean(axis=1), den)


def _kenward_roger_f(
    curve: Curve, delta: np.ndarray, pieces: _Pieces, nu: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled F and its denominator (Kenward & Roger 1997, section 3)."""
    q = delta.shape[1]
    change = np.linalg.solve(curve.value, curve.slope) - pieces.drift[:, None, None] * np.eye(q)
    trace = np.trace(change, axis1=1, axis2=2)
    A1 = 2 / nu * q**2 + pieces.omega * trace**2
    A2 = 2 / nu * q + pieces.omega * np.trace(change @ change, axis1=1, axis2=2)
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
    adjusted = curve.value + 2 * pieces.omega[:, None, None] * curve.bend
    inner = np.linalg.solve(adjusted, delta[:, :, None])[:, :, 0]
    return scaling * np.sum(delta * inner, axis=1) / q, den
