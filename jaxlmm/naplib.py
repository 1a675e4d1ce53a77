"""A stand-in for naplib's LinearMixedEffectsModel: its interface and conventions on top of ``jaxlmm.fit``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jaxlmm import plots
from jaxlmm.design.arrays import numeric
from jaxlmm.design.groups import random_term
from jaxlmm.design.rows import check_rows
from jaxlmm.doors.fit import fit
from jaxlmm.results.results import Fit

__all__ = ["LinearMixedEffectsModel"]

# Numbers of the responses whose residuals are formed at once by ``rsquared``.
RESIDUALS_AT_ONCE = 2**23


class LinearMixedEffectsModel:
    """A linear model with an intercept and optional random intercepts, for effect plots.

    A drop-in replacement of ``naplib.stats.LinearMixedEffectsModel`` that also takes many
    responses at once and does not need statsmodels.

    .. warning::
       The default ``df="normal"`` gives the z tests of statsmodels and naplib. With few groups
       (subjects) these are anti-conservative: p-values are too small and intervals too short, the
       more so for features that vary mainly between groups. ``df="residual"`` gives t tests with
       n - p degrees of freedom; see ``jaxlmm.fit`` for this and the other methods on offer.

    Parameters
    ----------
    alpha : float, default 0.05
        Intervals have level 1 - alpha.
    zscore_x : bool, default False
        Whether ``fit`` z-scores the columns of X, with the population's standard deviation.
    df : str, default "normal"
        Degrees of freedom of tests and intervals, as in ``jaxlmm.fit``.

    Attributes
    ----------
    varnames : list of str
        Names of the features, then of y; empty before ``fit``.

    Notes
    -----
    The model is fitted by REML. Tables (``params``, ``pvalues``, ``conf_int``) need pandas and are
    made when asked for; ``get_model_params`` and everything else work without it.

    Estimates are those of statsmodels. Standard errors are the generalised least squares ones, as in
    R's lme4. statsmodels inverts the Hessian of effects and variance together, which makes its
    standard errors a little larger where the design is unbalanced and groups are few; they are the
    same where features have the same mean in groups of one size.

    Without a random effect the model is ordinary least squares. naplib fits a random effect with
    a single group there: what it says of the features is the same, but its standard error of the
    intercept and its group variance mean nothing.
    """

    def __init__(self, alpha: float = 0.05, zscore_x: bool = False, *, df: str = "normal") -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, found {alpha}; 0.05 gives 95 % intervals.")
        self.varnames: list[str] = []
        self._alpha = alpha
        self._zscore_x = zscore_x
        self._df = df
        self._result: Fit | None = None
        self._one_response = True
        self._random_names: list[str] = []

    def fit(
        self, X: Any, y: Any, random_effect: Any = None, varnames: Sequence[str] | None = None
    ) -> LinearMixedEffectsModel:
        """Fit the model to every response.

        Parameters
        ----------
        X : array-like, (n, n_features)
            Features. An intercept is always added before them.
        y : array-like, (n,) or (n, m)
            One response, or m responses in columns. Its number of dimensions decides between
            results for one response and results with one row per response.
        random_effect : array-like, (n,) or (n, 1), or list of these, optional
            Hashable labels of the groups, such as subjects. A list of label arrays makes a random intercept
            of each: subjects and items, say. None: no random effect.
        varnames : sequence of str, optional
            Names of the features, then, if they are to have some, of the random effects, then of y.
            Default: feature-0, feature-1, ..., Group (or Group-0, Group-1, ...), y.

        Returns
        -------
        LinearMixedEffectsModel
            This model.

        Raises
        ------
        ValueError
            If labels are no labels, ``varnames`` has the wrong length, a feature
            to be z-scored is constant, or ``jaxlmm.fit`` refuses the data.
        """
        effects = _random_effects(random_effect, len(X) if hasattr(X, "__len__") else 0)
        for labels in effects or [None]:
            check_rows(X=X, y=y, random_effect=labels)
        features = np.array(numeric(X, "X"), dtype=np.float64)
        if features.ndim != 2:
            hint = "; for one feature use X[:, None]" if features.ndim == 1 else ""
            raise ValueError(f"X must have 2 dimensions (n, n_features), found shape {features.shape}{hint}.")
        for labels in effects:
            _check_one_random_effect(labels)
        feature_names, random_names, y_name = _split_names(varnames, features.shape[1], len(effects))
        if self._zscore_x:
            features = _zscored(features, feature_names)

        if np.ndim(y) not in (1, 2):
            raise ValueError(f"y must have shape (n,) or (n, m), found {np.shape(y)}.")
        one_response = np.ndim(y) == 1
        if one_response:
            response_names: list[str] | None = [y_name]
        elif hasattr(y, "columns") or varnames is None or np.ndim(y) != 2:
            response_names = None  # a data frame's own, or y0, y1, ...
        else:
            response_names = [f"{y_name}{j}" for j in range(np.shape(y)[1])]
        result = fit(
            np.column_stack([np.ones(len(features)), features]), y, df=self._df,
            names=["Intercept", *feature_names], response_names=response_names,
            **_random_options(effects, random_names),
        )  # fmt: skip

        # Set together at the end: a refused fit leaves the previous one whole.
        self._result = result
        self._one_response = one_response
        self._random_names = random_names
        self.varnames = [*feature_names, y_name]
        return self

    @property
    def result(self) -> Fit:
        """The underlying fit, with all that ``jaxlmm.Fit`` offers."""
        if self._result is None:
            raise RuntimeError("call fit first: there are no results yet.")
        return self._result

    @property
    def mixedlm_results(self) -> Fit:
        """The same as ``result``, under the name that naplib uses."""
        return self.result

    # -- tables -------------------------------------------------------------------------------

    @property
    def params(self) -> Any:
        """Estimates of intercept, features and "<random effect> Var".

        As in statsmodels, the last entry is the group variance divided by the residual variance, one for
        each random effect; it is 0 without a random effect. Spaces and dashes are left out of the terms' names, as
        naplib does.

        Returns
        -------
        pandas.Series, indexed by term, for y (n,)
        pandas.DataFrame, responses by terms, for y (n, m)
        """
        result = self.result
        ratios = [V[:, 0, 0] / result.sigma2 for V in result.varcorr.values()] or [result.lam]
        return self._table(result.coef, np.column_stack(ratios))

    @property
    def pvalues(self) -> Any:
        """Two-sided p-values, laid out as ``params``; NaN for the variance, which is not tested."""
        return self._table(self.result.pvalue)

    @property
    def conf_int(self) -> Any:
        """Intervals of level 1 - alpha; NaN for the variance, which has no Wald interval.

        Returns
        -------
        pandas.DataFrame
            Columns 0 and 1 are the lower and the upper limit. Rows are indexed by term for
            y (n,), by response and term for y (n, m).
        """
        return self._table(self.result.conf_int(1 - self._alpha))

    def get_model_params(self) -> dict[str, np.ndarray]:
        """Numbers of the features alone, without intercept and variance.

        Returns
        -------
        dict of str to ndarray
            ``"params"`` and ``"pvalues"``, (k,), and ``"conf_int"``, (k, 2), for k features and
            y (n,). For y (n, m) each has m as a first axis more.

        Raises
        ------
        RuntimeError
            Before ``fit``.
        """
        result = self.result
        arrays = {
            "params": result.coef,
            "pvalues": result.pvalue,
            "conf_int": result.conf_int(1 - self._alpha),
        }
        return {key: a[0, 1:] if self._one_response else a[:, 1:] for key, a in arrays.items()}

    # -- showing ------------------------------------------------------------------------------

    def summary(self, response: int | str = 0) -> None:
        """Print the table of one response, given by position or name."""
        print(self.result.summary(response, level=1 - self._alpha))

    @property
    def rsquared(self) -> float | np.ndarray:
        """1 - RSS / TSS: a float for y (n,), an array (m,) for y (n, m).

        The residuals are those that the random effects leave too, as statsmodels' ``resid``, and
        the total is about y's mean. A response that could not be fitted has NaN.
        """
        result = self.result
        ratio = np.empty(result.n_responses)
        width = max(1, RESIDUALS_AT_ONCE // result.n_obs)
        for start in range(0, result.n_responses, width):
            part = result.select(slice(start, start + width))
            y = part.Y.astype(np.float64)
            with np.errstate(all="ignore"):  # responses that could not be fitted
                rss = np.sum(part.resid() ** 2, axis=0)
                tss = np.sum((y - y.mean(axis=0)) ** 2, axis=0)
                ratio[start : start + width] = rss / tss
        return float(1 - ratio[0]) if self._one_response else 1 - ratio

    def plot_effects(
        self,
        ax: Axes | None = None,
        plus_minus_colors: Any = None,
        line_alpha: float = 0.6,
        markersize: float = 8,
        center_zero: bool = True,
        print_ylabels: bool = True,
        response: int | str = 0,
    ) -> Axes:
        """Draw the features' effects, one row each: interval as a line, estimate as a marker.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: the current axes.
        plus_minus_colors : sequence of two colours, optional
            For effects whose whole interval is above 0, and below 0. Default red, blue. All other
            effects are grey.
        line_alpha : float
            Opacity of the intervals.
        markersize : float
            Size of the markers, in points.
        center_zero : bool
            Put 0 in the middle of the x axis.
        print_ylabels : bool
            Show the names of the features.
        response : int or str
            Which response to draw, by position or name.

        Returns
        -------
        Axes
            The axes drawn on.
        """
        one = self.result.select([response])
        limits = one.conf_int(1 - self._alpha)[0, 1:]
        return plots.plot_effects(
            one.coef[0, 1:], limits[:, 0], limits[:, 1], self.varnames[:-1], ax=ax,
            plus_minus_colors=plus_minus_colors, line_alpha=line_alpha, markersize=markersize,
            center_zero=center_zero, print_ylabels=print_ylabels,
        )  # fmt: skip

    # -- inner --------------------------------------------------------------------------------

    def _table(self, fixed: np.ndarray, variance: np.ndarray | None = None) -> Any:
        """Values (m, p) or (m, p, 2) of the fixed effects, then those of the variances, as a table."""
        pandas = _import_pandas()
        p, names = fixed.shape[1], [*self.result.names, *self._random_names]
        values = np.full((fixed.shape[0], len(names), *fixed.shape[2:]), np.nan)
        values[:, :p] = fixed
        if variance is not None:
            values[:, p:] = variance
        terms = [name.replace(" ", "").replace("-", "") for name in names]
        terms[p:] = [f"{name} Var" for name in terms[p:]]
        responses = self.result.response_names
        if fixed.ndim == 2:
            if self._one_response:
                return pandas.Series(values[0], index=terms)
            return pandas.DataFrame(values, index=list(responses), columns=terms)
        if self._one_response:
            return pandas.DataFrame(values[0], index=terms)
        rows = pandas.MultiIndex.from_product([responses, terms], names=["response", "term"])
        return pandas.DataFrame(values.reshape(-1, 2), index=rows)


def _import_pandas() -> Any:
    """Import pandas late: it is optional, and only the tables need it."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError('tables need pandas, which is missing; pip install "jaxlmm[pandas]" brings it.') from error
    return pandas


def _random_effects(random_effect: Any, n: int) -> list[Any]:
    """The label arrays of the random effects: none, one, or those of a list."""
    if random_effect is None:
        return []
    if isinstance(random_effect, (list, tuple)) and len(random_effect) != n and len(random_effect) > 0:
        parts = list(random_effect)
        if all(hasattr(part, "__len__") and not isinstance(part, (str, bytes)) and len(part) == n for part in parts):
            return parts
    return [random_effect]


def _random_options(effects: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """How ``jaxlmm.fit`` is told of the random effects."""
    if not effects:
        return {}
    if len(effects) == 1:
        return {"groups": effects[0], "group_name": names[0]}
    return {"random": [random_term(labels, name=name) for labels, name in zip(effects, names, strict=True)]}


def _check_one_random_effect(random_effect: Any) -> None:
    shape: tuple[int, ...] = getattr(random_effect, "shape", ())
    if len(shape) == 2 and shape[1] != 1:
        raise ValueError(
            f"random_effect has shape {shape}; for {shape[1]} random effects give a list of label arrays, each (n,)."
        )


def _split_names(varnames: Sequence[str] | None, n_features: int, n_random: int) -> tuple[list[str], list[str], str]:
    """Names of the features, of the random effects and of y."""
    default = ["Group"] if n_random < 2 else [f"Group-{j}" for j in range(n_random)]
    if varnames is None:
        return [f"feature-{j}" for j in range(n_features)], default, "y"
    names = [str(v) for v in varnames]
    short, long = n_features + 1, n_features + 1 + n_random
    if len(names) == short:
        return names[:-1], default, names[-1]
    if n_random and len(names) == long:
        return names[:n_features], names[n_features:-1], names[-1]
    what = "one for the random effect" if n_random == 1 else f"{n_random} for the random effects"
    expected = f"{short} names, or {long} with {what} before y's," if n_random else f"{short} names"
    raise ValueError(f"varnames: expected {expected} for {n_features} features and y, got {len(names)}.")


def _zscored(features: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Columns less their mean, divided by their population's standard deviation."""
    # A column with NaN stays as it is, so that the error that follows names the right row.
    finite = np.isfinite(features).all(axis=0)
    columns = features[:, finite]
    # Not std == 0: rounding of the mean leaves a constant column a tiny deviation.
    same = [names[j] for j in np.flatnonzero(finite)[np.all(columns == columns[:1], axis=0)]]
    if same:
        raise ValueError(
            f"these columns of X are constant, so they cannot be z-scored: {', '.join(same)}; drop them "
            "(the model adds an intercept itself)."
        )
    out = features.copy()
    out[:, finite] = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    return out
