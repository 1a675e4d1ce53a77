"""The result of a fit: arrays with one row a response, and what is computed from them on request."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxlmm import inference
from jaxlmm._types import Status
from jaxlmm.design import Design, group_codes, numeric
from jaxlmm.reduce import Reducer, group_means
from jaxlmm.text import number, summary_layout

__all__ = ["Fit"]

# Responses whose group means are formed at once by ``ranef``.
CHUNK = 2048


@dataclass(frozen=True, eq=False)
class Fit:
    """m fitted responses on one design; every array has one row a response.

    A response that could not be fitted has NaN in its row, ``converged`` False, and a ``status``
    that says why. Properties that are not attributes are computed when first asked for.

    Attributes
    ----------
    design : Design
        X, the names of its columns and the groups.
    method : {"REML", "ML"}
    df_method : str
        How ``df`` is found; see ``jaxlmm.fit``.
    coef, se : ndarray, (m, p)
        Fixed effects and their standard errors, in units of the response.
    lam : ndarray, (m,)
        Variance ratio group_var / sigma2 (the square of lme4's theta).
    sigma2 : ndarray, (m,)
        Residual variance.
    loglik : ndarray, (m,)
        Maximised (restricted) log-likelihood, with all constants, as lme4's ``logLik``.
    curvature : ndarray, (m,)
        Second derivative of -2 loglik in ``lam``, profiled over everything else.
    status : ndarray of int8, (m,)
        Values of :class:`jaxlmm.Status`.
    """

    design: Design
    method: str
    df_method: str
    coef: np.ndarray
    se: np.ndarray
    lam: np.ndarray
    sigma2: np.ndarray
    loglik: np.ndarray
    curvature: np.ndarray
    status: np.ndarray
    Y: np.ndarray = field(repr=False)
    reducer: Reducer = field(repr=False)
    given_names: tuple[str, ...] = field(repr=False, default=())

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name.lower()}" for name, n in self.status_counts().items() if n)
        return (
            f"Fit({self.n_responses} responses, {self.n_obs} observations, {self.n_groups} groups, "
            f"terms {list(self.design.names)}, {self.method}; {counts})"
        )

    # -- sizes, names, outcome ----------------------------------------------------------------

    @property
    def n_responses(self) -> int:
        """Number of responses, m."""
        return len(self.lam)

    @property
    def n_obs(self) -> int:
        """Number of observations."""
        return self.design.n_obs

    @property
    def n_groups(self) -> int:
        """Number of groups, 0 without a random effect."""
        return self.design.n_groups

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fixed effects, in the order of X's columns."""
        return self.design.names

    @functools.cached_property
    def response_names(self) -> tuple[str, ...]:
        """Names of the responses: those given, or y0, y1, ..."""
        return self.given_names or tuple(f"y{j}" for j in range(self.n_responses))

    @property
    def singular(self) -> np.ndarray:
        """Whether the group variance is estimated as exactly 0, (m,)."""
        return self.status == Status.SINGULAR

    @property
    def converged(self) -> np.ndarray:
        """Whether the response has a fit to rely on, (m,); where False, see ``status``."""
        return self.status <= Status.SINGULAR

    def status_counts(self) -> dict[str, int]:
        """How many responses ended in each status, by name."""
        counts = np.bincount(self.status, minlength=len(Status))
        return {s.name: int(counts[s]) for s in Status}

    # -- variances and criteria ---------------------------------------------------------------

    @property
    def theta(self) -> np.ndarray:
        """Group standard deviation relative to the residual's (lme4's theta), (m,)."""
        return np.sqrt(self.lam)

    @property
    def group_var(self) -> np.ndarray:
        """Variance of the group intercepts, (m,); exactly 0 where ``singular``."""
        return self.lam * self.sigma2

    @property
    def icc(self) -> np.ndarray:
        """Intraclass correlation, group_var / (group_var + sigma2), (m,)."""
        return self.lam / (1 + self.lam)

    @property
    def n_params(self) -> int:
        """Parameters that AIC and BIC count: fixed effects and variances, as R does."""
        return self.design.n_fixef + 1 + len(self.design.random)

    @property
    def aic(self) -> np.ndarray:
        """Akaike's criterion, (m,); of the restricted likelihood if ``method`` is REML."""
        return -2 * self.loglik + 2 * self.n_params

    @property
    def bic(self) -> np.ndarray:
        """Bayesian criterion, (m,), with log(n_obs), as R's ``BIC`` of an lme4 fit."""
        return -2 * self.loglik + np.log(self.n_obs) * self.n_params

    # -- tests and intervals of the fixed effects ---------------------------------------------

    @functools.cached_property
    def stat(self) -> np.ndarray:
        """Test statistics coef / se, (m, p)."""
        return self.coef / self.se

    @functools.cached_property
    def df(self) -> np.ndarray:
        """Degrees of freedom of the tests, (m, p); infinity for z tests."""
        return inference.df_values(self.df_method, self.n_obs, self.design.n_fixef, self.coef.shape)

    @functools.cached_property
    def pvalue(self) -> np.ndarray:
        """Two-sided p-values of coef = 0, (m, p)."""
        return inference.pvalues(self.stat, self.df)

    def conf_int(self, level: float = 0.95) -> np.ndarray:
        """Wald intervals of the fixed effects: lower and upper limit, (m, p, 2)."""
        half = inference.halfwidth(level, self.df) * self.se
        return np.stack([self.coef - half, self.coef + half], axis=-1)

    @functools.cached_property
    def vcov(self) -> np.ndarray:
        """Covariance matrices of the fixed effects, (m, p, p)."""
        unit = inference.vcov_unit(self.reducer.spectrum, self.lam)
        scale = self.reducer.projection.x_scale
        return unit * self.sigma2[:, None, None] / (scale[:, None] * scale)

    # -- random effects, fitted values, predictions -------------------------------------------

    @functools.cached_property
    def ranef(self) -> np.ndarray:
        """Conditional modes (BLUPs) of the group intercepts, (m, G), as lme4's ``ranef``."""
        G = self.n_groups
        modes = np.empty((self.n_responses, G))
        if not G:
            return modes
        x_mean = self.reducer.projection.x_mean * self.reducer.projection.x_scale
        for start in range(0, self.n_responses, CHUNK):
            rows = slice(start, start + CHUNK)
            means, shift = group_means(self.reducer.projection, self.Y[:, rows])
            fixed = x_mean @ self.coef[rows].T
            modes[rows] = (means - (fixed - shift)).T * self._shrinkage(self.lam[rows])
        return modes

    @property
    def ranef_sd(self) -> np.ndarray:
        """Conditional standard deviations of ``ranef``, (m, G), as lme4's ``condVar``."""
        lam = self.lam[:, None]
        return np.sqrt(self.sigma2[:, None] * lam / (1 + lam * self.reducer.projection.sizes))

    def fitted(self, *, random: bool = True) -> np.ndarray:
        """Fitted values, (n_obs, m) as Y, with the random effects unless ``random=False``."""
        values = self.design.X @ self.coef.T
        if random and self.design.random:
            values += self.ranef.T[self.design.random[0].codes]
        return values

    def resid(self, *, random: bool = True) -> np.ndarray:
        """Residuals Y - fitted, (n_obs, m)."""
        return self.Y - self.fitted(random=random)

    def predict(self, X_new: Any, groups_new: Any = None) -> np.ndarray:
        """Predictions for new rows, (n_new, m).

        Parameters
        ----------
        X_new : array-like, (n_new, p)
            The same columns as X.
        groups_new : array-like, (n_new,), optional
            Labels; the group's mode is added. Unknown groups, and None, get the population's
            prediction.
        """
        X = np.asarray(numeric(X_new, "X_new"), dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self.design.n_fixef:
            raise ValueError(
                f"X_new must have shape (n_new, {self.design.n_fixef}) with columns "
                f"{', '.join(self.names)}; found {X.shape}."
            )
        values = X @ self.coef.T
        if groups_new is None:
            return values
        if not self.design.random:
            raise ValueError("groups_new was given, but the model has no random effect; leave it out.")
        codes = group_codes(self.design.random[0], groups_new)
        if codes.shape != (len(X),):
            raise ValueError(f"groups_new has {len(codes)} labels, X_new has {len(X)} rows; need one a row.")
        known = codes >= 0
        values[known] += self.ranef.T[codes[known]]
        return values

    # -- variance explained -------------------------------------------------------------------

    @property
    def rsquared_marginal(self) -> np.ndarray:
        """Share of variance explained by the fixed effects, (m,) (Nakagawa & Schielzeth 2013)."""
        fixed, total = self._variance_parts()
        return fixed / total

    @property
    def rsquared_conditional(self) -> np.ndarray:
        """Share explained by fixed and random effects, (m,) (Nakagawa & Schielzeth 2013)."""
        fixed, total = self._variance_parts()
        return (fixed + self.group_var) / total

    # -- choosing and showing -----------------------------------------------------------------

    def select(self, responses: Any) -> Fit:
        """The fit of some responses only: positions, a slice, a mask, or names."""
        where = np.atleast_1d(np.arange(self.n_responses)[self._positions(responses)])
        rows = {name: getattr(self, name)[where] for name in _ROW_FIELDS}
        names = tuple(np.asarray(self.given_names, dtype=object)[where]) if self.given_names else ()
        if not names:
            names = tuple(f"y{j}" for j in where)
        same = {name: getattr(self, name) for name in ("design", "method", "df_method", "reducer")}
        return Fit(**same, **rows, Y=self.Y[:, where], given_names=names)

    def position(self, response: int | str) -> int:
        """Row of a response, given by position or by name."""
        if isinstance(response, str):
            if response not in self.response_names:
                raise ValueError(f"no response is named {response!r}; names begin {self.response_names[:3]}.")
            return self.response_names.index(response)
        if not -self.n_responses <= response < self.n_responses:
            raise ValueError(f"response {response} is out of range; there are {self.n_responses}.")
        return int(response) % self.n_responses

    def summary(self, response: int | str = 0, *, level: float = 0.95) -> None:
        """Print the table of one response, given by position or name, in statsmodels' style."""
        print(self.summary_text(response, level=level))

    def summary_text(self, response: int | str = 0, *, level: float = 0.95) -> str:
        """The table that :meth:`summary` prints; ``level`` is that of the intervals."""
        i = self.position(response)
        one = self.select([i])
        letter = "z" if self.df_method == "normal" else "t"
        sizes = self.reducer.projection.sizes
        pairs = [
            ("Model:", "Random intercept" if self.design.random else "OLS"),
            ("No. Observations:", str(self.n_obs)),
            ("No. Groups:", str(self.n_groups)),
            ("Min. group size:", str(sizes.min()) if self.n_groups else "-"),
            ("Max. group size:", str(sizes.max()) if self.n_groups else "-"),
            ("Mean group size:", f"{sizes.mean():.1f}" if self.n_groups else "-"),
            ("ICC:", number(one.icc[0]) if self.n_groups else "-"),
            ("Dependent Variable:", self.response_names[i]),
            ("Method:", self.method),
            ("Scale:", number(one.sigma2[0])),
            ("Log-Likelihood:", number(one.loglik[0])),
            ("AIC:", number(one.aic[0])),
            ("BIC:", number(one.bic[0])),
            ("Converged:", "Yes" if one.converged[0] else "No"),
        ]
        tail = (1 - level) / 2
        header = ["", "Coef.", "Std.Err.", "df", letter, f"P>|{letter}|", f"[{tail:.4g}", f"{1 - tail:.4g}]"]
        columns = (
            one.coef,
            one.se,
            one.df,
            one.stat,
            one.pvalue,
            one.conf_int()[..., 0],
            one.conf_int()[..., 1],
        )
        rows = [[name, *(number(c[0, j]) for c in columns)] for j, name in enumerate(self.names)]
        if self.design.random:
            rows.append([f"{self.design.random[0].name} Var", number(one.group_var[0]), *[""] * 6])
        notes = [] if one.status[0] == Status.OK else [Status(one.status[0]).message]
        title = "Mixed Linear Model Results" if self.design.random else "Linear Model Results"
        return summary_layout(title, pairs, header, rows, notes)

    # -- inner --------------------------------------------------------------------------------

    def _shrinkage(self, lam: np.ndarray) -> np.ndarray:
        weight = lam[:, None] * self.reducer.projection.sizes
        return weight / (1 + weight)

    def _variance_parts(self) -> tuple[np.ndarray, np.ndarray]:
        centred = self.design.X - self.design.X.mean(axis=0)
        covariance = centred.T @ centred / (self.n_obs - 1)
        fixed = np.einsum("mi,ij,mj->m", self.coef, covariance, self.coef)
        return fixed, fixed + self.group_var + self.sigma2

    def _positions(self, responses: Any) -> Any:
        if isinstance(responses, str) or (
            isinstance(responses, Sequence) and responses and isinstance(responses[0], str)
        ):
            names = [responses] if isinstance(responses, str) else responses
            return np.array([self.position(name) for name in names])
        return responses


_ROW_FIELDS = ("coef", "se", "lam", "sigma2", "loglik", "curvature", "status")
