"""Ways out of a result: tables, labelled arrays, files. The edges that do the work load when asked for."""

from __future__ import annotations

import importlib
from typing import Any

from jaxlmm.tabular.dataset import fit_dataset

__all__ = ["Exports", "edge"]


def edge(module: str, name: str) -> Any:
    """``name`` of an edge module, which may need packages that the core does without."""
    return getattr(importlib.import_module(f"jaxlmm.{module}"), name)


class Exports:
    """Methods of a result that hand it to an edge; no state."""

    def tidy(self, **options: Any) -> Any:
        """One row an estimate, as broom.mixed's ``tidy``; see :func:`jaxlmm.tables.tidy`. Needs pandas."""
        return edge("results.tables", "tidy")(self, **options)

    def glance(self) -> Any:
        """One row a response, as broom.mixed's ``glance``; see :func:`jaxlmm.tables.glance`. Needs pandas."""
        return edge("results.tables", "glance")(self)

    def augment(self, response: int | str = 0, **options: Any) -> Any:
        """One row an observation of one response; see :func:`jaxlmm.tables.augment`. Needs pandas."""
        return edge("results.tables", "augment")(self, response, **options)

    def to_dataset(self, level: float = 0.95, *, df: str | None = None, ranef: bool = False) -> Any:
        """All results, with the dimensions and coordinates of the responses. Needs xarray.

        Parameters
        ----------
        level : float
            Of the Wald intervals ``conf_low`` to ``conf_high``.
        df : str, optional
            Another way to find degrees of freedom; see :func:`jaxlmm.fit`.
        ranef : bool
            Whether to add ``ranef`` (group, *dims), the conditional modes; this needs Y.

        Returns
        -------
        xarray Dataset
            ``coef``, ``se``, ``statistic``, ``df``, ``pvalue``, ``conf_low``, ``conf_high`` with
            dimensions (term, *dims), all others with (*dims). ``status`` holds numbers, and what
            they mean in its attributes. It can be written as netCDF or Zarr, but for a MultiIndex.
        """
        fit: Any = self
        return fit_dataset(fit if df is None else fit.with_df(df), fit.labels, level, ranef)

    def save(self, path: Any, **options: Any) -> None:
        """Write to a file that ``jaxlmm.load`` reads; see :func:`jaxlmm.storage.save`."""
        edge("storage.storage", "save")(self, path, **options)
