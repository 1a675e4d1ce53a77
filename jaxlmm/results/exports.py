"""Ways out of a result: tables, labelled arrays, files. The edges that do the work load when asked for."""

from __future__ import annotations

import importlib
from typing import Any

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

    def to_xarray(self, *args: Any, **options: Any) -> Any:
        """A labelled Dataset; see :func:`jaxlmm.labelled.to_xarray`. Needs xarray."""
        return edge("labelled.labelled", "to_xarray")(self, *args, **options)

    def save(self, path: Any, **options: Any) -> None:
        """Write to a file that ``jaxlmm.load`` reads; see :func:`jaxlmm.storage.save`."""
        edge("storage.storage", "save")(self, path, **options)
