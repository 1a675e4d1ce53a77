"""Tables of effects in the place of fits: what pictures of all responses need, by the columns of broom's names."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlmm._types import Status
from jaxlmm.inference import tails
from jaxlmm.inference.distributions import halfwidth
from jaxlmm.runtime.arguments import shown
from jaxlmm.runtime.extras import extra
from jaxlmm.tabular.labels import Coord, Labels

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Effects", "fit_or_table"]

OF_ONE = ("estimate", "std.error", "statistic", "df", "p.value")
NEEDED = ("effect", "term", *OF_ONE)
# What the effect of a table is called that does not say which it is of.
ESTIMATE = "Estimate"


def fit_or_table(fit: Any) -> Any:
    """A fit as it is; a table of effects, ``fit.tidy()`` or ``fit.top(term)``, as what pictures ask a fit for.

    Raises
    ------
    ValueError
        Neither of them.
    """
    if hasattr(fit, "coef") and hasattr(fit, "names"):
        return fit
    from jaxlmm.sources.table import as_frame, is_table  # needs pandas

    if not is_table(fit):
        raise ValueError(f"fit must be a Fit, or a table such as fit.tidy(), found {shown(fit)}.")
    return Effects.of_table(as_frame(fit), "the table", "fit.tidy() or fit.top(term)")


@dataclass(frozen=True, eq=False)
class Effects:
    """The fixed effects of a table: what pictures of all responses ask a fit for.

    Attributes
    ----------
    names : tuple of str, length p
    labels : Labels
        Of m responses.
    coef, se, statistic, df, pvalue : ndarray, (m, p)
    """

    names: tuple[str, ...]
    labels: Labels
    coef: np.ndarray
    se: np.ndarray
    statistic: np.ndarray
    df: np.ndarray
    pvalue: np.ndarray

    @classmethod
    def of_table(cls, frame: pd.DataFrame, what: str, give: str) -> Effects:
        """Of what :func:`jaxlmm.Fit.tidy` or :func:`jaxlmm.Fit.top` gives; ValueError for any other table.

        ``what`` and ``give`` are for messages: the table, and what to give in its place.
        """
        if "term" not in frame and not set(OF_ONE) - set(frame.columns):  # the top table of one effect
            frame = frame.assign(effect="fixed", term=ESTIMATE)
            first = "estimate"
        else:
            first = "effect" if "effect" in frame else "term"
            frame = frame if "effect" in frame else frame.assign(effect="fixed")
        missing = [name for name in NEEDED if name not in frame]
        if missing:
            raise ValueError(f"{what} has no column {missing[0]!r}: it is no table of effects; give {give}.")
        fixed = frame[frame["effect"] == "fixed"]
        names = tuple(fixed["term"].astype(str).unique())
        if not names or len(fixed) % len(names) or not (_grid(fixed["term"], names) == np.array(names)).all():
            raise ValueError(f"{what} does not hold the same effects of each response; was it sorted or cut?")
        numbers = {name: _grid(fixed[name].astype(float), names) for name in NEEDED[2:]}
        keys = list(frame.columns[: frame.columns.get_loc(first)])
        labels = _labels(fixed[keys].iloc[:: len(names)].reset_index(drop=True))
        return cls(names, labels, *numbers.values())

    @property
    def response_names(self) -> tuple[str, ...]:
        """A text for each response."""
        return self.labels.names

    @property
    def n_responses(self) -> int:
        """Number of responses, m."""
        return len(self.coef)

    @property
    def dims(self) -> tuple[Any, ...]:
        """Dimensions of the responses."""
        return self.labels.dims

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the dimensions of the responses."""
        return self.labels.shape

    @property
    def converged(self) -> np.ndarray:
        """Whether a response has a fit, (m,)."""
        return ~np.isnan(self.coef).all(axis=1)

    @property
    def status(self) -> np.ndarray:
        """Outcome, (m,): a table says no more than whether there is a fit."""
        return np.where(self.converged, Status.OK, Status.NONFINITE)

    @functools.cached_property
    def neglog10p(self) -> np.ndarray:
        """As of a fit."""
        return tails.neglog10_pvalues(self.statistic, self.df)

    @functools.cached_property
    def zscore(self) -> np.ndarray:
        """As of a fit."""
        return tails.zscores(self.statistic, self.df)

    def conf_int(self, level: float = 0.95) -> np.ndarray:
        """Wald intervals, (m, p, 2)."""
        half = halfwidth(level, self.df) * self.se
        return np.stack([self.coef - half, self.coef + half], axis=-1)

    def select(self, rows: Any) -> Effects:
        """Some responses."""
        where = self.labels.positions(rows)
        return self._take(where, self.labels.take(where))

    def isel(self, indexers: Mapping[Hashable, Any]) -> Effects:
        """Those at some positions along their dimensions, as of a fit. Needs xarray."""
        return self._take(*self.labels.locate("isel", indexers))

    def _take(self, where: np.ndarray, labels: Labels) -> Effects:
        arrays = {name: getattr(self, name)[where] for name in ("coef", "se", "statistic", "df", "pvalue")}
        return dataclasses.replace(self, labels=labels, **arrays)


def _grid(column: pd.Series, names: Sequence[str]) -> np.ndarray:
    return column.to_numpy().reshape(-1, len(names))


def _labels(keys: pd.DataFrame) -> Labels:
    """Labels of responses that these columns name: dimensions if all combinations of labels are there, in order."""
    pd = extra("pandas", "tables")
    levels = [pd.unique(keys[name]) for name in keys]
    shape = tuple(map(len, levels))
    grid = list(itertools.product(*levels))
    plain = list(keys.columns) in (["response"], [])
    if plain or len(grid) != len(keys) or grid != list(keys.itertuples(index=False, name=None)):
        return Labels.of_matrix(len(keys), [", ".join(map(str, row)) for row in keys.itertuples(index=False)])
    dims = tuple(map(str, keys.columns))
    coords = {dim: Coord((dim,), np.asarray(values)) for dim, values in zip(dims, levels, strict=True)}
    return Labels(dims, shape, coords)  # type: ignore[arg-type]
