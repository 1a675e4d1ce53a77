"""A family that is written in one file and fitted, tested and tabled by all that stands above families.

Effects of known covariance: y = X b + u + e with u ~ N(0, sigma2 theta^2 K), K (n_obs, n_obs) given, as the
kinship matrix of genetics. On the eigenvectors of K, with eigenvalues d, the errors are independent with
variances sigma2 (1 + theta^2 d).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.optimize

from jaxlmm.design.columns import Basis, make_columns
from jaxlmm.design.design import Design
from jaxlmm.design.random import intercept_term
from jaxlmm.engine.finish import Found, Scaling, empty_results, finish
from jaxlmm.families.base import Curves, Family, Modes


@dataclass(frozen=True, eq=False)
class Kinship(Family):
    """One random effect per observation, of known covariance K."""

    design: Design
    K: np.ndarray
    basis: Basis = field(init=False)
    d: np.ndarray = field(init=False)
    Q: np.ndarray = field(init=False)
    U: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        columns = make_columns(self.design.X)
        Q, R = np.linalg.qr(columns.unit)
        d, U = np.linalg.eigh(self.K)
        for name, value in dict(basis=Basis(columns, R), d=np.maximum(d, 0), Q=U.T @ Q, U=U).items():
            object.__setattr__(self, name, value)

    @classmethod
    def make(cls, X: np.ndarray, names: list[str], K: np.ndarray) -> Kinship:
        n = len(X)
        return cls(Design(X, tuple(names), (intercept_term("kinship", range(n), np.arange(n)),)), K)

    def take(self, rows: np.ndarray) -> Kinship:
        if np.sum(rows) <= self.design.n_fixef:
            raise ValueError("too few rows")
        return Kinship.make(self.design.X[rows], list(self.design.names), self.K[np.ix_(rows, rows)])

    def at(self, phi: float, reml: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """V^-1 (n,) on the eigenvectors, C (p, p) = (Q'V^-1 Q)^-1, and l, l', l'' in phi."""
        r = 1 / (1 + phi * self.d)
        C = np.linalg.inv(self.Q.T @ (r[:, None] * self.Q))
        D = r * self.d
        log = [-np.sum(np.log(r)), np.sum(D), -np.sum(D**2)]
        if reml:
            A1 = C @ (self.Q.T @ ((r * D)[:, None] * self.Q))
            A2 = C @ (self.Q.T @ ((r * D**2)[:, None] * self.Q))
            log[0] -= np.linalg.slogdet(C)[1]
            log[1] -= np.trace(A1)
            log[2] += 2 * np.trace(A2) - np.trace(A1 @ A1)
        return r, C, np.array(log)

    def pwrss(self, y: np.ndarray, phi: float) -> tuple[np.ndarray, np.ndarray]:
        """s and its derivatives in phi, and the coefficients, for y (n,) on the eigenvectors."""
        r, C, _ = self.at(phi, False)
        b = C @ (self.Q.T @ (r * y))
        e, D = y - self.Q @ b, r * self.d
        cross = self.Q.T @ (r * D * e)
        second = 2 * np.sum(r * D**2 * e**2) - 2 * cross @ C @ cross
        return np.array([np.sum(r * e * e), -np.sum(r * D * e * e), second]), b

    def fit(self, Y: np.ndarray, method: str) -> dict[str, np.ndarray]:
        (n, m), p, reml = Y.shape, self.design.n_fixef, method == "REML"
        nu, out = float(n - p if reml else n), empty_results(m, p, 1)
        out["n_used"][:] = n
        finite = np.isfinite(Y).all(axis=0)
        rows = self.U.T @ np.where(finite, Y, 1.0)

        def deviance(t: float, y: np.ndarray) -> float:
            phi = np.expm1(t)
            return float(nu * np.log(self.pwrss(y, phi)[0][0]) + self.at(phi, reml)[2][0])

        found = []
        for y in rows.T:
            best = min(
                (scipy.optimize.minimize_scalar(deviance, bounds=b, args=(y,), method="bounded",
                                                options={"xatol": 1e-12}) for b in ((0, 1), (0.5, 4), (3, 12))),
                key=lambda result: result.fun,
            )  # fmt: skip
            phi = 0.0 if deviance(0.0, y) <= best.fun + 1e-9 else float(np.expm1(best.x))
            (s, s1, s2), b = self.pwrss(y, phi)
            _, C, (l0, l1, l2) = self.at(phi, reml)
            first, second = nu * s1 / s + l1, nu * (s2 / s - (s1 / s) ** 2) + l2
            L = self.basis.contrast(np.eye(p))
            hessian = 4 * phi * second if phi > 0 else 2 * first
            found.append((np.sqrt(phi), s, nu * np.log(s) + l0, hessian, self.basis.coef(b[:, None])[:, 0],
                          np.diag(L @ C @ L.T)))  # fmt: skip
        theta, s, value, hessian, coef, variance = (np.array(part) for part in zip(*found, strict=True))
        left = rows - self.Q @ (self.Q.T @ rows)
        constant = np.linalg.norm(left, axis=0) <= 1e-12 * np.linalg.norm(rows, axis=0)
        no = np.zeros(m, dtype=bool)
        at = Found(theta[None], s, value, hessian[None, None], ~no, theta == 0, coef, variance)
        scaling = Scaling(np.zeros(m), np.ones(m), finite, constant, no)
        logdet = self.basis.logdet if reml else 0.0
        finish(out, slice(0, m), at, scaling, intercept=None, nu=nu, logdet=logdet)
        return out

    def curves(self, phi: np.ndarray, L: np.ndarray, *, joint: bool) -> Curves:
        m, q = len(phi), len(L)
        out = Curves.empty(m, 1, q, True)
        for i in np.flatnonzero(np.isfinite(phi[:, 0])):
            r, C, _ = self.at(phi[i, 0], True)
            D = r * self.d
            C1 = C @ (self.Q.T @ ((r * D)[:, None] * self.Q)) @ C
            C2 = 2 * (C1 @ np.linalg.inv(C) @ C1 - C @ (self.Q.T @ ((r * D**2)[:, None] * self.Q)) @ C)
            out.value[i], out.first[i, 0], out.second[i, 0, 0] = (L @ M @ L.T for M in (C, C1, C2))
        if joint:
            return out
        return Curves(*(np.diagonal(a, axis1=-2, axis2=-1).copy() for a in (out.value, out.first, out.second)))

    def information(self, phi: np.ndarray, *, reml: bool) -> tuple[np.ndarray, np.ndarray]:
        found = np.array([self.at(v, reml)[2] if np.isfinite(v) else np.full(3, np.nan) for v in phi[:, 0]])
        return found[:, 1:2], found[:, 2:, None]

    def complete_modes(self, Y: np.ndarray, coef: np.ndarray, theta: np.ndarray) -> tuple[Modes, ...]:
        e = self.U.T @ (Y - self.design.X @ coef.T)
        phi = theta[:, 0] ** 2
        shrunk = phi * self.d[:, None] / (1 + phi * self.d[:, None])
        spread = np.einsum("ij,jm,ij->mi", self.U, phi * self.d[:, None] / (1 + phi * self.d[:, None]), self.U)
        return (Modes((self.U @ (shrunk * e)).T[:, :, None], spread[:, :, None, None]),)
