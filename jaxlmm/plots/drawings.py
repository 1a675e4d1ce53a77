"""``fit.plot``, ``test.plot``, ``means.plot``: the pictures of a result, as methods of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from jaxlmm import plots
from jaxlmm.inference.emmeans import EMMeans
from jaxlmm.resampling.result import PermutationTest
from jaxlmm.runtime.text import Text

__all__ = ["Drawings", "drawings"]

Groups = dict[str, tuple[str, ...]]

ALL: Groups = {
    "Of all responses": ("volcano", "stat_maps", "topomap", "forest", "pvalue_histogram", "icc_distribution"),
    "Over time, or another dimension": ("time_course", "erp", "effect_by_lag"),
    "Of one response": (
        "marginal_means", "group_lines", "caterpillar", "residual_plot", "qq_plot",
    ),
}  # fmt: skip
OF_TESTS: Groups = {"Of a permutation test": ("cluster_map", "null_distribution")}
OF_MEANS: Groups = {"Of marginal means": ("marginal_means", "erp")}


class Drawings:
    """The pictures of one result: printed, they are listed; each is a method, with its docstring.

    ``fit.plot.volcano("dose")`` is ``jaxlmm.plots.volcano(fit, "dose")``.
    """

    def __init__(self, result: Any, groups: Groups):
        self._result, self._groups = result, groups

    def _names(self) -> list[str]:
        return [name for names in self._groups.values() for name in names]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or name not in self._names():
            raise AttributeError(f"there is no picture {name!r}; there are {', '.join(self._names())}.")
        draw = getattr(plots, name)

        @functools.wraps(draw)
        def method(*arguments: Any, **options: Any) -> Any:
            return draw(self._result, *arguments, **options)

        signature = inspect.signature(draw)
        method.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
        return method

    def __dir__(self) -> list[str]:
        return sorted(self._names())

    def __repr__(self) -> str:
        return str(self._text())

    def _repr_html_(self) -> str:
        return self._text()._repr_html_()

    def _text(self) -> Text:
        """A line for each picture: the first of its docstring."""
        width = max(map(len, self._names()))
        lines = [f"Pictures of a {type(self._result).__name__}; each takes ax=, and returns the axes."]
        for title, names in self._groups.items():
            lines += ["", title]
            for name in names:
                said = str(inspect.getdoc(getattr(plots, name))).splitlines()[0]
                lines.append(f"  {name:<{width}}  {said}")
        return Text("\n".join(lines))


def drawings(result: Any) -> Drawings:
    """The pictures of a result."""
    if isinstance(result, PermutationTest):
        return Drawings(result, OF_TESTS)
    return Drawings(result, OF_MEANS if isinstance(result, EMMeans) else ALL)
