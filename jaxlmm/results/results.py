"""The result of a fit: arrays with one row per response, and what is computed from them on request."""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxlmm._types import Status
from jaxlmm.design.arrays import numeric
from jaxlmm.design.contrasts import contrast_matrix, contrast_text
from jaxlmm.design.design import Design
from jaxlmm.design.groups import group_codes
from jaxlmm.design.random import term_keys
from jaxlmm.design.terms import make_terms_structure
from jaxlmm.families.base import Modes, covariances
from jaxlmm.families.known import KnownCurves
from jaxlmm.families.parameters import lower_triangle
from jaxlmm.families.registry import Model
from jaxlmm.inference import distributions, hypotheses, tails
from jaxlmm.inference.anova import Anova, table_type
from jaxlmm.inference.emmeans import EMMeans, MeansAndContrasts, emmeans
from jaxlmm.inference.estimates import Estimates, observed_inverse
from jaxlmm.inference.hypotheses import FTest, TTest
from jaxlmm.inference.intervals import Profile
from jaxlmm.inference.joint import JointTests, joint_tests
from jaxlmm.resampling.bootstrap import Bootstrap, bootstrap
from jaxlmm.results.derived import (
    fit_anova,
    fit_estimates,
    fit_modes,
    fit_profile,
    fixed_variance,
    group_sizes,
    mean_weight,
    random_part,
    random_variance,
)
from jaxlmm.results.exports import Exports
from jaxlmm.results.summary import overview, summary_text
from jaxlmm.results.varcorr import RandomEffects, RandomParameters, random_parameters
from jaxlmm.runtime.progress import progress as counted
from jaxlmm.runtime.text import Text
from jaxlmm.sources.weighted import WeightedMatrix
from jaxlmm.tabular.dataset import ROWS
from jaxlmm.tabular.labels import NO_LABELS, Labels

__all__ = ["Fit"]


@dataclass(frozen=True, eq=False)
class Fit(Exports):
    """m fitted responses on one design; every array has one row per response.

    A response that could not be fitted has NaN in its row, ``converged`` False, and a ``status``
    that says why. Properties that are not attributes are computed when first asked for.

    Attributes
    ----------
    design : Design
        X, the names of its columns and the groups.
    method : {"REML", "ML"}
    df_method : str
        How ``df`` is found; see ``jaxlmm.fit``.
    coef : ndarray, (m, p)
        Fixed effects, in units of the response.
    se_gls : ndarray, (m, p)
        Their standard errors by generalised least squares; see ``se``.
    theta : ndarray, (m, k)
        Parameters of the random effects' covariances, as lme4's: the lower triangles, by columns, of the
        Cholesky factors of the terms' covariance matrices over sigma2.
    sigma2 : ndarray, (m,)
        Residual variance.
    loglik : ndarray, (m,)
        Maximised (restricted) log-likelihood, with all constants, as lme4's ``logLik``.
    hessian : ndarray, (m, k, k)
        Second derivatives of -2 loglik in ``theta``, profiled over everything else.
    status : ndarray of int8, (m,)
        Values of :class:`jaxlmm.Status`.
    n_used : ndarray of int, (m,)
        Observations that the response was fitted to: all but its missing ones.
    labels : Labels
        Dimensions, coordinates and units of the responses; see ``dims``.
    source : FormulaDesign or None
        What ``jaxlmm.lmm`` made X with, to apply it to new data.
    weights : ndarray, (n_obs, m), or None
        Of each response's own observations, as given; None where all share the design's, or there are none.
    known : KnownCurves or None
        What fitting has kept for tests of responses with designs of their own. All of it can be computed anew.
    """

    design: Design
    method: str
    df_method: str
    coef: np.ndarray
    se_gls: np.ndarray
    theta: np.ndarray
    sigma2: np.ndarray
    loglik: np.ndarray
    hessian: np.ndarray
    status: np.ndarray
    n_used: np.ndarray
    Y: np.ndarray = field(repr=False)
    model: Model = field(repr=False)
    labels: Labels = field(repr=False, default=NO_LABELS)
    source: Any = field(repr=False, default=None)
    weights: Any = field(repr=False, default=None)
    known: KnownCurves | None = field(repr=False, default=None)

    def __post_init__(self) -> None:
        if self.labels is NO_LABELS:
            object.__setattr__(self, "labels", Labels.of_matrix(self.n_responses))
        if self.labels.size != self.n_responses:
            raise ValueError(f"labels are of {self.labels.size} responses, the fit has {self.n_responses}.")

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name.lower()}" for name, n in self.status_counts().items() if n)
        return (
            f"Fit({self.n_responses} responses{self.labels}, {self.n_obs} observations{self._dropped_text}, "
            f"{self.n_groups} groups, "
            f"terms {list(self.design.names)}, {self.method}; {counts})"
        )

    # -- sizes, names, outcome ----------------------------------------------------------------

    @property
    def n_responses(self) -> int:
        """Number of responses, m."""
        return len(self.sigma2)

    @property
    def n_obs(self) -> int:
        """Number of observations."""
        return self.design.n_obs

    @property
    def dropped(self) -> np.ndarray:
        """Positions, among the rows that were given, of those left out since a covariate or group is missing.

        All arrays of the fit with a row per observation (``fitted``, ``resid``, ``design.X``) have the other rows, as
        R's ``na.omit``; ``augment(data=...)`` has all, with NaN at these, as ``na.exclude``. What is missing where:
        ``design.dropped.missing``.
        """
        return np.zeros(0, dtype=np.intp) if self.design.dropped is None else self.design.dropped.rows

    @property
    def _dropped_text(self) -> str:
        n = len(self.dropped)
        return f" ({n} row{'s' * (n > 1)} dropped)" if n else ""

    @property
    def incomplete(self) -> np.ndarray:
        """Whether the response was fitted without some of the observations, (m,)."""
        return (self.n_used < self.n_obs) & self.converged

    @property
    def own_design(self) -> np.ndarray:
        """Whether the response has a design of its own, (m,): it is incomplete, or has weights of its own."""
        return self.incomplete if self.weights is None else self.converged

    @property
    def responses(self) -> Any:
        """The responses, together with their weights if they have some of their own."""
        return self.Y if self.weights is None else WeightedMatrix(self.Y, self.weights)

    @property
    def n_groups(self) -> int:
        """Number of groups, 0 without a random effect."""
        return self.design.n_groups

    @functools.cached_property
    def group_sizes(self) -> np.ndarray:
        """Observations of each group that the response was fitted to, (m, G)."""
        return group_sizes(self)

    @property
    def n_groups_used(self) -> np.ndarray:
        """Groups that the response has an observation of, (m,)."""
        return np.sum(self.group_sizes > 0, axis=1)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fixed effects, in the order of X's columns."""
        return self.design.names

    @property
    def response_names(self) -> tuple[str, ...]:
        """Names of the responses: those given, their labels as "Fz, 0.1", or y0, y1, ..."""
        return self.labels.names

    @property
    def dims(self) -> tuple[Hashable, ...]:
        """Dimensions of the responses: "response" for the columns of a matrix, else those of a labelled array."""
        return self.labels.dims

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of ``dims``; the last dimension varies fastest over the m responses."""
        return self.labels.shape

    @property
    def coords(self) -> Any:
        """xarray Coordinates of the responses. Needs xarray."""
        return self.labels.to_coords()

    @property
    def singular(self) -> np.ndarray:
        """Whether a variance of random effects is estimated as exactly 0, or a correlation as 1 or -1, (m,)."""
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
    def lam(self) -> np.ndarray:
        """Variance ratio group_var / sigma2 of one random intercept, (m,); 0 without one."""
        return self._one_intercept("lam")

    @property
    def group_var(self) -> np.ndarray:
        """Variance of the group intercepts of one random intercept, (m,); exactly 0 where ``singular``."""
        return self._one_intercept("group_var") * self.sigma2

    @functools.cached_property
    def varcorr(self) -> dict[str, np.ndarray]:
        """Covariance matrix of each random term's effects, (m, r, r), by the name of its factor.

        As lme4's ``VarCorr``: a second term on one factor, as ``(x || g)`` makes, is called "g.1".
        """
        parts = covariances(self.theta, self.model.family.sizes)
        keys = term_keys(self.design.random)
        return {key: Phi * self.sigma2[:, None, None] for key, Phi in zip(keys, parts, strict=True)}

    @functools.cached_property
    def singular_terms(self) -> dict[str, np.ndarray]:
        """Which random term's covariance matrix is singular (a zero variance, a correlation of 1), (m,) each."""
        out, start = {}, 0
        for key, term in zip(term_keys(self.design.random), self.design.random, strict=True):
            rows, columns = lower_triangle(term.size)
            diagonal = start + np.flatnonzero(rows == columns)
            out[key] = np.any(self.theta[:, diagonal] == 0, axis=1)
            start += len(rows)
        return out

    @property
    def icc(self) -> np.ndarray:
        """Intraclass correlation, group_var / (group_var + sigma2), (m,).

        With weights the residual variance is that of an observation of mean weight, so that the unit
        of the weights does not matter (as the scaled weights of Carle 2009, BMC Med Res Methodol 9:49).
        """
        lam = self._one_intercept("icc")
        return lam / (lam + 1 / self._mean_weight)

    @property
    def n_params(self) -> int:
        """Parameters that AIC and BIC count: fixed effects and variances, as R does."""
        return self.design.n_fixef + 1 + self.model.family.n_theta

    @property
    def aic(self) -> np.ndarray:
        """Akaike's criterion, (m,); of the restricted likelihood if ``method`` is REML."""
        return -2 * self.loglik + 2 * self.n_params

    @property
    def bic(self) -> np.ndarray:
        """Bayesian criterion, (m,), with log(n_used), as R's ``BIC`` of an lme4 fit."""
        return -2 * self.loglik + np.log(np.maximum(self.n_used, 1)) * self.n_params

    def variance_se(self) -> dict[str, np.ndarray]:
        """Standard errors of ``sigma2``, and of ``group_var`` and ``icc`` of one random intercept, (m,) each.

        By the observed information of the (restricted) likelihood and the delta method. NaN for
        the last two where ``singular``: no standard error describes an estimate on its boundary. Standard
        deviations and correlations of other random effects: :attr:`random_parameters`.
        """
        sigma2, sampling = self._sampling
        if self.design.random and not self.design.has_one_intercept:
            return {"sigma2": sigma2}
        nothing = np.full(self.n_responses, np.nan)
        if not self.design.random:
            return {"sigma2": sigma2, "group_var": nothing, "icc": nothing}
        lam, w = self.lam, self._mean_weight
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.where(lam > 0, 2 * observed_inverse(self.estimates)[:, 0, 0], np.nan)
            group = np.where(lam > 0, np.sqrt(sampling[:, 0, 0]), np.nan)
            return {"sigma2": sigma2, "group_var": group, "icc": np.sqrt(spread) * w / (1 + lam * w) ** 2}

    @functools.cached_property
    def random_parameters(self) -> RandomParameters:
        """Standard deviations and correlations of all random effects, with standard errors."""
        sampling = self._sampling[1].copy()
        start = 0
        for term, singular in zip(self.design.random, self.singular_terms.values(), strict=True):
            k = term.size * (term.size + 1) // 2
            sampling[singular, start : start + k] = np.nan
            sampling[singular, :, start : start + k] = np.nan
            start += k
        return random_parameters(self.design.random, list(self.varcorr.values()), sampling)

    # -- tests and intervals of the fixed effects ---------------------------------------------

    @functools.cached_property
    def estimates(self) -> Estimates:
        """The fits as the arrays that tests and intervals work on."""
        return fit_estimates(self)

    def with_df(self, df: str) -> Fit:
        """The same fits with another way to find degrees of freedom; see ``jaxlmm.fit``."""
        return dataclasses.replace(self, df_method=hypotheses.check_df_method(df, self.method))

    @functools.cached_property
    def _se_df(self) -> tuple[np.ndarray, np.ndarray]:
        return hypotheses.contrast_se_df(self.estimates, np.eye(self.design.n_fixef), self.df_method)

    @property
    def se(self) -> np.ndarray:
        """Standard errors of ``coef``, (m, p); Kenward and Roger's if that is the ``df_method``."""
        return self._se_df[0] if self.df_method == "kenward-roger" else self.se_gls

    @functools.cached_property
    def statistic(self) -> np.ndarray:
        """Test statistics coef / se, (m, p)."""
        return self.coef / self.se

    @property
    def df(self) -> np.ndarray:
        """Degrees of freedom of the tests, (m, p); infinity for z tests."""
        return self._se_df[1]

    @functools.cached_property
    def pvalue(self) -> np.ndarray:
        """Two-sided p-values of coef = 0, (m, p)."""
        return distributions.pvalues(self.statistic, self.df)

    @functools.cached_property
    def neglog10p(self) -> np.ndarray:
        """-log10 of ``pvalue``, (m, p), by the logarithm of the tail: right also where p is 0 in floats."""
        return tails.neglog10_pvalues(self.statistic, self.df)

    @functools.cached_property
    def zscore(self) -> np.ndarray:
        """Normal deviates with the p-values and the signs of ``statistic``, (m, p), however small the p-values are.

        Where degrees of freedom differ between responses these can be compared, and drawn in one map.
        """
        return tails.zscores(self.statistic, self.df)

    def conf_int(self, level: float = 0.95) -> np.ndarray:
        """Wald intervals of the fixed effects: lower and upper limit, (m, p, 2)."""
        half = distributions.halfwidth(level, self.df) * self.se
        return np.stack([self.coef - half, self.coef + half], axis=-1)

    def profile(self, level: float = 0.95, *, progress: bool | None = None) -> Profile:
        """Profile likelihood intervals of standard deviations, correlations, ``sigma`` and ``coef``.

        By maximum likelihood whatever ``method`` is, as R's ``confint(fit, method="profile")``. ``progress`` is as in
        :func:`jaxlmm.fit`.
        """
        with counted("Profile", int(np.count_nonzero(self.converged)), "responses", progress):
            found = fit_profile(self, level)
        return dataclasses.replace(found, names=self.names, responses=self.labels)

    def bootstrap(
        self, n: int = 1000, *, kind: str = "parametric", seed: int = 0, progress: bool | None = None
    ) -> Bootstrap:
        """Refit the whole model to n replicates of the responses.

        Parameters
        ----------
        n : int
        kind : {"parametric", "wild", "cases"}
            What a replicate is: responses simulated from the fitted model, each on its own (as lme4's ``bootMer``;
            cost does not grow with the number of observations); the fixed part with residuals whose signs change at
            random, those of independent blocks (subjects) together; or independent blocks drawn with replacement.
            "wild" and "cases" keep the correlation between responses, and trust no model of the variances. "cases"
            makes a design for each replicate; these share what is compiled, but for a few sizes where blocks hold
            unequal numbers of levels.
        seed : int
        progress : bool, optional
            A bar with fits per second and time left, once two seconds have passed; by default on a terminal and in a
            notebook.

        Returns
        -------
        Bootstrap
            ``conf_int(what)`` (percentile, basic, BCa), ``standard_error(what)``, simultaneous ``band(coefficient)``,
            and the ``replicates(what)`` of coefficients, variances or any function of them.

        Raises
        ------
        ValueError
            Fewer than 5 independent blocks for "wild" and "cases"; more replicates than memory should hold.

        Notes
        -----
        A response that misses observations, or has weights of its own, keeps its rows and weights in every replicate.
        It gets a design of its own (those that share one together), some 10 ms each.
        """
        return bootstrap(self, n, kind, seed, progress)

    @functools.cached_property
    def vcov(self) -> np.ndarray:
        """Covariance matrices of the fixed effects, (m, p, p); adjusted for Kenward-Roger."""
        return hypotheses.adjusted_vcov(self.estimates, self.df_method)

    def test(self, L: Any, rhs: Any = 0.0) -> TTest:
        """t tests of contrasts, one by one: L coef = rhs.

        Parameters
        ----------
        L : array-like, (p,) or (q, p); or dict, or sequence of dicts
            Weights of the fixed effects. A dict names the effects, ``{"a": 1, "b": -1}``.
        rhs : float or array-like, (q,)

        Returns
        -------
        TTest
            ``estimate, se, statistic, df, pvalue`` (m, q), ``conf_int(level)`` (m, q, 2).
        """
        matrix, rhs = contrast_matrix(L, rhs, self.names)
        found = hypotheses.t_test(self.estimates, matrix, rhs, self.df_method)
        names = tuple(contrast_text(row, value, self.names) for row, value in zip(matrix, rhs, strict=True))
        return dataclasses.replace(found, names=names, responses=self.labels)

    def ftest(self, L: Any, rhs: Any = 0.0) -> FTest:
        """F test of several contrasts together; arguments as in :meth:`test`.

        Returns
        -------
        FTest
            ``statistic, df_den, pvalue`` (m,), ``df_num``. Denominators as lmerTest's (Satterthwaite)
            or pbkrtest's (Kenward-Roger, with its scaled statistic).
        """
        matrix, rhs = contrast_matrix(L, rhs, self.names, joint=True)
        found = hypotheses.f_test(self.estimates, matrix, rhs, self.df_method)
        return dataclasses.replace(found, responses=self.labels)

    def anova(self, type: int | str = 3) -> Anova:
        """F tests of the terms, type III unless ``type`` says otherwise, by this fit's ``df_method``.

        Parameters
        ----------
        type : {3, 2, 1}, or "III", "II", "I"
            lmerTest's. III: each term's means averaged over what contains it. II: each term beside all terms that do
            not contain it. I: each beside those before it, so the order of the terms matters. II and I are about the
            columns of X, with or without empty cells.

        Notes
        -----
        Type III tests are those of lmerTest's ``anova`` for formulas whose terms come with the terms they contain and
        the intercept (``a*b``, ``a*x``). Where lmerTest's answer depends on how the model is written, they are those
        of emmeans' ``joint_tests``: for nested terms (``a/b``, ``a + a:b``, ``x + a:x``, ``a*b - a``) lmerTest tests
        at the other factor's reference level, here means and slopes are averaged over it; without an intercept
        (``0 + a``, ``a*b - 1``) lmerTest tests that all means are zero, here that they are equal. Covariates count
        from zero, as in lmerTest; at their mean in :meth:`joint_tests`. Of a single term the types are the same.

        Terms are those of the formula, or of ``terms=`` in ``jaxlmm.fit``; without either each
        column of X but a constant one is a term.

        Raises
        ------
        ValueError
            Another ``type``; type III where some combination of levels has no row.
        """
        kind = table_type(type)
        X, structure = self.design.X, self.design.terms
        if structure is None:
            structure = make_terms_structure(None, self.names, np.flatnonzero((X == X[0]).all(axis=0)).tolist())
        return dataclasses.replace(fit_anova(self, structure, kind), responses=self.labels)

    def emmeans(
        self, specs: Any, by: Any = None, at: Any = None, *, weights: Any = "equal"
    ) -> EMMeans | MeansAndContrasts:
        """Estimated marginal means, as R's ``emmeans``.

        ``.pairs()`` and ``.contrast(method)`` of the result compare them.

        Parameters
        ----------
        specs : str or sequence of str
            The variables of the formula at whose levels means are wanted; covariates not among them stand at their
            means. R's formulas are read as R reads them: ``"~ a | b"``, ``"a * b"``, ``"~ 1"`` for the overall mean;
            ``"pairwise ~ a"`` gives both, ``.emmeans`` and ``.contrasts``.
        by : str or sequence of str, optional
            More such variables, within whose levels means are compared.
        at : mapping of str to value or values, optional
            Covariates: values in place of the mean. Factors: the levels to keep. Averages over a
            variable not in ``specs`` or ``by`` are over these values.
        weights : {"equal", "proportional", "outer", "cells", "flat"}, or sequence of float
            Of the levels of the other factors in an average, as emmeans': alike; as often as observed in the whole
            data; as the product of each factor's own frequencies; as often as observed in the cell; alike for what is
            observed in the cell. Frequencies are numbers of rows, the same for all responses, whatever they miss and
            whatever their weights, as emmeans has it of an lme4 fit. Numbers: one for each combination of their
            levels, the first factor varying fastest.

        Raises
        ------
        ValueError
            Unknown variables or levels, no variable, one in both ``specs`` and ``by``, a huge grid.
        """
        return self._means("emmeans", specs, by, at, weights)

    def emtrends(
        self, specs: Any, var: str, by: Any = None, at: Any = None, *, weights: Any = "equal"
    ) -> EMMeans | MeansAndContrasts:
        """Slopes of the covariate ``var`` at levels of other variables, as R's ``emtrends``.

        Parameters
        ----------
        specs, by, at, weights
            As in :meth:`emmeans`. ``at`` may name ``var``: where the slope of a curve is taken.
        var : str
            A covariate of the formula, also where it has only ``log(x)`` and the like: slopes are derivatives in x
            itself (central differences, exact to about 1e-9). Or what is computed of a covariate, ``"log(x)"``:
            slopes are derivatives in that, by the chain rule.

        Raises
        ------
        ValueError
            As :meth:`emmeans`; a factor as ``var``.
        """
        return self._means("emtrends", specs, by, at, weights, var)

    def joint_tests(self, by: Any = None, at: Any = None) -> JointTests:
        """F tests of the marginal means of every term, as R's ``joint_tests`` (emmeans).

        Of a factor that its means are equal, of an interaction that its contrasts of contrasts are 0; of a covariate
        that its mean slope is 0, all averaged with equal weights over what is not in the term. A covariate stands at
        its mean, where type III tests of :meth:`anova` count it from zero.

        Parameters
        ----------
        by : str or sequence of str, optional
            Variables at each of whose levels the others are tested.
        at : mapping, optional
            As in :meth:`emmeans`.

        Returns
        -------
        JointTests
            Denominators are emmeans': the smallest of the degrees of freedom of orthonormal contrasts, where
            :meth:`anova` has lmerTest's.
        """
        found = joint_tests(self._variables("joint_tests"), self.estimates, self.df_method, by, at)
        return dataclasses.replace(found, responses=self.labels)

    def _variables(self, what: str) -> Any:
        if self.source is None:
            raise ValueError(
                f"{what} needs the variables behind X: fit with jaxlmm.lmm(formula, data). With X alone, "
                "write the means as contrasts and use test(L)."
            )
        return self.source

    def _means(self, what: str, specs: Any, by: Any, at: Any, weights: Any, var: str | None = None) -> Any:
        source = self._variables(what)
        if what == "emtrends" and var is None:
            raise ValueError("emtrends needs var, the covariate whose slopes are wanted.")
        return emmeans(
            source, self.estimates, self.df_method, specs, by, at, weights, var=var, responses=self.labels,
        )  # fmt: skip

    # -- random effects, fitted values, predictions -------------------------------------------

    @functools.cached_property
    def _modes(self) -> tuple[Modes, ...]:
        return fit_modes(self)

    def ranef(self) -> dict[str, RandomEffects]:
        """Conditional modes (BLUPs) of each random term, as lme4's ``ranef``, by the names of :attr:`varcorr`.

        Returns
        -------
        dict of str to RandomEffects
            ``modes`` (m, levels, r), their conditional standard deviations ``sd`` (as ``condVar``) and their
            whole conditional covariances ``cov`` (m, levels, r, r). A level of which a response misses every
            observation has 0, and the standard deviation of the effects themselves.
        """
        out = {}
        for key, term, part in zip(term_keys(self.design.random), self.design.random, self._modes, strict=True):
            cov = part.covariance * self.sigma2[:, None, None, None]
            out[key] = RandomEffects(term.name, term.levels, term.columns, part.values, cov)
        return out

    def fitted(self, *, random: bool = True) -> np.ndarray:
        """Fitted values, (n_obs, m) as Y, with the random effects unless ``random=False``."""
        values = self._fixed_part(self.design.X)
        if random:
            for term, part in zip(self.design.random, self._modes, strict=True):
                values += random_part(part.values, term.codes, term.Z)
        return values

    def resid(self, *, random: bool = True) -> np.ndarray:
        """Residuals Y - fitted, (n_obs, m), not scaled by weights; NaN where Y is missing."""
        return self.Y - self.fitted(random=random)

    def predict(self, X_new: Any, groups_new: Any = None) -> np.ndarray:
        """Predictions for new rows, (n_new, m); NaN for rows that miss a covariate.

        Parameters
        ----------
        X_new : array-like, (n_new, p); or for a fit by formula a table, as :func:`jaxlmm.lmm` takes it
            The same columns as X; or the variables of the formula, and its groups if wanted. A random term of
            which a grouping column is not there adds nothing.
        groups_new : array-like, (n_new,); or dict of str to such, or to (labels, Z), optional
            Labels; the effects of their levels are added. Unknown levels, and None, get the population's
            prediction. A dict holds the labels of several random terms, by the names of ``varcorr``, with the
            columns Z (n_new, r) of slopes.
        """
        table = None if self.source is None else self.source.table(X_new)
        new_random = None
        if table is not None:
            if groups_new is None:
                new_random = self.source.random_rows(table, self.design)
            X_new = self.source.rows(table, missing=True)
        columns = getattr(X_new, "columns", None)
        if columns is not None and [str(c) for c in columns] != list(self.names):
            raise ValueError(
                f"X_new has the columns {', '.join(map(str, columns))}, the model {', '.join(self.names)}; "
                "select and order them alike, or pass a plain array."
            )
        X = np.asarray(numeric(X_new, "X_new"), dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self.design.n_fixef:
            raise ValueError(
                f"X_new must have shape (n_new, {self.design.n_fixef}) with columns "
                f"{', '.join(self.names)}; found {X.shape}."
            )
        values = self._fixed_part(X)
        offset = None if table is None else self.source.offsets(table)
        if offset is not None:
            values += offset[:, None]
        if groups_new is not None:
            new_random = self._new_labels(groups_new, len(X))
        if new_random:  # else the modes, which need Y, are not asked for
            for (codes, Z), part in zip(new_random, self._modes, strict=True):
                known = codes >= 0
                values[known] += random_part(part.values, codes[known], Z[known])
        return values

    def _new_labels(self, groups_new: Any, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Codes and columns of the random terms for labels that the user gives."""
        if not self.design.random:
            raise ValueError("groups_new was given, but the model has no random effect; leave it out.")
        given = groups_new if isinstance(groups_new, dict) else None
        if given is None and not self.design.has_one_intercept:
            terms = " + ".join(term.label for term in self.design.random)
            raise ValueError(
                f"the model has the random terms {terms}; give groups_new as a dict from the name of each "
                "term to its labels, or to (labels, Z) for slopes."
            )
        keys = term_keys(self.design.random)
        if given is not None and set(given) != set(keys):
            raise ValueError(
                f"groups_new has {', '.join(map(str, given))}, the model {', '.join(keys)}; give all of them."
            )
        out = []
        for key, term in zip(keys, self.design.random, strict=True):
            labels, Z = (groups_new, None) if given is None else (given[key], None)
            if isinstance(labels, tuple) and len(labels) == 2 and np.ndim(labels[1]) == 2:
                labels, Z = labels
            codes = group_codes(term, labels)
            if codes.shape != (n,):
                raise ValueError(f"groups_new has {len(codes)} labels, X_new has {n} rows; need one per row.")
            columns = np.ones((n, 1)) if Z is None else np.asarray(numeric(Z, "groups_new"), dtype=np.float64)
            if columns.shape != (n, term.size):
                raise ValueError(
                    f"random term {term.label} needs its {term.size} columns for new rows: give (labels, Z) with Z "
                    f"of shape {(n, term.size)}, found {columns.shape}."
                )
            out.append((codes, columns))
        return out

    # -- variance explained -------------------------------------------------------------------

    @property
    def rsquared_marginal(self) -> np.ndarray:
        """Share that the fixed effects explain, (m,) (Nakagawa & Schielzeth 2013); weights as in ``icc``."""
        fixed, total = self._variance_parts()
        return fixed / total

    @property
    def rsquared_conditional(self) -> np.ndarray:
        """Share explained by fixed and random effects, (m,) (Nakagawa & Schielzeth 2013); weights as in ``icc``."""
        fixed, total = self._variance_parts()
        return (fixed + self._random_variance) / total

    # -- choosing and showing -----------------------------------------------------------------

    def select(self, responses: Any) -> Fit:
        """The fit of some responses only: positions, a slice, a mask, or names."""
        where = self.labels.positions(responses)
        return self._take(where, self.labels.take(where))

    def sel(
        self,
        indexers: Mapping[Hashable, Any] | None = None,
        *,
        method: str | None = None,
        tolerance: Any = None,
        drop: bool = False,
        **labels: Any,
    ) -> Fit:
        """The fit of the responses with these labels, as xarray's ``sel``. Needs xarray.

        Parameters
        ----------
        indexers : mapping, optional
            Labels by dimension, where the name of a dimension cannot be written as an argument.
        method, tolerance, drop
            As in ``xarray.DataArray.sel``; "nearest" takes the nearest label.
        **labels
            Labels by dimension: one, which drops the dimension; several; a slice, of which both ends
            belong to it. ``fit.sel(channel="Cz", time=slice(0.2, 0.4))``.

        Raises
        ------
        ValueError
            No such dimension or label.
        """
        wanted = dict(indexers or {}) | dict[Hashable, Any](labels)
        return self._take(*self.labels.locate("sel", wanted, method=method, tolerance=tolerance, drop=drop))

    def isel(self, indexers: Mapping[Hashable, Any] | None = None, *, drop: bool = False, **positions: Any) -> Fit:
        """The fit of the responses at these positions along their dimensions, as xarray's ``isel``. Needs xarray.

        Parameters
        ----------
        indexers, **positions
            Positions by dimension: one, which drops the dimension; several; a slice; a mask.
        drop
            As in ``xarray.DataArray.isel``.

        Raises
        ------
        ValueError
            No such dimension or position.
        """
        wanted = dict(indexers or {}) | dict[Hashable, Any](positions)
        return self._take(*self.labels.locate("isel", wanted, drop=drop))

    def _take(self, where: np.ndarray, labels: Labels) -> Fit:
        rows = {name: getattr(self, name)[where] for name in ROWS}
        weights = None if self.weights is None else self.weights[:, where]
        known = None if self.known is None else self.known.at(where)
        return dataclasses.replace(self, **rows, Y=self.Y[:, where], labels=labels, weights=weights, known=known)

    def __len__(self) -> int:
        return self.n_responses

    def __getitem__(self, responses: Any) -> Fit:
        """The fit of one response, by position or name, or of some as in :meth:`select`."""
        one = isinstance(responses, (str, numbers.Integral)) and not isinstance(responses, bool)
        return self.select([self.labels.position(responses)] if one else responses)

    def __iter__(self) -> Iterator[Fit]:
        return (self[i] for i in range(len(self)))

    def summary(self, response: int | str | None = None, *, level: float = 0.95) -> Text:
        """What came out, as a text that prints itself.

        Parameters
        ----------
        response : int or str, optional
            Position or name of a response, whose table is shown in statsmodels' style. Default: the
            only one; of several responses an overview, with the numbers of significant, singular and
            failed ones.
        level : float
            Of the intervals of a table; of an overview 1 - ``level`` is the bound of the p-values.

        Returns
        -------
        Text
            A ``str`` that shows itself in a terminal and in a notebook.
        """
        if response is None and self.n_responses > 1:
            return overview(self, level)
        i = self.labels.position(0 if response is None else response)
        return summary_text(self.select([i]), self.response_names[i], level)

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    # -- names that statsmodels uses --------------------------------------------------------------

    @property
    def params(self) -> np.ndarray:
        """``coef``, by statsmodels' name."""
        return self.coef

    @property
    def bse(self) -> np.ndarray:
        """``se``, by statsmodels' name."""
        return self.se

    @property
    def tvalues(self) -> np.ndarray:
        """``statistic``, by statsmodels' name."""
        return self.statistic

    @property
    def pvalues(self) -> np.ndarray:
        """``pvalue``, by statsmodels' name."""
        return self.pvalue

    # -- inner --------------------------------------------------------------------------------

    def _fixed_part(self, X: np.ndarray) -> np.ndarray:
        """X coef for rows of X, (rows, m)."""
        return self.model.family.basis.columns.product(X, self.coef.T)

    def _variance_parts(self) -> tuple[np.ndarray, np.ndarray]:
        fixed = fixed_variance(self)
        return fixed, fixed + self._random_variance + self.sigma2 / self._mean_weight

    @functools.cached_property
    def _random_variance(self) -> np.ndarray:
        """Mean variance of the random effects over the observations of each response, (m,) (Johnson 2014)."""
        return random_variance(self)

    @functools.cached_property
    def _sampling(self) -> tuple[np.ndarray, np.ndarray]:
        return hypotheses.covariance_se(self.estimates)

    def _one_intercept(self, what: str) -> np.ndarray:
        """Variance ratio of the one random intercept, 0 without a random effect; an error for other terms."""
        if not self.design.random:
            return np.where(np.isnan(self.sigma2), np.nan, 0.0)
        if not self.design.has_one_intercept:
            terms = " + ".join(term.label for term in self.design.random)
            raise ValueError(f"{what} is that of one random intercept, and this model has {terms}; see fit.varcorr.")
        return self.theta[:, 0] ** 2

    @functools.cached_property
    def _mean_weight(self) -> np.ndarray:
        """Mean weight of the observations of each response, (m,)."""
        return mean_weight(self)
