"""A fit without its responses, as it comes from a file that does not hold them."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlmm.inference.anova import Anova
from jaxlmm.inference.estimates import Estimates
from jaxlmm.results.derived import fit_estimates
from jaxlmm.results.results import Fit
from jaxlmm.storage.absent import AbsentY

__all__ = ["FitWithoutY"]

SEED = 0x6A61786C6D6D


@dataclass(frozen=True, eq=False)
class _Cells:
    """Responses of noise, NaN where missing: enough for what depends on X and on which cells there are."""

    absent: AbsentY
    dtype = np.dtype(np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_obs, m)."""
        return self.absent.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: tuple[slice, Any]) -> np.ndarray:
        none = np.zeros((len(self.absent.bits), 1), dtype=np.uint8)
        bits = np.concatenate([self.absent.bits, none], axis=1)[:, self.absent.column[key[1]]]
        n = self.absent.shape[0]
        # A seed that no one else has: a column of X as response would leave no residual.
        noise = np.random.default_rng(SEED).standard_normal(n).reshape(n, *[1] * (bits.ndim - 1))
        return np.where(np.unpackbits(bits, axis=0, count=n), np.nan, noise)


class FitWithoutY(Fit):
    """A fit that was loaded without its responses."""

    @functools.cached_property
    def estimates(self) -> Estimates:
        """The fits as the arrays that tests and intervals work on."""
        return fit_estimates(self._with_cells())

    @functools.cached_property
    def group_sizes(self) -> np.ndarray:
        """Observations of each group that the response was fitted to, (m, G)."""
        return self._with_cells().group_sizes

    def _variance_parts(self) -> tuple[np.ndarray, np.ndarray]:
        return self._with_cells()._variance_parts()

    @functools.cached_property
    def _random_variance(self) -> np.ndarray:
        return self._with_cells()._random_variance

    def anova(self, type: int | str = 3) -> Anova:
        """See :meth:`Fit.anova`; types I and II ask which rows each response has."""
        return self._with_cells().anova(type)

    @functools.cached_property
    def _mean_weight(self) -> np.ndarray:
        return self._with_cells()._mean_weight

    def _with_cells(self) -> Fit:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Fit(**fields | {"Y": _Cells(self.Y)})  # type: ignore[arg-type]
