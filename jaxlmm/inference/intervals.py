"""Profile likelihood intervals of all responses, by whatever way their family knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special

from jaxlmm.families.base import Family
from jaxlmm.inference.distributions import check_level
from jaxlmm.inference.tabular import Table, Tabular
from jaxlmm.sources.weighted import values_of

__all__ = ["Profile", "profile_intervals"]


@dataclass(frozen=True, eq=False, repr=False)
class Profile(Tabular):
    """Profile likelihood intervals of m responses; NaN where a search did not end.

    Attributes
    ----------
    level : float
    labels : tuple of str, length K
        The standard deviations and correlations of the random effects, as R's ``confint(oldNames=FALSE)``.
    random : ndarray, (m, K, 2)
        Their lower and upper limits.
    sigma : ndarray, (m, 2)
        Of the residual standard deviation.
    coef : ndarray, (m, p, 2)
    names : tuple of str
        Of the coefficients.
    """

    level: float
    labels: tuple[str, ...]
    random: np.ndarray
    sigma: np.ndarray
    coef: np.ndarray
    names: tuple[str, ...] = ()

    def _table(self, level: float) -> Table:
        limits = np.concatenate([self.random, self.sigma[:, None], self.coef], axis=1)
        names = self.names or tuple(f"x{j}" for j in range(self.coef.shape[1]))
        axes = {"parameter": (*self.labels, "sigma", *names)}
        title = f"Profile likelihood intervals, level {self.level:g}"
        return Table(title, axes, {"conf_low": limits[..., 0], "conf_high": limits[..., 1]})

    @property
    def group_sd(self) -> np.ndarray:
        """Limits of the group standard deviation of one random intercept, (m, 2); NaN without one."""
        if len(self.labels) > 1:
            raise ValueError("group_sd is that of one random intercept; see random and labels.")
        return self.random[:, 0] if self.labels else np.full((len(self.sigma), 2), np.nan)


def profile_intervals(
    family: Family, Y: Any, good: np.ndarray, incomplete: np.ndarray, level: float, labels: Sequence[str]
) -> Profile:
    """Profile likelihood intervals; the models are fitted by maximum likelihood on the way.

    Parameters
    ----------
    family : Family
    Y : ndarray or WeightedMatrix, (n_obs, m)
    good : ndarray of bool, (m,)
        Responses that have a fit; the others get NaN.
    incomplete : ndarray of int
        Those that miss observations, or have weights of their own.
    level : float
    labels : sequence of str
        Of the random effects' parameters.
    """
    check_level(level)
    cut = float(scipy.special.chdtri(1, 1 - level))
    complete = good.copy()
    complete[incomplete] = False
    if len(incomplete) < len(good):
        found = family.profile(values_of(Y), complete, cut)
    else:
        m, p = len(good), family.design.n_fixef
        found = np.empty((m, len(labels), 2)), np.empty((m, 2)), np.empty((m, p, 2))
    if len(incomplete):
        for whole, some in zip(found, family.profile_incomplete(Y, incomplete, cut), strict=True):
            whole[incomplete] = some
    return Profile(level, tuple(labels), *found)
